"""A whole job of two words, each with a folder of pictures: files, previews, messages, resume."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lib_ti.core.errors import BadInput
from lib_ti.core.job import Job
from lib_ti.formats.embedding import read_embedding
from lib_ti.hosts.standalone import StandaloneHost
from lib_ti.job_run import Event, Message, Outcome, Preview
from lib_ti.jobs import folders_under, resume, start
from lib_ti.methods.registry import read_settings
from lib_ti.workshop import Workshop
from tests.place import ended


@pytest.fixture
def told(settings: dict[str, Any]) -> dict[str, Any]:
    """The pictures of the first are shown twice as often."""
    pictures = Path(settings["images"])
    for word, repeats in (("zqx-cat", 2), ("zqx-dog", 1)):
        folder = pictures / f"{repeats}_{word}"
        folder.mkdir()
        for picture in pictures.glob("*.png"):
            shutil.copy(picture, folder)
    for picture in pictures.glob("*.png"):
        picture.unlink()
    return {**settings, "name": "zqx-cat, zqx-dog", "init_text": "star, heart", "save_every": 5}


def train(
    host: StandaloneHost, data: Path, told: dict[str, Any], report: Callable[[Event], None], **more: Any
) -> Outcome:
    folders = folders_under(data)
    stopped = more.pop("stopped", lambda: False)
    settings = read_settings({**told, **more})
    return start(host, settings, folders=folders, model="builtin", report=report, stopped=stopped)


def bytes_of(outcome: Outcome) -> dict[str, bytes]:
    return {
        product.name: read_embedding(file).vectors["clip_l"].numpy().tobytes()
        for product, file in outcome.files.items()
    }


def test_two_words_are_trained_shown_saved_and_gone_on_with(
    host: StandaloneHost, told: dict[str, Any], tmp_path: Path
) -> None:
    events: list[Event] = []
    whole = train(host, tmp_path / "whole", told, events.append)
    assert [file.name for file in whole.files.values()] == ["zqx-cat.safetensors", "zqx-dog.safetensors"]
    assert all(read_embedding(file).step == 20 for file in whole.files.values())
    assert {report.name for report in whole.vectors} == {"clip_l", "zqx-dog clip_l"}
    assert all(report.moved > 0 for report in whole.vectors)
    said = [event.text for event in events if isinstance(event, Message)]
    assert "trigger 'zqx-cat' found in 16 of 32 prompts; steps with the others teach it nothing" in said
    assert "trigger 'zqx-dog' found in 16 of 32 prompts; steps with the others teach it nothing" in said
    previews = [event for event in events if isinstance(event, Preview)]
    assert [len(preview.paths) for preview in previews] == [2, 2]
    assert len(list(whole.job.copies.glob("*-000010.safetensors"))) == 2

    halves, left = tmp_path / "halves", iter(range(7))
    first = train(
        host, halves, told, lambda event: None, preview_every=0, stopped=lambda: next(left, None) is None
    )
    assert (first.status, first.step) == ("stopped", 7)
    folders = folders_under(halves)
    job = Job.open(folders.jobs, first.job.id)
    second = resume(host, job, folders=folders, report=lambda event: None, stopped=lambda: False)
    assert bytes_of(second) == bytes_of(whole)


def test_a_word_that_no_prompt_has_is_refused_before_anything_is_written(
    host: StandaloneHost, told: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match="'zqx-hat' occurs in none of the 32 prompts"):
        train(
            host, tmp_path / "new", told, lambda event: None, name="zqx-cat, zqx-dog, zqx-hat", init_text="*"
        )
    assert not (tmp_path / "new").exists()


def test_the_workshop_tells_both_and_gives_neither_to_another_job(
    workshop: Workshop, told: dict[str, Any]
) -> None:
    files = workshop.create({"name": told["name"], "init_text": told["init_text"]})
    assert [product.name for product in files] == ["zqx-cat", "zqx-dog"]
    created = [read_embedding(file).vectors["clip_l"] for file in files.values()]
    job = workshop.train({**told, "preview_every": 0, "learning_rate": "1e-9"})
    with pytest.raises(BadInput, match=r"zqx-dog\.safetensors is being made for"):
        workshop.train({**told, "name": "zqx-dog"})
    status = ended(workshop, job)
    assert (status.status, status.error) == ("done", None)
    paths = [Path(path) for path in (str(status.embedding), *status.other_embeddings)]
    assert paths == list(files.values())
    trained = [read_embedding(path).vectors["clip_l"] for path in paths]
    torch.testing.assert_close(trained, created, rtol=0, atol=1e-6)
    assert Workshop(workshop.place).status(job).other_embeddings == status.other_embeddings
    assert [path.name for path in workshop.publish(job, 10).values()] == [path.name for path in paths]
