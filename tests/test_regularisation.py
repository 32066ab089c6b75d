"""Regularisation pictures that the model draws for its own training, on the built-in checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lib_ti.core.errors import BadInput, Interrupted, StudioError
from lib_ti.core.job import Job
from lib_ti.core.settings import build
from lib_ti.formats.embedding import read_embedding
from lib_ti.hosts.base import SampleRequest
from lib_ti.hosts.standalone import StandaloneHost
from lib_ti.job_run import Drawn, Event
from lib_ti.jobs import folders_under, resume, start
from lib_ti.methods.vector_settings import InversionSettings
from lib_ti.regularisation import draw_pictures, drawn_prompt
from lib_ti.workshop import Workshop
from tests.place import StandalonePlace, ended

SETTINGS = InversionSettings(name="zqx-cat", init_text="star", make_reg=2)


def draw(
    host: StandaloneHost, kept: Path, settings: InversionSettings = SETTINGS, stop_after: int | None = None
) -> tuple[Path, list[int]]:
    """The folder, and what was reported."""
    told: list[int] = []
    folder = draw_pictures(
        host,
        settings,
        (64, 64),
        kept,
        told.append,
        lambda: stop_after is not None and len(told) >= stop_after,
    )
    return folder, told


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_they_are_drawn_of_the_kind_and_captioned_with_the_word(host: StandaloneHost, tmp_path: Path) -> None:
    folder, told = draw(host, tmp_path)
    assert told == [1, 2] and folder.parent == tmp_path
    assert sorted(contents(folder)) == [
        "drawn-0001.png",
        "drawn-0001.txt",
        "drawn-0002.png",
        "drawn-0002.txt",
    ]
    assert (folder / "drawn-0001.txt").read_text() == "a photo of a [name]"
    first, second = (Image.open(folder / f"drawn-000{i}.png") for i in (1, 2))
    assert first.size == (64, 64) and first.tobytes() != second.tobytes()


def test_the_host_draws_what_the_settings_name(
    host: StandaloneHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[SampleRequest] = []
    monkeypatch.setattr(
        host, "sample", lambda request: requests.append(request) or [Image.new("RGB", (8, 8))]
    )
    draw(host, tmp_path, replace(SETTINGS, reg_prompt="a big [name], [filewords]"))
    assert [list(request.prompts) for request in requests] == [["a big star,"]] * 2
    assert requests[0].seeds != requests[1].seeds
    draw(host, tmp_path, replace(SETTINGS, seed=2))
    assert {tuple(r.seeds) for r in requests[:2]}.isdisjoint(tuple(r.seeds) for r in requests[2:])


def test_they_are_kept_for_jobs_alike_and_for_no_others(host: StandaloneHost, tmp_path: Path) -> None:
    folder, _ = draw(host, tmp_path)
    assert draw(host, tmp_path) == (folder, [])
    others = [{"seed": 2}, {"reg_prompt": "a [name]"}, {"init_text": "heart"}, {"make_reg": 1}]
    folders = {draw(host, tmp_path, replace(SETTINGS, **other))[0] for other in others}
    assert len(folders) == len(others) and folder not in folders


def test_what_was_stopped_goes_on_with_the_same_pictures(host: StandaloneHost, tmp_path: Path) -> None:
    whole, _ = draw(host, tmp_path / "whole")
    with pytest.raises(Interrupted, match="stopped: 1 of 2 regularisation pictures are in"):
        draw(host, tmp_path / "halves", stop_after=1)
    folder, told = draw(host, tmp_path / "halves")
    assert told == [2] and contents(folder) == contents(whole)


def test_a_picture_that_was_interrupted_half_way_is_not_kept(
    host: StandaloneHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pressed: list[bool] = []

    def sample(request: SampleRequest) -> list[Image.Image]:
        pressed.append(True)
        raise StudioError("The preview was interrupted before its pictures were finished.")

    monkeypatch.setattr(host, "sample", sample)
    with pytest.raises(Interrupted):
        draw_pictures(host, SETTINGS, (64, 64), tmp_path, lambda there: None, lambda: bool(pressed))
    assert list(tmp_path.rglob("*.png")) == []
    with pytest.raises(StudioError, match="was interrupted before"):
        draw_pictures(host, SETTINGS, (64, 64), tmp_path, lambda there: None, lambda: False)


def test_a_folder_of_the_users_is_filled_up_and_nothing_in_it_replaced(
    host: StandaloneHost, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for name in ("mine.jpg", "drawn-0001.png"):
        Image.new("RGB", (8, 8), "red").save(own / name)
    before = contents(own)
    folder, told = draw(host, tmp_path / "kept", replace(SETTINGS, reg_images=str(own), make_reg=3))
    assert folder == own and told == [3] and not (tmp_path / "kept").exists()
    after = contents(own)
    assert after.keys() - before.keys() == {"drawn-0002.png", "drawn-0002.txt"}
    assert {name: after[name] for name in before} == before
    (own / "10_star").mkdir()
    with pytest.raises(BadInput, match="holds folders"):
        draw(host, tmp_path / "kept", replace(SETTINGS, reg_images=str(own)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"init_text": "*"}, "nothing says what kind of thing"),
        ({"init_text": ""}, "nothing says what kind of thing"),
        ({"reg_prompt": " "}, "reg-prompt is empty"),
    ],
)
def test_a_prompt_that_says_nothing_is_refused(change: dict[str, str], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        drawn_prompt(replace(SETTINGS, **change))
    assert drawn_prompt(replace(SETTINGS, init_text="*", reg_prompt="a dog")) == "a dog"


def test_a_job_draws_them_learns_from_them_and_goes_on_to_the_bit(
    host: StandaloneHost, settings: dict[str, Any], tmp_path: Path
) -> None:
    """Three pictures and as many of the two, at four a step: two steps an epoch."""
    told = build(
        InversionSettings,
        {**settings, "init_text": "star", "make_reg": 2, "epochs": 4, "batch_size": 4, "preview_every": 0},
    )
    steps = iter(range(5))

    def run(data: Path, stopped: Any = lambda: False) -> tuple[Any, list[Event]]:
        events: list[Event] = []
        outcome = start(
            host,
            told,
            folders=folders_under(data),
            model="builtin",
            report=events.append,
            stopped=stopped,
        )
        return outcome, events

    whole, events = run(tmp_path / "whole")
    assert [event for event in events if isinstance(event, Drawn)] == [Drawn(1, 2), Drawn(2, 2)]
    assert (whole.status, whole.step) == ("done", 8)
    recorded = whole.job.settings()["settings"]
    assert Path(recorded["reg_images"]).parent == tmp_path / "whole" / ".ti-studio" / "regularisation"

    half, _ = run(tmp_path / "half", lambda: next(steps, None) is None)
    assert half.status == "stopped" and half.step < 8
    folders = folders_under(tmp_path / "half")
    job = Job.open(folders.jobs, half.job.id)
    again = resume(host, job, folders=folders, report=lambda event: None, stopped=lambda: False)
    one, other = (read_embedding(outcome.embedding).vectors["clip_l"] for outcome in (whole, again))
    assert torch.equal(one, other)
    assert "regularisation" not in str(dict(read_embedding(again.embedding).metadata)).replace("make_reg", "")


def test_the_workshop_tells_how_many_there_are_and_stops_between_two(
    workshop: Workshop, place: StandalonePlace, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {**settings, "init_text": "star", "make_reg": 3, "preview_every": 0, "steps": 2}
    sample, drawn = StandaloneHost.sample, []

    def watched(self: StandaloneHost, request: SampleRequest) -> list[Image.Image]:
        drawn.append(workshop.status(job).status)
        place.pressed = len(drawn) == 2
        return sample(self, request)

    monkeypatch.setattr(StandaloneHost, "sample", watched)
    with place.lock:
        job = workshop.train(told)
    status = ended(workshop, job)
    assert (status.status, status.error, drawn) == ("stopped", None, ["preparing", "preparing"])
    assert status.messages[0] == "regularisation pictures: 1 of 3 are drawn"
    assert status.messages[1].startswith("stopped: 1 of 3 regularisation pictures are in")
    assert workshop.jobs() == []
    place.pressed = False
    job = workshop.train(told)
    status = ended(workshop, job)
    assert (status.status, status.error, len(drawn)) == ("done", None, 4)
    assert "regularisation pictures: 3 of 3 are drawn" in status.messages


def test_a_job_that_cannot_say_what_to_draw_starts_nothing(
    workshop: Workshop, place: StandalonePlace, settings: dict[str, Any]
) -> None:
    with pytest.raises(BadInput, match="make-reg: in reg-prompt"):
        workshop.train({**settings, "make_reg": 2})
    assert not place.folders().jobs.exists()
