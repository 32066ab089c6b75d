"""A job whose start is found in its pictures, or in a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lib_ti.core.loop import Progress
from lib_ti.core.settings import build
from lib_ti.formats.embedding import read_embedding
from lib_ti.hosts.standalone import StandaloneHost
from lib_ti.job_run import Event, Message, Outcome, started_from
from lib_ti.jobs import folders_under, resume, start
from lib_ti.methods.vector_settings import InversionSettings
from lib_ti.workshop import Workshop

SOON = {"steps": 4, "copy_every": 2, "init": "images", "init_steps": 2, "preview_every": 0}


class Log:
    """What a job says, and when to stop it."""

    def __init__(self, stop: Callable[[Log], bool] = lambda log: False) -> None:
        self.said: list[str] = []
        self.steps = 0
        self.stop = stop

    def __call__(self, event: Event) -> None:
        if isinstance(event, Message):
            self.said.append(event.text)
        elif isinstance(event, Progress):
            self.steps += 1

    def stopped(self) -> bool:
        return self.stop(self)

    @property
    def found(self) -> int:
        """The pictures that a start was looked for in."""
        return sum(sentence.startswith("finding the start") for sentence in self.said)


def told_of(settings: dict[str, Any], **more: Any) -> InversionSettings:
    return build(InversionSettings, {**settings, **SOON, **more})


def train(host: StandaloneHost, data: Path, told: InversionSettings, log: Log) -> Outcome:
    return start(host, told, folders=folders_under(data), model="builtin", report=log, stopped=log.stopped)


def go_on(host: StandaloneHost, data: Path, outcome: Outcome, log: Log) -> Outcome:
    return resume(host, outcome.job, folders=folders_under(data), report=log, stopped=log.stopped)


def vectors_of(path: Path) -> torch.Tensor:
    return read_embedding(path).vectors["clip_l"]


def test_a_job_goes_on_from_its_start_and_does_not_look_for_it_again(
    host: StandaloneHost, settings: dict[str, Any], tmp_path: Path
) -> None:
    told = told_of(settings)
    whole, half, rest = Log(), Log(lambda log: log.steps == 1), Log()
    expected = train(host, tmp_path / "whole", told, whole)
    assert whole.found == 3
    first = train(host, tmp_path / "halves", told, half)
    assert (first.status, first.step, half.found) == ("stopped", 3, 3)
    began = started_from(first.job, told)
    assert began is not None
    usual = float(host.token_vectors("clip_l").norm(dim=1).median())
    assert began["zqx-cat"]["clip_l"].norm(dim=1).tolist() == pytest.approx([usual] * 2)
    second = go_on(host, tmp_path / "halves", first, rest)
    assert rest.found == 0
    assert torch.equal(vectors_of(second.embedding), vectors_of(expected.embedding))


def test_a_job_stopped_before_it_had_a_start_looks_for_it_anew(
    host: StandaloneHost, settings: dict[str, Any], tmp_path: Path
) -> None:
    told, rest = told_of(settings), Log()
    first = train(host, tmp_path, told, Log(lambda log: log.found == 2))
    assert (first.status, first.step, dict(first.files)) == ("stopped", 0, {})
    assert started_from(first.job, told) is None
    second = go_on(host, tmp_path, first, rest)
    assert (second.status, rest.found) == ("done", 3)
    whole = train(host, tmp_path / "whole", told, Log())
    assert torch.equal(vectors_of(second.embedding), vectors_of(whole.embedding))


def test_a_resumed_job_no_longer_needs_the_file_it_began_with(
    host: StandaloneHost, settings: dict[str, Any], tmp_path: Path
) -> None:
    made = train(host, tmp_path, told_of(settings, init="text"), Log())
    file = made.embedding.rename(tmp_path / "old.safetensors")
    told, half = told_of(settings, weights=str(file)), Log(lambda log: log.steps == 1)
    first = train(host, tmp_path, told, half)
    began = started_from(first.job, told)
    assert began is not None and half.found == 0
    assert torch.equal(began["zqx-cat"]["clip_l"], vectors_of(file))
    file.unlink()
    assert go_on(host, tmp_path, first, Log()).status == "done"


def test_an_embedding_is_created_at_what_the_encoder_answers(
    workshop: Workshop, host: StandaloneHost
) -> None:
    values = {"name": "zqx-cat", "init": "cross", "init_text": "red star", "vectors": 2}
    (file,) = workshop.create(values).values()
    with host.lend(), torch.no_grad():
        answer = host.encode_prompts(["red star"]).hidden[0, 1:3]
    likeness = torch.cosine_similarity(vectors_of(file), answer)
    assert likeness.tolist() == pytest.approx([1.0, 1.0])
