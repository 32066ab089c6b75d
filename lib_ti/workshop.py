"""The workshop: jobs that run in the background of a program, for its page and its HTTP interface alike.

A job lives here and not in a browser: closing or reloading the page does nothing to it.
"""

from __future__ import annotations

import logging
import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from PIL import Image

from lib_ti import jobs
from lib_ti.core.errors import BadInput, Interrupted, StudioError
from lib_ti.core.job import Job, recorded
from lib_ti.core.loop import check_learning
from lib_ti.core.names import files_inside, local_path
from lib_ti.core.picture_settings import PRIVATE
from lib_ti.core.settings import as_dict, build
from lib_ti.core.text import as_text
from lib_ti.data.templates import list_templates
from lib_ti.formats.embedding import Embedding, read_embedding, read_embeddings, whole_files
from lib_ti.formats.suffixes import EMBEDDINGS
from lib_ti.hosts.base import Host, Place
from lib_ti.job_run import saved_steps, told_files
from lib_ti.methods.kind import JobSettings, Product, Words
from lib_ti.methods.registry import kind_of, read_settings
from lib_ti.methods.suggest import Suggestion
from lib_ti.methods.trained_words import find_words, list_words
from lib_ti.runs import RUNNING, Run, State, Status, status_of
from lib_ti.tools.at_work import Works
from lib_ti.tools.registry import find_tool
from lib_ti.tools.tool import CARDS, Answer, Context, in_folders, list_files

log = logging.getLogger(__name__)


