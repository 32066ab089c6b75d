"""Whole jobs through the command line, in processes of their own, on the built-in checkpoint."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lib_ti.core.errors import JobFailed
from lib_ti.core.job import Job
from lib_ti.formats.embedding import read_embedding
from lib_ti.hosts.standalone import StandaloneHost
from lib_ti.jobs import folders_under, resume, start
from lib_ti.methods.vector_settings import InversionSettings

ROOT = Path(__file__).parents[1]
# What makes a step random: all of it at once.
HARD = ("--batch-size", "2", "--accumulation", "2", "--flip", "--shuffle-tags", "--latents", "sampled")


def studio(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "lib_ti.cli", *arguments],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> dict[str, object]:
    out, err = process.communicate(timeout=600)
    assert process.returncode == code, err
    return json.loads(out.splitlines()[-1])


def train(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    return studio("train", "--json", "--images", "pictures", *arguments, cwd=cwd)


def saved_step(folder: Path) -> int:
    job = next(iter((folder / ".ti-studio" / "jobs").glob("*")), None)
    state = Job(job).load_state() if job else None
    return state.step if state else 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    from lib_ti.tinyworld.render import render
    from lib_ti.tinyworld.world import Scene

    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i, colour in enumerate(("red", "blue", "green")):
        render(Scene("star", colour, "white", "solid", "large", "flat", "left", i)).save(
            pictures / f"{i}.png"
        )
        (pictures / f"{i}.txt").write_text(f"[name], {colour}, large, white background")
    return tmp_path


def test_a_hundred_steps_equal_fifty_and_fifty_in_a_fresh_process(folder: Path) -> None:
    whole = finish(train("--name", "zqx-whole", "--steps", "100", "--save-every", "100", *HARD, cwd=folder))
    # The state of step 50 is what a job killed between its saves would be left with.
    halves = train("--name", "zqx-halves", "--steps", "100", "--save-every", "50", *HARD, cwd=folder)
    while saved_step_of(folder, "zqx-halves") < 50:
        time.sleep(0.05)
        assert halves.poll() is None or saved_step_of(folder, "zqx-halves") >= 50
    halves.kill()
    halves.communicate()
    job = job_of(folder, "zqx-halves")
    assert Job(job).load_state().step == 50 or halves.returncode == 0
    resumed = finish(studio("train", "--json", "--resume", job.name, cwd=folder))
    assert resumed["step"] == 100
    one, two = (load_file(folder / str(result["embedding"])) for result in (whole, resumed))
    assert one.keys() == two.keys()
    assert all(one[key].numpy().tobytes() == two[key].numpy().tobytes() for key in one)
    assert Job(job).losses() == Job(job_of(folder, "zqx-whole")).losses()


def job_of(folder: Path, name: str) -> Path:
    return next((folder / ".ti-studio" / "jobs").glob(f"*-{name}"))


def saved_step_of(folder: Path, name: str) -> int:
    try:
        state = Job(job_of(folder, name)).load_state()
    except StopIteration:
        return 0
    return state.step if state else 0


def test_kill_at_any_moment_leaves_a_resumable_job_and_no_broken_file(folder: Path) -> None:
    arguments = ("--name", "zqx-kill", "--steps", "60", "--save-every", "10", "--copy-every", "10", *HARD)
    process = train(*arguments, cwd=folder)
    while saved_step_of(folder, "zqx-kill") < 10:
        time.sleep(0.05)
        assert process.poll() is None
    moments = random.Random(1)
    for _ in range(4):
        time.sleep(moments.uniform(0, 1.5))
        process.kill()
        process.communicate()
        job = job_of(folder, "zqx-kill")
        state = Job(job).load_state()
        assert state is not None
        for copy in (job / "copies").glob("*.safetensors"):
            read_embedding(copy)
        if (folder / "embeddings" / "zqx-kill.safetensors").exists():
            break
        process = studio("train", "--json", "--resume", job.name, cwd=folder)
        deadline = time.monotonic() + 60
        while saved_step_of(folder, "zqx-kill") <= state.step and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    process.communicate()
    if not (folder / "embeddings" / "zqx-kill.safetensors").exists():
        finish(studio("train", "--json", "--resume", job_of(folder, "zqx-kill").name, cwd=folder))
    rows = Job(job_of(folder, "zqx-kill")).losses()
    assert [row[0] for row in rows] == list(range(1, 61))
    assert read_embedding(folder / "embeddings" / "zqx-kill.safetensors").step == 60


@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
def test_ctrl_c_saves_and_exits_130(folder: Path) -> None:
    process = train("--name", "zqx-stop", "--steps", "100000", "--save-every", "10", cwd=folder)
    while saved_step_of(folder, "zqx-stop") < 10:
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    result = finish(process, code=130)
    assert result["status"] == "stopped"
    assert saved_step_of(folder, "zqx-stop") == result["step"]
    assert read_embedding(folder / str(result["embedding"])).step == result["step"]
    assert not (folder / "embeddings").exists()


def test_previews_copies_and_plot(folder: Path) -> None:
    result = finish(
        train(
            *("--name", "zqx-look", "--steps", "20", "--preview-every", "10", "--preview-count", "2"),
            *("--preview-steps", "2", "--copy-every", "7"),
            cwd=folder,
        )
    )
    job = job_of(folder, "zqx-look")
    assert sorted(p.name for p in (job / "samples").iterdir()) == [
        f"step-{step:06d}-{i}.png" for step in (10, 20) for i in (0, 1)
    ]
    assert sorted(p.name for p in (job / "copies").iterdir()) == [
        f"zqx-look-{step:06d}.safetensors" for step in (7, 14, 20)
    ]
    assert (folder / str(result["loss_plot"])).stat().st_size > 1000
    assert json.loads((job / "result.json").read_text())["status"] == "done"


def test_the_same_job_twice_gives_the_same_tensors(folder: Path) -> None:
    for name in ("zqx-one", "zqx-two"):
        finish(train("--name", name, "--steps", "10", *HARD, cwd=folder))
    one, two = (
        read_embedding(folder / "embeddings" / f"{name}.safetensors") for name in ("zqx-one", "zqx-two")
    )
    assert one.vectors["clip_l"].numpy().tobytes() == two.vectors["clip_l"].numpy().tobytes()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--name", "star"), "ordinary word"),
        (("--name", "../x"), "'../x'"),
        ((), "name: missing"),
        (("--name", "zqx-a", "--steps", "0"), "at least 1"),
        (("--name", "zqx-a", "--learning-rate", "fast"), "learning rate 'fast'"),
        (("--name", "zqx-a", "--images", "nowhere"), "nowhere"),
        (("--name", "zqx-a", "--images", "broken"), "bad.png"),
        (("--name", "zqx-there"), "exists"),
        (("--name", "zqx-a", "--images", "."), "no images"),
        (("--name", "zqx-a", "--template", "none"), "'none'"),
        (("--name", "zqx-a", "--init-text", ""), "init-text"),
        (("--resume", "never"), "no job 'never'"),
        (("--resume", "never", "--steps", "5"), "leave out --steps"),
        (("--wrong",), "--wrong"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    folder: Path,
    arguments: tuple[str, ...],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from lib_ti.cli import main

    monkeypatch.chdir(folder)
    (folder / "broken").mkdir()
    (folder / "broken" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnot a picture")
    (folder / "embeddings").mkdir()
    (folder / "embeddings" / "zqx-there.safetensors").write_text("mine")
    before = sorted(folder.rglob("*"))
    images = () if "--images" in arguments or "--resume" in arguments else ("--images", "pictures")
    assert main(["train", "--json", *images, *arguments]) == 2
    out, err = capsys.readouterr()
    assert said in json.loads(out.splitlines()[-1])["error"]
    assert "Traceback" not in err
    assert sorted(folder.rglob("*")) == before


def test_a_resumed_job_refuses_other_pictures(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lib_ti.cli import main

    monkeypatch.chdir(folder)
    assert main(["train", "--images", "pictures", "--name", "zqx-b", "--steps", "2"]) == 0
    (folder / "pictures" / "0.txt").write_text("[name], changed")
    assert main(["train", "--json", "--resume", job_of(folder, "zqx-b").name]) == 2
    assert "have changed" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_leaves_the_last_good_vectors(
    folder: Path, host: StandaloneHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict, calls = host.predict_noise, itertools.count(1)

    def poisoned(*arguments: Any) -> torch.Tensor:
        answer = predict(*arguments)
        return answer * float("nan") if next(calls) == 17 else answer

    # The memory is foretold from two steps before the first.
    monkeypatch.setattr(host, "predict_noise", poisoned)
    settings = InversionSettings(
        name="zqx-nan",
        images=str(folder / "pictures"),
        steps=30,
        accumulation=1,
        template="captions",
    )
    with pytest.raises(JobFailed, match="step 15 is not a finite number; went back to step 10"):
        start(
            host,
            settings,
            folders=folders_under(folder),
            model="builtin",
            report=lambda event: None,
            stopped=lambda: False,
        )
    job = Job(job_of(folder, "zqx-nan"))
    kept = read_embedding(job.copies / "zqx-nan-000010.safetensors")
    state = job.load_state()
    assert kept.step == state.step == 10
    assert torch.equal(kept.vectors["clip_l"], state.parameters["clip_l"])
    assert not (folder / "embeddings").exists()
    monkeypatch.undo()
    outcome = resume(
        host, job, folders=folders_under(folder), report=lambda event: None, stopped=lambda: False
    )
    assert (outcome.status, outcome.step) == ("done", 30)
