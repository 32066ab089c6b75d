"""The workshop: jobs that run in the background of a program, for its page and its HTTP interface alike.

A job lives here and not in a browser: closing or reloading the page does nothing to it.
"""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from lib_ti import jobs
from lib_ti.core.errors import BadInput
from lib_ti.core.job import Job, recorded
from lib_ti.core.names import files_inside, folders_inside, local_path
from lib_ti.core.picture_settings import PRIVATE
from lib_ti.core.settings import as_dict, build, options_of
from lib_ti.core.text import as_text
from lib_ti.data.templates import find_template, list_templates
from lib_ti.formats.embedding import Embedding, read_embedding, read_embeddings, whole_files
from lib_ti.formats.suffixes import EMBEDDINGS
from lib_ti.hosts.base import Folders, Host, Place
from lib_ti.job_queue import JobQueue
from lib_ti.methods.kind import JobSettings, Product, Words
from lib_ti.methods.registry import read_settings
from lib_ti.methods.suggest import Suggestion
from lib_ti.methods.trained_words import find_words, list_words
from lib_ti.runs import RUNNING, Run, Status, status_of
from lib_ti.tools.at_work import Works
from lib_ti.tools.registry import find_tool
from lib_ti.tools.tool import CARDS, Answer, Context, each, in_folders, list_files

log = logging.getLogger(__name__)


