"""A job that would not fit: what it is told before the start, and what it does without on the way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lib_ti import job_memory, jobs
from lib_ti.formats.embedding import read_embedding
from lib_ti.hosts.standalone import StandaloneHost
from lib_ti.job_memory import free_bytes
from lib_ti.job_run import Event, Message, Outcome
from lib_ti.methods.registry import read_settings


@pytest.fixture
def train(host: StandaloneHost, pictures: str, tmp_path: Path) -> Callable[..., tuple[Outcome, list[str]]]:
    """A job of 12 steps of four pictures at once; what was said."""

    def run(name: str, **more: Any) -> tuple[Outcome, list[str]]:
        told = {"name": name, "images": pictures, "steps": 12, "batch_size": 4, "accumulation": 1}
        told |= {"preview_every": 0, "copy_every": 0}
        said: list[str] = []

        def report(event: Event) -> None:
            if isinstance(event, Message):
                said.append(event.text)

        outcome = jobs.start(
            host,
            read_settings({**told, **more}),
            folders=jobs.folders_under(tmp_path),
            model="builtin",
            report=report,
            stopped=lambda: False,
        )
        return outcome, said

    return run


def vectors_of(outcome: Outcome) -> torch.Tensor:
    return torch.cat([read_embedding(file).vectors["clip_l"] for file in outcome.files])


def recomputes(host: StandaloneHost) -> bool:
    return any("forward" in vars(module) for module in host._unet.modules())


@pytest.mark.parametrize("method", ["ti", "dreamartist"])
def test_a_job_that_runs_out_of_memory_goes_down_the_ladder_and_on(
    train: Callable[..., tuple[Outcome, list[str]]], monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Found at step 11: its result is that of the job that was told so from the start."""
    told, _ = train("zqx-told", method=method, checkpointing=True, batch_size=1, accumulation=4)
    predict, calls = StandaloneHost.predict_noise, iter(range(1000))
    pairs = 2 if method == "dreamartist" else 1

    def short(self: StandaloneHost, latents: torch.Tensor, *more: Any) -> torch.Tensor:
        if next(calls) > 10 and (len(latents) > pairs or not recomputes(self)):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return predict(self, latents, *more)

    monkeypatch.setattr(StandaloneHost, "predict_noise", short)
    found, said = train("zqx-found", method=method)
    assert (found.status, found.step) == ("done", 12)
    ways = [text for text in said if text.startswith(("to fit", "memory ran out"))]
    assert [text.split(":")[-1].split(",")[0].strip() for text in ways] == [
        "checkpointing is on",
        "memory ran out; going on from step 10",
        "pictures are taken one by one",
        "memory ran out; going on from step 10",
    ]
    assert float((vectors_of(found) - vectors_of(told)).abs().max()) < 1e-5
    assert [row[0] for row in found.job.losses()] == list(range(1, 13))


def test_what_does_not_fit_is_made_smaller_before_the_start_and_stays_so_on_resume(
    train: Callable[..., tuple[Outcome, list[str]]], host: StandaloneHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_memory, "free_bytes", lambda device: 0)
    small, said = train("zqx-small")
    needs = [text for text in said if text.startswith("memory: a step needs about")]
    assert len(needs) == 3 and all(text.endswith("0 MB are free") for text in needs)
    sizes = [float(text.split("about ")[1].split(" MB")[0]) for text in needs]
    assert sizes[0] > 1.5 * sizes[1] > 1.5 * sizes[2]
    assert any("nothing is left to save" in text for text in said)
    told, _ = train("zqx-told", checkpointing=True, batch_size=1, accumulation=4)
    assert torch.equal(vectors_of(small), vectors_of(told))
    state = small.job.load_state()
    assert state is not None and state.beside[""]["one_by_one"] is True
    assert not recomputes(host)


def test_without_consent_it_is_only_said(
    train: Callable[..., tuple[Outcome, list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, said = train("zqx-usual")
    assert sum("memory: a step needs" in text for text in said) == 1
    assert not any("to fit into memory" in text for text in said)
    monkeypatch.setattr(job_memory, "free_bytes", lambda device: 0)
    same, said = train("zqx-same", fit_memory=False)
    assert any("fit-memory would see to it" in text for text in said)
    assert torch.equal(vectors_of(same), vectors_of(usual))


def test_free_memory_is_known_here_with_and_without_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    pytest.importorskip("psutil")
    if not Path("/proc/meminfo").exists():
        pytest.skip("only Linux tells without psutil")
    told = free_bytes(torch.device("cpu"))
    monkeypatch.setitem(sys.modules, "psutil", None)
    read = free_bytes(torch.device("cpu"))
    assert told is not None and read is not None and 0.5 < read / told < 2
    assert free_bytes(torch.device("mps")) is None
