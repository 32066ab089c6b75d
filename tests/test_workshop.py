"""Jobs in the background, on the built-in checkpoint, as page and HTTP see them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lib_ti.core.errors import BadInput
from lib_ti.core.job import Job
from lib_ti.formats.embedding import read_embedding
from lib_ti.hosts.base import SampleRequest
from lib_ti.hosts.standalone import StandaloneHost
from lib_ti.methods.kind import Words
from lib_ti.workshop import Workshop, pressed_from_now
from tests.place import StandalonePlace, ended, wait


def watch_previews(monkeypatch: pytest.MonkeyPatch, negative: str) -> list[SampleRequest]:
    """What the previews from now on ask for; the word ``negative`` must be found in each negative prompt."""
    requests: list[SampleRequest] = []
    sample = StandaloneHost.sample

    def watched(self: StandaloneHost, request: SampleRequest) -> list[Image.Image]:
        requests.append(request)
        assert self.count_triggers(request.negative_prompt)[negative] == 1
        return sample(self, request)

    monkeypatch.setattr(StandaloneHost, "sample", watched)
    return requests


def test_create_then_train_starts_from_what_was_created(
    workshop: Workshop, place: StandalonePlace, settings: dict[str, Any]
) -> None:
    (path,) = workshop.create({"name": "zqx-cat", "init_text": "star heart circle", "vectors": 3}).values()
    created = read_embedding(path)
    assert (created.step, created.count) == (0, 3)
    with pytest.raises(BadInput, match="ordinary word"):
        workshop.create({"name": "star"})
    job = workshop.train({**settings, "learning_rate": "1e-9", "vectors": 1})
    status = ended(workshop, job)
    assert (status.status, status.step, status.error) == ("done", 20, None)
    assert any("not trained yet" in message for message in status.messages)
    trained = read_embedding(path)
    assert (trained.step, trained.metadata["job"]) == (20, job)
    assert float((trained.vectors["clip_l"] - created.vectors["clip_l"]).abs().max()) < 1e-6
    assert [name for name, *_ in place.told] == ["zqx-cat.safetensors"] * 2
    assert place.told[1][1] and "20 steps" in place.told[1][2]
    with pytest.raises(BadInput, match="exists"):
        workshop.train(settings)


def test_a_status_tells_everything_also_to_a_later_process(
    workshop: Workshop, place: StandalonePlace, settings: dict[str, Any]
) -> None:
    job = workshop.train(settings)
    assert workshop.current() == job
    now = ended(workshop, job)
    later = Workshop(place).status(job)
    for field in ("job", "status", "step", "steps", "embedding", "previews", "saved_steps"):
        assert getattr(later, field) == getattr(now, field), field
    assert later.loss == pytest.approx(now.loss, rel=1e-4)  # six digits are written
    assert list(now.previews) == now.saved_steps == [10, 20]
    assert workshop.sample(job, now.previews[20][0]).is_file()
    assert len(workshop.losses(job)) == 20
    with pytest.raises(BadInput, match="no preview"):
        workshop.sample(job, "../settings.json")


@pytest.mark.parametrize("publish", [False, True])
def test_a_stopped_job_keeps_what_it_has_and_goes_on(
    workshop: Workshop, place: StandalonePlace, settings: dict[str, Any], publish: bool
) -> None:
    job = workshop.train({**settings, "steps": 60, "preview_every": 0})
    wait(workshop, job, lambda status: status.step >= 10)
    workshop.stop(job, publish=publish)
    stopped = ended(workshop, job)
    assert stopped.status == "stopped" and 10 <= stopped.step < 60
    published = place.folders().embeddings / "zqx-cat.safetensors"
    assert published.exists() == publish == bool(stopped.embedding) == bool(place.told)
    if publish:
        assert read_embedding(published).step == stopped.step
    with pytest.raises(BadInput, match="does not run"):
        workshop.stop(job)
    assert workshop.resume(job) == job
    done = ended(workshop, job)
    assert (done.status, done.step) == ("done", 60)
    assert [row[0] for row in workshop.losses(job)] == list(range(1, 61))
    with pytest.raises(BadInput, match="is done"):
        workshop.resume(job)


def test_the_programs_own_interrupt_stops_a_job(
    workshop: Workshop, place: StandalonePlace, settings: dict[str, Any]
) -> None:
    job = workshop.train({**settings, "steps": 1000, "preview_every": 0})
    wait(workshop, job, lambda status: status.step >= 10)
    place.pressed = True
    assert ended(workshop, job).status == "stopped"


def test_a_second_job_waits_and_can_be_called_off(
    workshop: Workshop, place: StandalonePlace, settings: dict[str, Any]
) -> None:
    with place.lock:
        first = workshop.train(settings)
        second = workshop.train({**settings, "name": "zqx-dog"})
        assert workshop.status(second).status == "waiting"
        with pytest.raises(BadInput, match=f"being made for job {first}; choose another name, or wait"):
            workshop.train({**settings, "name": "zqx-cat"})
        workshop.stop(second)
    assert ended(workshop, first).status == "done"
    assert ended(workshop, second).status == "stopped"
    assert workshop.jobs() == [first]  # the other left nothing behind
    assert not (place.folders().jobs / second).exists()


def test_a_saved_step_takes_the_place_of_the_last_but_not_of_another_file(
    workshop: Workshop, settings: dict[str, Any]
) -> None:
    job = workshop.train(settings)
    path = Path(str(ended(workshop, job).embedding))
    workshop.publish(job, 10)
    assert read_embedding(path).step == 10
    with pytest.raises(BadInput, match="no saved step 11; there are 10, 20"):
        workshop.publish(job, 11)
    other = workshop.train({**settings, "overwrite": True})
    ended(workshop, other)
    with pytest.raises(BadInput, match="exists"):
        workshop.publish(job, 10)
    assert read_embedding(path).metadata["job"] == other


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": ""}, "name: missing"),
        ({"name": "../x"}, "cannot be a name"),
        ({"images": ""}, "images: missing"),
        ({"images": "nowhere"}, "nowhere"),
        ({"steps": 0}, "at least 1"),
        ({"colour": 1}, "unknown setting colour"),
        ({"template": "../../etc/passwd"}, "no template"),
        ({"learning_rate": "fast"}, "learning rate"),
        ({"preview_sampler": "Eular"}, "preview-sampler: there is no 'Eular'"),
    ],
)
def test_what_is_wrong_at_first_sight_starts_nothing(
    workshop: Workshop, place: StandalonePlace, settings: dict[str, Any], change: dict[str, Any], said: str
) -> None:
    with pytest.raises(BadInput, match=said):
        workshop.train({**settings, **change})
    assert workshop.jobs() == [] and not place.folders().jobs.exists()


def test_what_only_the_model_can_tell_fails_the_job_in_a_sentence(
    workshop: Workshop, place: StandalonePlace, settings: dict[str, Any]
) -> None:
    job = workshop.train({**settings, "name": "star"})
    status = ended(workshop, job)
    assert status.status == "failed" and "ordinary word" in str(status.error)
    assert not list(place.folders().jobs.iterdir())


@pytest.mark.parametrize(
    "error", [MemoryError("no room"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_a_preview_without_memory_is_skipped_and_said(
    workshop: Workshop, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def sample(self: StandaloneHost, request: SampleRequest) -> list[Image.Image]:
        raise error

    monkeypatch.setattr(StandaloneHost, "sample", sample)
    status = ended(workshop, workshop.train(settings))
    assert (status.status, status.step) == ("done", 20)
    assert sum("was skipped: there is not enough memory" in text for text in status.messages) == 2


def test_a_job_without_memory_fails_with_a_remedy_and_keeps_what_it_had(
    workshop: Workshop, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, predict = iter(range(1000)), StandaloneHost.predict_noise

    def fail(self: StandaloneHost, *arguments: Any) -> Any:
        if next(calls) > 15:
            raise MemoryError
        return predict(self, *arguments)

    monkeypatch.setattr(StandaloneHost, "predict_noise", fail)
    job = workshop.train({**settings, "preview_every": 0})
    status = ended(workshop, job)
    assert status.status == "failed" and "fewer pictures at once" in str(status.error)
    assert any("checkpointing is on" in text for text in status.messages)
    assert status.saved_steps == [10]
    monkeypatch.undo()
    workshop.resume(job)
    assert ended(workshop, job).status == "done"


def test_the_fixed_batch_and_the_vectors_are_told(workshop: Workshop, settings: dict[str, Any]) -> None:
    job = workshop.train({**settings, "evaluate_every": 10, "stop_rule": "plateau"})
    status = ended(workshop, job)
    assert [step for step, _ in status.evaluations] == [10, 20]
    result = json.loads((workshop.place.folders().jobs / job / "result.json").read_text())
    best = min(status.evaluations, key=lambda row: row[1])[0]
    assert (result["kept_step"], len(result["vectors"])) == (best, 2)


def test_a_preview_that_cannot_show_the_word_is_warned_of(
    workshop: Workshop, settings: dict[str, Any]
) -> None:
    status = ended(workshop, workshop.train({**settings, "preview_prompt": "a red star"}))
    assert any("not in the preview prompt 'a red star'" in text for text in status.messages)


def test_the_folder_is_listed_with_what_cannot_be_read(
    workshop: Workshop, place: StandalonePlace, settings: dict[str, Any]
) -> None:
    workshop.create({"name": "zqx-cat"})
    (place.folders().embeddings / "bad.pt").write_bytes(b"nothing")
    bad, good = workshop.embeddings()
    assert bad["file"] == "bad.pt" and "bad.pt" in bad["error"]
    assert good == {
        "file": "zqx-cat.safetensors",
        "name": "zqx-cat",
        "family": "sd1",
        "vectors": 2,
        "step": 0,
        "negative": False,
    }


def test_a_word_for_the_negative_prompt_says_so_everywhere(
    workshop: Workshop, place: StandalonePlace, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = watch_previews(monkeypatch, "zqx-cat")
    job = workshop.train({**settings, "negative": True, "preview_negative": "blurry", "preview_cfg": 1})
    status = ended(workshop, job)
    assert (status.status, status.embedding) == ("done", None)
    file = Path(str(status.negative_embedding))
    assert file.name == "zqx-cat.safetensors" and read_embedding(file).is_negative
    assert read_embedding(place.folders().jobs / job / "copies" / "zqx-cat-000010.safetensors").is_negative
    assert {(*request.prompts, request.negative_prompt) for request in requests} == {
        ("a photo of a", "zqx-cat, blurry")
    }
    assert any("'zqx-cat' found in 16 of 16 prompts" in message for message in status.messages)
    assert workshop._find(status.job).result()["messages"] == status.messages
    assert any("at preview-cfg 1 the negative prompt" in message for message in status.messages)
    assert place.told[0][2].startswith("2 vectors, for the negative prompt, 20 steps on")
    assert workshop.find_words("zqx-cat") == Words(negative="zqx-cat")
    assert workshop.embeddings()[0]["negative"]


class TestPair:
    """DreamArtist: two files, one job."""

    @pytest.fixture
    def pair(self, settings: dict[str, Any]) -> dict[str, Any]:
        return {**settings, "method": "dreamartist", "negative_vectors": 4}

    def test_two_files_two_copies_and_previews_that_call_both(
        self,
        workshop: Workshop,
        place: StandalonePlace,
        pair: dict[str, Any],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        requests = watch_previews(monkeypatch, "zqx-cat-neg")
        job = workshop.train({**pair, "preview_negative": "blurry"})
        status = ended(workshop, job)
        assert (status.status, status.error) == ("done", None)
        folder = place.folders().embeddings
        assert status.embedding == str(folder / "zqx-cat.safetensors")
        assert status.negative_embedding == str(folder / "zqx-cat-neg.safetensors")
        positive, negative = (
            read_embedding(Path(str(p))) for p in (status.embedding, status.negative_embedding)
        )
        assert (positive.count, negative.count, positive.step, negative.step) == (3, 4, 20, 20)
        assert status.saved_steps == [10, 20]
        assert {request.negative_prompt for request in requests} == {"zqx-cat-neg, blurry"}
        assert all("zqx-cat" in prompt for request in requests for prompt in request.prompts)
        assert [name for name, *_ in place.told] == ["zqx-cat.safetensors", "zqx-cat-neg.safetensors"]
        assert [told.split(",")[0] for *_, told in place.told] == ["3 vectors", "4 vectors"]
        later = Workshop(place).status(job)
        assert (later.embedding, later.negative_embedding) == (status.embedding, status.negative_embedding)
        assert Job(place.folders().jobs / job).settings()["method"] == "dreamartist"

    def test_stop_and_resume_give_what_one_run_gives(
        self, workshop: Workshop, place: StandalonePlace, pair: dict[str, Any]
    ) -> None:
        long = {**pair, "steps": 40, "preview_every": 0, "accumulation": 2, "negative_rate": 2.0}
        job = workshop.train(long)
        wait(workshop, job, lambda status: status.step >= 10)
        workshop.stop(job, publish=True)
        stopped = ended(workshop, job)
        assert stopped.status == "stopped" and 10 <= stopped.step < 40
        folder = place.folders().embeddings
        for name in ("zqx-cat", "zqx-cat-neg"):
            assert read_embedding(folder / f"{name}.safetensors").step == stopped.step
        workshop.resume(job)
        assert ended(workshop, job).status == "done"
        assert ended(workshop, workshop.train({**long, "name": "zqx-whole"})).status == "done"
        for ending in ("", "-neg"):
            one, other = (
                read_embedding(folder / f"{name}{ending}.safetensors") for name in ("zqx-cat", "zqx-whole")
            )
            assert one.step == 40 and torch.equal(one.vectors["clip_l"], other.vectors["clip_l"])

    def test_create_then_train_starts_from_both(
        self, workshop: Workshop, place: StandalonePlace, pair: dict[str, Any]
    ) -> None:
        created = workshop.create({**pair, "images": "", "init_text": "star"}).values()
        before = [read_embedding(file) for file in created]
        assert [(e.step, e.count) for e in before] == [(0, 3), (0, 4)]
        status = ended(workshop, workshop.train({**pair, "learning_rate": "1e-9", "init_text": "heart"}))
        assert sum("not trained yet" in message for message in status.messages) == 2
        for file, old in zip(created, before, strict=True):
            now = read_embedding(file)
            assert now.step == 20
            assert float((now.vectors["clip_l"] - old.vectors["clip_l"]).abs().max()) < 1e-6

    def test_a_saved_step_replaces_both(
        self, workshop: Workshop, place: StandalonePlace, pair: dict[str, Any]
    ) -> None:
        job = workshop.train(pair)
        ended(workshop, job)
        files = workshop.publish(job, 10).values()
        assert [read_embedding(file).step for file in files] == [10, 10]
        (place.folders().jobs / job / "copies" / "zqx-cat-neg-000020.safetensors").unlink()
        with pytest.raises(BadInput, match="no saved step 20"):
            workshop.publish(job, 20)
        assert [read_embedding(file).step for file in files] == [10, 10]

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"guidance": "fast"}, "guidance 'fast': cannot be read"),
            ({"guidance": "1-3:__import__('os')"}, "is no part of an expression"),
            ({"method": "magic"}, "method: got 'magic'"),
            ({"method": "ti"}, "negative-vectors belongs to the method dreamartist"),
            ({"name": "zqx-there"}, "zqx-there-neg.safetensors exists"),
            ({"name": "x" * 98}, "cannot be a name"),
            ({"preset": "magic"}, "preset"),
        ],
    )
    def test_what_is_wrong_with_either_starts_nothing(
        self,
        workshop: Workshop,
        place: StandalonePlace,
        pair: dict[str, Any],
        change: dict[str, Any],
        said: str,
    ) -> None:
        there = place.folders().embeddings / "zqx-there-neg.safetensors"
        there.parent.mkdir(parents=True)
        there.write_text("mine")
        with pytest.raises(BadInput, match=re.escape(said)):
            workshop.train({**pair, **change})
        assert workshop.jobs() == [] and there.read_text() == "mine"

    def test_neither_word_is_trained_twice_at_a_time(
        self, workshop: Workshop, place: StandalonePlace, settings: dict[str, Any], pair: dict[str, Any]
    ) -> None:
        with place.lock:
            first = workshop.train(pair)
            with pytest.raises(BadInput, match=r"ZQX-cat-neg\.safetensors is being made for"):
                workshop.train({**settings, "name": "ZQX-cat-neg"})
            workshop.stop(first)
        ended(workshop, first)

    def test_without_guidance_there_is_one_file(
        self, workshop: Workshop, place: StandalonePlace, pair: dict[str, Any]
    ) -> None:
        status = ended(workshop, workshop.train({**pair, "guidance": "1"}))
        assert status.status == "done" and status.negative_embedding is None
        assert [name for name, *_ in place.told] == ["zqx-cat.safetensors"]
        assert any("at guidance 1" in message for message in status.messages)


def test_a_button_that_was_pressed_earlier_stops_nothing() -> None:
    """The WebUI tells of an interrupted generation until the next turn begins."""
    button = iter([True, True, False, True, True])
    pressed = pressed_from_now(lambda: next(button))
    assert [pressed() for _ in range(4)] == [False, False, True, True]


def test_tools_that_ask_the_model_do_not_wait_for_a_job(
    workshop: Workshop, place: StandalonePlace, settings: dict[str, Any]
) -> None:
    with place.lock:
        job = workshop.train(settings)
        with pytest.raises(BadInput, match=f"job {job} uses the model"), workshop._short_turn(0):
            pass
        workshop.stop(job)
    ended(workshop, job)
    with workshop._short_turn(0) as host:
        assert host is place.host
