"""The fault bench itself: that real jobs pass it, and that it finds what it is there to find."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lib_ti.bench.fault_cases import check
from lib_ti.bench.fault_places import broken_files, contents, left_behind
from lib_ti.bench.fault_runs import Finding, Ran
from lib_ti.core.job import Job

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every job loads the model for itself: minutes")
def test_one_fault_of_each_kind_and_two_kills_lose_nothing_but_steps_since_the_last_save() -> None:
    # In a process of its own: one that has learned something must not be forked.
    told = subprocess.run(
        [sys.executable, "-m", "lib_ti.cli", "bench", "faults", "--short", "--kills", "2", "--json"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(told.stdout.splitlines()[-1])
    kinds = {finding["fault"] for finding in found["faults"]}
    assert {"disk full", "folder read-only", "picture gone", "NaN", "Ctrl-C", "killed"} <= kinds
    assert [finding for finding in found["faults"] if finding["verdict"] != "good"] == []
    assert 0 < found["most_steps_lost"] <= 4


def test_half_written_and_forgotten_files_are_found(tmp_path: Path) -> None:
    job = Job.reserve(tmp_path / ".ti-studio" / "jobs", "zqx-word")
    job.begin({})
    job.append_losses([(1, 0.5, 0.1), (2, 0.5, 0.1)])
    save_file({"a": torch.zeros(9)}, job.folder / "state.safetensors", {"step": "2"})
    assert broken_files(tmp_path) == left_behind(tmp_path) == []
    before = contents(tmp_path)
    assert set(before) == {".ti-studio/jobs/JOB/loss.csv", ".ti-studio/jobs/JOB/state.safetensors"}
    save_file({"a": torch.ones(9)}, job.folder / "state.safetensors", {"step": "2"})
    assert contents(tmp_path) != before
    whole = (job.folder / "state.safetensors").read_bytes()
    (job.folder / "state.safetensors").write_bytes(whole[:-1])
    (job.folder / "result.json").write_text("{")
    job.append_losses([(4, 0.5, 0.1)])
    (job.folder / ".loss.csv.x.tmp").touch()
    assert [told.partition(":")[0] for told in broken_files(tmp_path)] == [
        "loss.csv", "result.json", "state.safetensors",
    ]  # fmt: skip
    assert left_behind(tmp_path) == [".loss.csv.x.tmp"]


@pytest.mark.parametrize(
    ("code", "said", "good"),
    [
        (1, ["the disk has no room left"], True),
        (0, ["the disk has no room left"], False),
        (1, ["something else"], False),
        (1, ["the disk has no room left", "OSError: x (a bug; details in y)"], False),
        (1, ["the disk has no room left", "Traceback (most recent call last):"], False),
    ],
)
def test_an_end_is_good_with_its_code_and_sentence_and_no_traceback(
    code: int, said: list[str], good: bool
) -> None:
    row = Finding("disk full", "a file", "ti")
    check(row, Ran(code, said, 1, 2, 0.1), ["no room"], 1)
    assert (row.verdict == "good") == good