class Workshop:
    """Creates, trains, stops, lists and publishes, one job after the other, on what ``place`` lends."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.published = 0  # files put where prompts find them since the program started
        self.works = Works()
        self._runs: dict[str, Run] = {}
        self._lock = threading.Lock()

    def create(self, values: Mapping[str, Any]) -> Mapping[Product, Path]:
        """Untrained embeddings, ready to be called or trained, one for each word. Raises BadInput."""
        settings = _settings(values)
        asks = settings.start_asks_model
        with self.place.turn(settings.clip_skip) if asks else nullcontext(self.place.look()) as host:
            files = jobs.create(host, settings, self.place.folders())
        self._announce(files, None, "not trained yet")
        return files

    def suggest(self, values: Mapping[str, Any]) -> list[Suggestion]:
        """Words to start from, the likeliest first. Raises BadInput, also while a job has the model: nobody
        would wait that long for an answer."""
        settings, folders = jobs.told_to_suggest(_from_outside(values)), self.place.folders()
        jobs.read_source(settings, folders)
        with self._short_turn(settings.clip_skip) as host:
            return jobs.suggest(host, settings, folders=folders, say=log.info, stopped=self.place.interrupted)

    def train(self, values: Mapping[str, Any]) -> str:
        """Start a job in the background; its id. Raises BadInput for what is wrong at first sight: what
        only the model can tell is said by the job's status."""
        settings = _settings(values)
        folders = self.place.folders()
        jobs.check_sampler(settings, self.place.sampler_names())
        jobs.check_targets(settings, folders)
        settings, _ = jobs.settle(settings, folders)
        check_learning(settings)
        with self._lock:
            self._refuse_names_in_use(settings)
            run = Run(Job.reserve(folders.jobs, settings.name), settings)
            return self._begin(run, resumed=False)

    def resume(self, job: str) -> str:
        """Go on with a job that was stopped, failed or was broken off. Raises BadInput."""
        found = self._find(job)
        settings = jobs.settings_of(found.settings())
        with self._lock:
            self._refuse_names_in_use(settings)
            if (found.result() or {}).get("status") == "done":
                raise BadInput(f"job {job} is done; start a new one.")
            return self._begin(Run(found, settings), resumed=True)

    def _refuse_names_in_use(self, settings: JobSettings) -> None:
        for run in self._runs.values():
            in_use = _names(run.settings) if run.state in RUNNING else set()
            for name in sorted(_names(settings) & in_use):
                raise BadInput(f"job {run.job.id} trains {name!r} already; wait for it, or stop it.")

    def _begin(self, run: Run, *, resumed: bool) -> str:
        self._runs[run.job.id] = run
        run.thread = threading.Thread(
            target=self._work, args=(run, resumed), name=f"ti-studio {run.job.id}", daemon=True
        )
        run.thread.start()
        return run.job.id

    def _work(self, run: Run, resumed: bool) -> None:
        """The job's thread: whatever happens in it becomes the job's state."""
        try:
            with self.place.turn(run.settings.clip_skip) as host:
                if not run.stop.is_set():
                    run.state = "preparing"
                    self._train(run, host, resumed)
            state: State = "done" if run.files else "stopped"
            saved = saved_steps(run.job)
            if run.publish and saved and not run.files:
                run.files = self.publish(run.job.id, saved[-1])
        except Interrupted as error:
            run.messages.append(str(error))
            state = "stopped"
        except StudioError as error:
            run.error, state = str(error), "failed"
        except Exception as error:  # a bug or the machine's; it must not look like success
            log.exception("job %s", run.job.id)
            run.error, state = f"{type(error).__name__}: {error}", "failed"
        self._conclude(run, state)

    def _train(self, run: Run, host: Host, resumed: bool) -> None:
        folders = self.place.folders()

        def stopped() -> bool:
            return run.stop.is_set() or self.place.interrupted()

        if resumed:
            outcome = jobs.resume(host, run.job, folders=folders, report=run, stopped=stopped)
        else:
            outcome = jobs.start(
                host,
                run.settings,
                folders=folders,
                model=host.info.name,
                report=run,
                stopped=stopped,
                job=run.job,
            )
        run.outcome = outcome
        if outcome.status == "done":
            run.files = outcome.files
            self._announce_step(run.files, run.job, outcome.kept_step)

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

    def _conclude(self, run: Run, state: State) -> None:
        """Write down how it ended; the state changes last, so that who sees it finds everything there."""
        try:
            if run.job.id in Job.known(self.place.folders().jobs):
                run.job.write_result(
                    {
                        **(run.outcome.as_json() if run.outcome else {}),
                        "status": state,
                        "job": run.job.id,
                        "step": run.status().step,
                        **told_files(run.files),
                        "error": run.error,
                        "messages": run.status().messages,
                    }
                )
            else:
                run.job.discard()
        except (OSError, StudioError) as error:  # a disk that is full must not hide how the job ended
            run.messages.append(f"the result could not be written down: {error}")
        finally:
            run.state = state

    def stop(self, job: str, *, publish: bool = False) -> None:
        """Ask a job to stop; it saves, and can be resumed. ``publish``: what it has goes where prompts find
        it. Raises BadInput where it does not run."""
        run = self._runs.get(job)
        if run is None or run.state not in RUNNING:
            raise BadInput(f"job {job} does not run; it is {self.status(job).status}.")
        run.publish = run.publish or publish
        run.stop.set()

    def publish(self, job: str, step: int) -> Mapping[Product, Path]:
        """Put a saved step of a job where prompts find it. Raises BadInput."""
        found = self._find(job)
        files = jobs.publish(found, step, self.place.folders())
        self._announce_step(files, found, step)
        return files

    def status(self, job: str) -> Status:
        """A job, of this process or an earlier one. Raises BadInput where there is none."""
        run = self._runs.get(job)
        return run.status() if run else status_of(self._find(job))

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
        waiting = [job for job, run in self._runs.items() if run.state in RUNNING]
        return sorted({*Job.known(self.place.folders().jobs), *waiting}, reverse=True)

    def current(self) -> str | None:
        """The job that a page should show: the one that runs, else the last of this process."""
        runs = list(self._runs.values())
        running = [run for run in runs if run.state in RUNNING]
        return next((run.job.id for run in [*running[:1], *runs[::-1]]), None)

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


def _settings(values: Mapping[str, Any]) -> JobSettings:
    settings = _from_outside(values)
    if not settings.name:
        raise BadInput("name: missing; give the new word, such as my-cat.")
    return settings


def _from_outside(values: Mapping[str, Any]) -> JobSettings:
    """Settings that any web page may have sent: they can name what is read, and nothing to be written.
    Raises BadInput."""
    settings = read_settings(values)
    for name in sorted(PRIVATE & as_dict(settings).keys()):
        if getattr(settings, name):
            local_path(getattr(settings, name))
    if settings.make_reg and settings.reg_images:
        raise BadInput(
            "make-reg: pictures are drawn into a folder of the studio's own here; leave reg-images empty, or "
            "draw them on the command line."
        )
    return settings


def _names(settings: JobSettings) -> set[str]:
    return {product.name.lower() for product in kind_of(settings).products(settings)}


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