class Workshop:
    """Creates, trains, stops, lists and publishes, one job after the other, on what ``place`` lends."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.published = 0  # files put where prompts find them since the program started
        self.works = Works()
        self._queue = JobQueue(place, self._announce_step)
        self._runs = {run.job.id: run for run in self._queue.take_up()}

    def create(self, values: Mapping[str, Any]) -> Mapping[Product, Path]:
        """Untrained embeddings, ready to be called or trained, one for each word. Raises BadInput."""
        settings = _settings(values, self.place.folders())
        asks = settings.start_asks_model
        with self.place.turn(settings.clip_skip) if asks else nullcontext(self.place.look()) as host:
            files = jobs.create(host, settings, self.place.folders())
        self._announce(files, None, "not trained yet")
        return files

    def suggest(self, values: Mapping[str, Any]) -> list[Suggestion]:
        """Words to start from, the likeliest first. Raises BadInput, also while a job has the model: nobody
        would wait that long for an answer."""
        folders = self.place.folders()
        settings = jobs.told_to_suggest(_from_outside(values, folders))
        find_template(settings.template, folders.templates)  # by its name alone
        jobs.read_source(settings, folders)
        with self._short_turn(settings.clip_skip) as host:
            return jobs.suggest(host, settings, folders=folders, say=log.info, stopped=self.place.interrupted)

    def train(self, values: Mapping[str, Any]) -> str:
        """Start a job in the background; its id. Raises BadInput for what is wrong at first sight: what
        only the model can tell is said by the job's status."""
        self._queue.check_room()
        folders = self.place.folders()
        settings = _settings(values, folders)
        find_template(settings.template, folders.templates)  # by its name alone
        jobs.check_sampler(settings, self.place.sampler_names())
        settings, _ = jobs.check(settings, folders)
        job = Job.reserve(folders.jobs, settings.name)
        try:
            return self._add(Run(job, settings))
        except BaseException:
            job.discard()
            raise

    def resume(self, job: str) -> str:
        """Go on with a job that was stopped, failed or was broken off. Raises BadInput."""
        found = self._find(job)
        if (found.result() or {}).get("status") == "done":
            raise BadInput(f"job {job} is done; start a new one.")
        return self._add(Run(found, jobs.settings_of(found.settings())))

    def _add(self, run: Run) -> str:
        self._queue.add(run)
        self._runs[run.job.id] = run
        self.go_on()
        return run.job.id

    def go_on(self) -> None:
        """Let jobs that have waited since an earlier process have their turns, in their order."""
        self._queue.go_on()

    def _announce_step(self, files: Mapping[Product, Path], job: Job, step: int) -> None:
        day = re.match(r"(\d{4})(\d\d)(\d\d)-", job.id)
        told = f"{step} steps on {recorded(job.settings(), 'model', str)}"
        told = ", ".join([told, *(["-".join(day.groups())] if day else [])])
        self._announce(files, _preview_of(job, step), told)

    def _announce(self, files: Mapping[Product, Path], preview: Path | None, description: str) -> None:
        for product, file in files.items():
            told = description
            if product.role == "negative_embedding":
                told = f"for the negative prompt, {told}"
            if product.is_embedding:
                told = ", ".join(filter(None, [f"{read_embedding(file).count} vectors", told]))
            self.place.published(file, preview, told)
            self.published += 1

    def stop(self, job: str, *, publish: bool = False) -> None:
        """Ask a job to stop; it saves, and can be resumed. ``publish``: what it has goes where prompts find
        it. Raises BadInput where it does not run."""
        run = self._runs.get(job)
        if run is None or run.state not in RUNNING:
            raise BadInput(f"job {job} does not run; it is {self.status(job).status}.")
        run.publish = run.publish or publish
        self._queue.stop(run)

    def publish(self, job: str, step: int) -> Mapping[Product, Path]:
        """Put a saved step of a job where prompts find it. Raises BadInput."""
        found = self._find(job)
        files = jobs.publish(found, step, self.place.folders())
        self._announce_step(files, found, step)
        return files

    def status(self, job: str) -> Status:
        """A job, of this process or an earlier one. Raises BadInput where there is none."""
        run = self._runs.get(job)
        if run is None:
            return status_of(self._find(job))
        running = self._running()
        return replace(run.status(), ahead=running.index(run) if run in running else 0)

    def _running(self) -> list[Run]:
        """The jobs that are at work or wait, the first first."""
        waiting = self._queue.waiting()
        at_work = [run for run in list(self._runs.values()) if run.state in RUNNING and run not in waiting]
        return [*at_work, *waiting]

    def waiting(self) -> list[str]:
        """The ids of the jobs whose turn has not come, the next first."""
        return [run.job.id for run in self._queue.waiting()]

    def losses(self, job: str) -> list[tuple[int, float, float]]:
        """(step, loss, learning rate) of every step so far."""
        run = self._runs.get(job)
        return run.losses if run else self._find(job).losses()

    def samples(self, job: str) -> dict[int, list[Path]]:
        """Step -> the preview pictures drawn then. Raises BadInput."""
        return self._find(job).previews()

    def sample(self, job: str, name: str) -> Path:
        """The file of a preview picture, by the name its status gives. Raises BadInput."""
        for paths in self.samples(job).values():
            for path in paths:
                if path.name == name:
                    return path
        raise BadInput(f"job {job} has no preview {name!r}.")

    def jobs(self) -> list[str]:
        """The ids of all jobs, the newest first; those still waiting count."""
        running = [run.job.id for run in self._running()]
        return sorted({*Job.known(self.place.folders().jobs), *running}, reverse=True)

    def current(self) -> str | None:
        """The job that a page should show: the one that runs, else the last of this process."""
        runs = [*self._running()[:1], *reversed(list(self._runs.values()))]
        return next((run.job.id for run in runs), None)

    def embeddings(self) -> list[dict[str, Any]]:
        """What lies in the embeddings folder: name, family, vectors, step, or why it cannot be read."""
        folder = self.place.folders().embeddings
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in EMBEDDINGS)
        return [
            {"file": as_text(path.relative_to(folder).as_posix()), **told}
            for path in files
            for told in _told_of(path)
        ]

    def use(self, group: str, name: str, values: Mapping[str, Any]) -> Answer:
        """Let a tool work on the files in this program's folders. Raises BadInput, and Interrupted where it
        was stopped before there was anything to keep."""
        tool = find_tool(group, name)
        place, folders = self.place, self.place.folders()
        settings = in_folders(build(tool.settings, values), folders)
        pressed = pressed_from_now(place.interrupted)
        with self.works.begun(f"{group} {name}") as work:
            context = Context(
                lambda: work.stop.is_set() or pressed(),
                work.progress,
                lambda: self._short_turn(0),
                place.look,
                folders,
            )
            answer = tool.run(settings, context)
        with _as_file(answer.preview) as preview:
            for file in whole_files(answer.written):
                if file.suffix.lower() not in EMBEDDINGS:
                    continue
                if file.is_relative_to(folders.embeddings):
                    told = _origin(read_embedding(file))
                    self._announce({Product(file.stem, "embedding"): file}, preview, told)
                elif file.is_relative_to(folders.networks):
                    self._announce({Product(file.stem, "network"): file}, preview, f"by {group} {name}")
        if any(file.parent in folders.checkpoints for file in answer.written):
            place.checkpoints_changed()
        return answer

    @contextmanager
    def _short_turn(self, clip_skip: int) -> Iterator[Host]:
        """For what somebody waits for. Raises BadInput while a job has the model: that would be too long."""
        current = self.current()
        if current and self.status(current).running:
            raise BadInput(f"job {current} uses the model; wait for it, or stop it.")
        with self.place.turn(clip_skip) as host:
            yield host

    def files(self, kind: str) -> list[str] | None:
        """The names of what is there of a kind that settings name; None where any may be given."""
        return list_files(kind, self.place.folders())

    def cards(self) -> list[Path]:
        """One's own, the latest first."""
        found = files_inside(self.place.folders().cards, CARDS).values()
        return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)

    def words(self) -> list[str]:
        """The words that lie in the embeddings folder, a pair by the one for the prompt."""
        return list_words(self.place.folders().embeddings)

    def find_words(self, word: str) -> Words:
        """Which prompts that word and its partner are for. Raises BadInput where there is none."""
        return find_words(self.place.folders().embeddings, word)

    def templates(self) -> list[str]:
        return sorted(list_templates(self.place.folders().templates))

    def _find(self, job: str) -> Job:
        return Job.open(self.place.folders().jobs, job)


