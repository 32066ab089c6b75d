"""Disks, neighbours and pictures that fail while a job runs: what is kept, and what is said."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lib_ti import cli
from lib_ti.commands import demo
from lib_ti.commands.train import conclude
from lib_ti.core.errors import BadInput, JobFailed
from lib_ti.core.files import CannotWrite
from lib_ti.core.job import Job
from lib_ti.core.settings import build
from lib_ti.data.known_files import KnownFiles
from lib_ti.data.latent_store import LatentStore
from lib_ti.formats.embedding import Embedding, read_embedding, write_safetensors
from lib_ti.hosts.standalone import StandaloneHost
from lib_ti.job_run import Event, Message, Outcome
from lib_ti.jobs import folders_under, resume, start
from lib_ti.methods.vector_settings import InversionSettings
from lib_ti.workshop import Workshop
from tests.place import StandalonePlace, ended


@dataclass
class Jobs:
    """Starts and resumes a job of 20 steps that is saved every 10; ``said``: all it has told."""

    host: StandaloneHost
    data: Path
    settings: InversionSettings
    said: list[str] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        if isinstance(event, Message):
            self.said.append(event.text)

    @property
    def told(self) -> dict[str, Any]:
        return {"folders": folders_under(self.data), "report": self, "stopped": lambda: False}

    def start(self, **changes: Any) -> Outcome:
        return start(self.host, replace(self.settings, **changes), model="builtin", **self.told)

    def resume(self) -> Outcome:
        return resume(self.host, self.job, **self.told)

    @property
    def job(self) -> Job:
        root = folders_under(self.data).jobs
        return Job(root / Job.known(root)[-1])

    @property
    def result(self) -> Path:
        return self.data / "embeddings" / "zqx-cat.safetensors"


@pytest.fixture
def jobs(host: StandaloneHost, tmp_path: Path, settings: dict[str, Any]) -> Jobs:
    short = {**settings, "save_every": 10, "preview_every": 0}
    return Jobs(host, tmp_path / "data", build(InversionSettings, short))


def full_for(monkeypatch: pytest.MonkeyPatch, is_full: Callable[[Path], bool]) -> None:
    """Let the disk have no room for what is renamed to a path that ``is_full`` knows."""
    replace_file, link = Path.replace, os.link

    def failing(self: Path, target: Path) -> Path:
        if is_full(Path(target)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replace_file(self, target)

    def failing_link(source: Path, target: Path) -> None:
        if is_full(Path(target)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        link(source, target)

    monkeypatch.setattr(Path, "replace", failing)
    monkeypatch.setattr(os, "link", failing_link)


def test_a_disk_that_fills_up_costs_the_steps_since_the_last_save(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = read_embedding(jobs.start().embedding).vectors["clip_l"]
    jobs.result.unlink()
    with monkeypatch.context() as patched:
        full_for(patched, lambda path: path.name == "zqx-cat-000020.safetensors")
        full_for(patched, lambda path: path.name == "state.before.safetensors")
        with pytest.raises(CannotWrite, match=r"zqx-cat-000020\.safetensors could not be written: .*no room"):
            jobs.start()
    assert jobs.said[-1] == f"saved up to step 10; resuming job {jobs.job.id} goes on from there"
    assert not jobs.result.exists()
    assert torch.equal(read_embedding(jobs.resume().embedding).vectors["clip_l"], whole)


def test_a_result_that_finds_no_room_needs_no_step_again(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        full_for(patched, lambda path: path == jobs.result)
        with pytest.raises(CannotWrite, match=r"zqx-cat\.safetensors could not be written"):
            jobs.start()
    assert jobs.said[-1].startswith("saved up to step 20; resuming")
    assert jobs.job.load_state().step == 20
    assert read_embedding(jobs.resume().embedding).step == 20


def test_what_somebody_else_put_there_meanwhile_stays(jobs: Jobs) -> None:
    theirs = Embedding("zqx-cat", {"clip_l": torch.ones(1, 64)}, step=7)

    def put(event: Event) -> None:
        if isinstance(event, Message) and event.text.startswith("job "):
            jobs.result.parent.mkdir()
            write_safetensors(theirs, jobs.result)
        jobs(event)

    with pytest.raises(JobFailed, match=r"trained, and not put in its place: .*exists"):
        start(jobs.host, jobs.settings, model="builtin", **{**jobs.told, "report": put})
    assert read_embedding(jobs.result).step == 7
    jobs.result.unlink()
    assert read_embedding(jobs.resume().embedding).step == 20


def test_a_folder_that_may_not_be_written_is_said_before_the_first_step(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs.result.parent.mkdir(parents=True)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != jobs.result.parent)
    with pytest.raises(BadInput, match="embeddings is read-only, or not this user's; allow writing there"):
        jobs.start()
    assert not folders_under(jobs.data).jobs.exists()


def test_two_at_one_job_are_one_too_many(jobs: Jobs) -> None:
    jobs.start()
    with jobs.job.alone(), pytest.raises(BadInput, match="at work in another process"):
        jobs.resume()


def test_a_preview_that_a_kill_prevented_is_drawn_on_resuming(jobs: Jobs) -> None:
    jobs.start(preview_every=10, preview_count=1, preview_steps=1)
    last = jobs.job.previews()[20][0]
    drawn = last.read_bytes()
    last.unlink()
    jobs.resume()
    assert last.read_bytes() == drawn


def test_a_card_that_a_killed_process_was_drawing_does_not_stay(jobs: Jobs) -> None:
    jobs.start()
    card = folders_under(jobs.data).cards / "zqx-cat.png"
    card.with_name(f".{card.name}.abc.tmp").touch()
    jobs.resume()
    assert list(card.parent.iterdir()) == [card]


def test_a_picture_that_is_gone_is_named(jobs: Jobs) -> None:
    jobs.start()
    (Path(jobs.settings.images) / "1.png").unlink()
    with pytest.raises(BadInput, match=r"have changed since \(.*1\.png: gone\); put them back"):
        jobs.resume()


def test_a_full_disk_does_not_hide_that_a_job_is_done(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = jobs.start()
    full_for(monkeypatch, lambda path: path.name == "result.json")
    assert conclude(outcome)["status"] == "done"
    said = capsys.readouterr().err
    assert "warning:" in said and "result.json could not be written" in said and "done: " in said


def test_what_only_saves_time_costs_no_job(
    tmp_path: Path,
    settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    files = KnownFiles(tmp_path / "files.json")
    picture = Path(settings["images"]) / "0.png"
    os.utime(picture, (1, 1))
    files.facts(picture)
    full_for(monkeypatch, lambda path: True)
    files.save()
    assert "files.json could not be written" in caplog.text and not (tmp_path / "files.json").exists()


def test_latents_that_a_killed_process_was_writing_do_not_stay(tmp_path: Path) -> None:
    store = LatentStore(tmp_path, lambda pixels: (pixels, pixels))
    store.get("a", {"mean"}, lambda: {"mean": torch.zeros(1)})
    (file,) = tmp_path.rglob("*.safetensors")
    file.with_name(f".{file.name}.abc.tmp").touch()
    somebodys = file.with_name(".other.safetensors.abc.tmp")
    somebodys.touch()
    store.trim()
    assert set(file.parent.iterdir()) == {file, somebodys}


def test_a_failed_job_lets_the_next_one_run(
    workshop: Workshop, place: StandalonePlace, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # From when the first one has begun to wait.
    full_for(
        monkeypatch,
        lambda path: ("zqx-dog" in str(path) and "waiting" not in path.name) or path.name == "result.json",
    )
    with place.lock:
        first = workshop.train({**settings, "name": "zqx-dog", "preview_every": 0})
        second = workshop.train({**settings, "preview_every": 0})
    failed, done = ended(workshop, first), ended(workshop, second)
    assert failed.status == "failed" and "no room left; free some" in str(failed.error)
    assert (done.status, done.step) == ("done", 20)
    assert any("the result could not be written down" in text for text in done.messages)


def test_a_job_is_told_of_whatever_its_folder_holds(
    workshop: Workshop, place: StandalonePlace, settings: dict[str, Any]
) -> None:
    job = workshop.train({**settings, "preview_every": 0})
    assert ended(workshop, job).status == "done"
    folder = place.folders().jobs / job
    (folder / "loss.csv").write_bytes(b"step,loss,learning_rate\n1,0.5,0.1\n\0\0\0")
    (folder / "result.json").write_text("{")
    (folder / "copies" / "mine.safetensors").touch()
    later = Workshop(place).status(job)
    assert (later.status, later.step, later.saved_steps) == ("broken off", 1, [10, 20])


def test_an_error_of_ours_is_told_where_its_details_find_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "run", fail)
    full_for(monkeypatch, lambda path: path.name == "error.log")
    assert cli.main(["demo", "--json"]) == 1
    out, err = capsys.readouterr()
    assert "ZeroDivisionError" in json.loads(out.splitlines()[-1])["error"] and "error.log could not" in err