def pressed_from_now(interrupted: Callable[[], bool]) -> Callable[[], bool]:
    """Whether a program's button was pressed from now on: it may still tell of an earlier time, until a turn
    begins."""
    stale = interrupted()

    def pressed() -> bool:
        nonlocal stale
        now = interrupted()
        stale = stale and now
        return now and not stale

    return pressed


def _told_of(file: Path) -> list[dict[str, Any]]:
    try:
        found = read_embeddings(file)
    except BadInput as error:
        return [{"error": str(error)}]
    return [
        {"name": e.name, "family": e.family, "vectors": e.count, "step": e.step, "negative": e.is_negative}
        for e in found
    ]


def _origin(embedding: Embedding) -> str:
    """What an embedding says of where it comes from."""
    steps = "" if embedding.step is None else f"{embedding.step} steps"
    on = f"on {embedding.metadata['base_model']}" if "base_model" in embedding.metadata else ""
    return ", ".join(filter(None, [f"{steps} {on}".strip(), embedding.metadata.get("made_by", "")]))


def _settings(values: Mapping[str, Any], folders: Folders) -> JobSettings:
    settings = _from_outside(values, folders)
    if not settings.name:
        raise BadInput("name: missing; give the new word, such as my-cat.")
    return settings


def _from_outside(values: Mapping[str, Any], folders: Folders) -> JobSettings:
    """Settings that any web page may have sent: they can name what is read, and nothing to be written.
    Raises BadInput."""
    settings = read_settings(values)
    for name in sorted(PRIVATE & as_dict(settings).keys()):
        given = getattr(settings, name)
        several = options_of(type(settings))[name][1].several
        for text in each(given) if several else filter(None, [given]):
            path = local_path(text)
            if text not in folders_inside(folders.datasets):
                folders.check_readable(path)
    if settings.make_reg and settings.reg_images:
        raise BadInput(
            "make-reg: pictures are drawn into a folder of the studio's own here; leave reg-images empty, or "
            "draw them on the command line."
        )
    return settings


@contextmanager
def _as_file(picture: Image.Image | None) -> Iterator[Path | None]:
    """Hosts take a preview from a file."""
    if picture is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "preview.png")
        picture.save(file)
        yield file


def _preview_of(job: Job, step: int) -> Path | None:
    """The last picture drawn by then."""
    drawn = [paths[0] for at, paths in job.previews().items() if at <= step]
    return drawn[-1] if drawn else None
