"""One job on one host, from where it stands to the end; what it reports on the way."""

from __future__ import annotations

import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch

from lib_ti.core.errors import BadInput, JobFailed
from lib_ti.core.files import CannotWrite, new_files, remove, reserved, write_atomically
from lib_ti.core.job import Job, TrainState
from lib_ti.core.loop import Loop, Progress
from lib_ti.core.schedule import learning_rate_of
from lib_ti.data.evaluation import evaluation_batches
from lib_ti.data.samples import Batch, TrainingSet
from lib_ti.data.templates import fill
from lib_ti.formats.together import write_together
from lib_ti.hosts.base import Embeddings, Host, SampleRequest
from lib_ti.job_memory import MEMORY_REMEDY, Memory, out_of_memory
from lib_ti.methods.gauge import VectorReport, measure, told
from lib_ti.methods.kind import ROLES, JobSettings, Product
from lib_ti.methods.loss_advice import LossAdvice
from lib_ti.methods.registry import kind_of


@dataclass(frozen=True)
class Message:
    """A sentence for whoever watches."""

    text: str


@dataclass(frozen=True)
class Preview:
    """Pictures drawn with the vectors of ``step``."""

    step: int
    paths: list[Path]


@dataclass(frozen=True)
class Copied:
    """The job has kept a copy of what it had learned at ``step``, of ``steps``."""

    step: int
    steps: int
    files: Mapping[Product, Path]


@dataclass(frozen=True)
class Evaluation:
    """The loss of the fixed batch at ``step``, and the step whose vectors did best so far."""

    step: int
    loss: float
    best_step: int


@dataclass(frozen=True)
class Drawn:
    """So many regularisation pictures are there, of ``count``; the job has not begun yet."""

    there: int
    count: int


Event = Message | Progress | Preview | Copied | Evaluation | Drawn


@dataclass(frozen=True)
class Outcome:
    """How a job ended. ``files``: where prompts find them when done, else copies in the job's folder."""

    status: Literal["done", "stopped"]
    job: Job
    step: int
    files: Mapping[Product, Path]
    loss: float | None  # mean of the last 50 steps
    seconds: float
    kept_step: int  # the one that the files are of
    vectors: Sequence[VectorReport]
    messages: Sequence[str] = ()  # all that was said of the job, what was left out or taken otherwise too

    @property
    def embedding(self) -> Path:
        """The file of the word for the prompt."""
        return next(file for product, file in self.files.items() if product.role == "embedding")

    def as_json(self) -> dict[str, Any]:
        return {
            "status": self.status,
            "job": self.job.id,
            "step": self.step,
            **told_files(self.files),
            "loss": self.loss,
            "seconds": round(self.seconds, 1),
            "kept_step": self.kept_step,
            "vectors": [asdict(report) for report in self.vectors],
            "messages": list(self.messages),
        }


def told_files(files: Mapping[Product, Path]) -> dict[str, Any]:
    """A job's files by what they are for, for people and programs; those of further words apart."""
    first: dict[str, Any] = {}
    others = []
    for product, file in files.items():
        if first.setdefault(product.role, str(file)) != str(file):
            others.append(str(file))
    return {**dict.fromkeys(ROLES), **first, "other_embeddings": others}


def picture_size(host: Host, settings: JobSettings) -> tuple[int, int]:
    """Width and height in pixels."""
    return settings.width or host.info.native_size, settings.height or host.info.native_size


def saved_steps(job: Job) -> list[int]:
    """The steps of which the job's folder has a copy."""
    endings = {path.stem.rpartition("-")[2] for path in job.copies.rglob("*.safetensors")}
    return sorted(int(ending) for ending in endings if ending.isdecimal())


def copies_of(job: Job, products: Sequence[Product], step: int) -> dict[Product, Path]:
    """The files of a step in the job's folder; an embedding may have the name of a network."""
    networks = job.copies / "networks"
    return {
        product: (job.copies if product.is_embedding else networks) / f"{product.name}-{step:06d}.safetensors"
        for product in products
    }


def started_from(job: Job, settings: JobSettings) -> Embeddings | None:
    """The vectors of each word that the job began with, from its saved state; None: there is none yet."""
    state = job.load_state()
    if state is None:
        return None
    start = {name: state.beside.get(name, {}).get("start", now) for name, now in state.parameters.items()}
    return kind_of(settings).vectors(start, settings)


@contextmanager
def in_their_place(
    job: Job, still_free: Callable[[], Mapping[Product, Path]]
) -> Iterator[Mapping[Product, Path]]:
    """The places of the job's files are this block's alone, to write into. What lies there may be replaced
    when ``still_free`` gives the places; where nothing lies, nothing that comes meanwhile is replaced.

    Raises BadInput as that does, and where somebody else makes a file of one of the names.
    """
    places = still_free()
    with reserved(places.values(), job.id):
        places = still_free()
        with new_files([path for path in places.values() if not path.exists()], whose=job.id):
            yield places


class Run:
    """One job on one host: trains from the saved state, or from the start, to the end."""

    def __init__(
        self,
        host: Host,
        settings: JobSettings,
        samples: TrainingSet,
        job: Job,
        targets: Mapping[Product, Path],
        report: Callable[[Event], None],
        start: Embeddings,
        still_free: Callable[[], Mapping[Product, Path]],
    ) -> None:
        """``still_free``: ``targets``; raises BadInput where another file has taken the place of one."""
        self.still_free = still_free
        self.host, self.settings, self.samples = host, settings, samples
        self.job, self.targets, self.report = job, targets, report
        self.kind = kind_of(settings)
        self.started = time.monotonic()
        self.recent: deque[float] = deque(maxlen=50)
        self.method = self.kind.make(host, settings, samples, start)
        evaluation: Sequence[Batch] = ()
        if settings.evaluate_every:
            held = len(samples.looked_at(settings.evaluate_pictures))
            evaluation = evaluation_batches(self.method.draw, settings, samples.timesteps, held)
        parameters = self.method.parameters()
        words = self.kind.vectors(parameters, settings)
        self.loop = Loop(
            self.method,
            learning_rate_of(settings),
            saved := job.load_state(),
            settings,
            evaluation,
            vectors=list(parameters)[: sum(map(len, words.values()))],
            shares=self.method.shares(),
            after_step=self.method.after_step,
        )
        self.saved = saved.step if saved else None
        job.forget_losses_after(self.loop.step)
        self.advice = LossAdvice(settings, self.kind.failing_loss, samples.steps_of_epoch)
        self.advice(job.losses())  # what was said before the job was broken off is not said again
        self.memory = Memory(host, settings, self.loop, lambda sentence: report(Message(sentence)))

    def execute(self, stopped: Callable[[], bool]) -> Outcome:
        """Whatever ends it early, what is good so far has been saved, as far as the disk takes it, and it is
        said where the job can go on. Raises JobFailed, CannotWrite."""
        with self.method.attached():
            try:
                return self._execute(stopped)
            except BaseException:
                self.loop.restore(self.loop.good)
                with suppress(CannotWrite):
                    self._leave()
                self.report(Message(self._way_on()))
                raise

    def _way_on(self) -> str:
        if self.saved is None:
            return f"nothing was saved yet; resuming job {self.job.id} begins it anew"
        return f"saved up to step {self.saved}; resuming job {self.job.id} goes on from there"

    def _execute(self, stopped: Callable[[], bool]) -> Outcome:
        self.memory.fit()
        self._draw_what_is_owed()
        while (status := self._train(stopped)) is None:
            self.report(Message(f"memory ran out; going on from step {self.loop.step}"))
        files, kept, parameters = self._leave(), self.loop.step, self.loop.result()
        if status == "done":
            kept, parameters = self.loop.final()
            files = self._publish(kept, parameters)
        reports = self._report(kept, parameters)
        loss = sum(self.recent) / len(self.recent) if self.recent else None
        seconds = time.monotonic() - self.started
        return Outcome(status, self.job, self.loop.step, files, loss, seconds, kept, reports)

    def _train(self, stopped: Callable[[], bool]) -> Literal["done", "stopped"] | None:
        """To the end; None where memory ran out and the model now needs less, at the last good step."""
        try:
            return self.loop.run(
                self.settings.steps, due=self._due, on_progress=self._progress, stopped=stopped
            )
        except Exception as error:
            if not out_of_memory(error):
                raise
            # Its frames hold what the step had allocated.
            traceback.clear_frames(error.__traceback__)
            self.loop.restore(self.loop.good)
            if not self.memory.relieve():
                raise
        return None

    def _report(self, kept: int, parameters: Mapping[str, torch.Tensor]) -> list[VectorReport]:
        """Measure what came of the vectors, which are those of step ``kept``, and say it."""
        loop = self.loop
        if not loop.vectors:
            return []
        means = {
            name: total / max(1, loop.step - loop.settings.initial_step)
            for name, total in loop.gradients.items()
        }
        result = {name: parameters[name] for name in loop.vectors}
        reports = measure(self.host, self._by_parameter(result), self._by_parameter(loop.start), means)
        said = told(reports)
        if kept != loop.step:
            loss = loop.evaluations.best_row[1]
            said.append(f"kept the vectors of step {kept}, the best of those evaluated (loss {loss:.4g})")
        for sentence in said:
            self.report(Message(sentence))
        return reports

    def _by_parameter(self, parameters: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The vectors that these parameters stand for, by the parameters' names."""
        words = self.kind.vectors(parameters, self.settings)
        return dict(zip(parameters, (v for word in words.values() for v in word.values()), strict=True))

    def _due(self, step: int) -> bool:
        s = self.settings
        return any(every and step % every == 0 for every in (s.save_every, s.copy_every, s.preview_every))

    def _progress(self, progress: Progress) -> None:
        step, settings = progress.step, self.settings
        self.job.append_losses(progress.rows)
        self.recent.extend(row[1] for row in progress.rows)
        self.report(progress)
        for sentence in self.advice(progress.rows):
            self.report(Message(sentence))
        if progress.evaluation is not None:
            self.job.append_evaluations([(step, progress.evaluation)])
            best, _ = self.loop.evaluations.best_row
            self.report(Evaluation(step, progress.evaluation, best))
        # A job that is killed between the two goes on before this step, and so misses no copy.
        if settings.copy_every and step % settings.copy_every == 0:
            self.report(Copied(step, settings.steps, self._save_copy()))
            self._forget_copies()
        if step % settings.save_every == 0:
            self._save_state(self.loop.good)
        if self._draws_at(step):
            self._preview(step)

    def _draws_at(self, step: int) -> bool:
        if self.settings.preview_first and step == self.settings.initial_step:
            return True
        every = self.settings.preview_every
        return bool(every) and step > 0 and (step % every == 0 or self._ends_at(step))

    def _ends_at(self, step: int) -> bool:
        return step == self.settings.steps or self.loop.evaluations.settled

    def _draw_what_is_owed(self) -> None:
        """The preview of the step that a job stands at which was killed while it drew."""
        if self._draws_at(self.loop.step) and self.loop.step not in self.job.previews():
            self._preview(self.loop.step)

    def _save_state(self, state: TrainState) -> None:
        self.job.save_state(state)
        self.saved = state.step

    def _leave(self) -> Mapping[Product, Path]:
        """Save what is good so far, so that the job can be resumed."""
        self._save_state(self.loop.snapshot())
        return self._save_copy()

    def _publish(self, step: int, parameters: Mapping[str, torch.Tensor]) -> Mapping[Product, Path]:
        """Put what was learned where prompts find it, but in the place of nobody else's file."""
        try:
            with in_their_place(self.job, self.still_free):
                return self._save(self.targets, step, parameters)
        except BadInput as error:
            raise JobFailed(f"The job is trained, and not put in its place: {error}") from error

    def _save_copy(self) -> Mapping[Product, Path]:
        step = self.loop.step
        return self._save(copies_of(self.job, list(self.targets), step), step, self.loop.result())

    def _forget_copies(self) -> None:
        """Delete all copies but the latest and the best. Later ones than now, which a job that was killed
        has left, will be written again."""
        last, evaluations = self.settings.keep_last, self.loop.evaluations
        past = [step for step in saved_steps(self.job) if step <= self.loop.step]
        best = evaluations.best_row[0] if evaluations.rows else None
        for step in past[:-last] if last else ():
            if step != best:
                for path in copies_of(self.job, list(self.targets), step).values():
                    remove(path)

    def _save(
        self, files: Mapping[Product, Path], step: int, parameters: Mapping[str, torch.Tensor]
    ) -> Mapping[Product, Path]:
        """What ``parameters`` have learned, into ``files``, together or not at all."""
        writers = self.method.export(parameters, step, self.job.id)
        write_together(dict(zip(files.values(), writers, strict=True)))
        return files

    def _preview(self, step: int) -> None:
        """Draw and keep pictures; no picture is worth the run, so one that fails is skipped."""
        parameters = self.loop.final()[1] if self._ends_at(step) else self.loop.result()
        paths = []
        try:
            with self.loop.showing(parameters):
                # A method may derive its vectors from what it trains, which the last step has changed.
                self.host.set_embeddings(self.kind.vectors(self.method.parameters(), self.settings))
                images = self.host.sample(_preview_request(self.host, self.settings, self.samples))
            for i, image in enumerate(images):
                paths.append(self.job.samples / f"step-{step:06d}-{i}.png")
                write_atomically(paths[-1], partial(image.save, format="PNG"))
        except Exception as error:
            reason = MEMORY_REMEDY if out_of_memory(error) else error
            self.report(Message(f"the preview of step {step} was skipped: {reason}"))
            return
        self.report(Preview(step, paths))


def preview_prompts(
    settings: JobSettings, lines: Sequence[str], captions: Sequence[str], names: Sequence[str]
) -> list[str]:
    """As it is told, or the first line of the template, without words that are for the negative prompt; one
    for each word, as far as they differ. ``names``: what [name] is with each of the captions."""
    words = kind_of(settings).words(settings)
    if words.for_negative and not words.for_prompt and not settings.preview_prompt:
        bare = " ".join(fill(lines[0], name="", filewords=captions[0]).split())
        return [bare.replace(" ,", ",").strip(" ,")]
    line = settings.preview_prompt or lines[0]
    if not words.others:
        return [fill(line, name=settings.trigger, filewords=captions[0])]
    prompts = (
        fill(line, name=word, filewords=_caption_of(word, captions, names), others=words.others)
        for word in (settings.trigger, *words.others)
    )
    return list(dict.fromkeys(prompts))


def _caption_of(word: str, captions: Sequence[str], names: Sequence[str]) -> str:
    """The first that has the word; or of which it is the name; or of all."""
    having = (caption for caption in captions if word in caption)
    named = (caption for caption, name in zip(captions, names, strict=True) if name == word)
    return next(chain(having, named, captions))


def preview_negative(settings: JobSettings) -> str:
    """The negative prompt of the previews; words that are for it come first, unless they are there."""
    words = kind_of(settings).words(settings)
    name = words.negative or settings.trigger
    told = fill(settings.preview_negative, name=name, filewords="", others=words.others)
    return ", ".join(filter(None, (*(word for word in words.for_negative if word not in told), told)))


def _preview_request(host: Host, settings: JobSettings, samples: TrainingSet) -> SampleRequest:
    width, height = picture_size(host, settings)
    prompts = preview_prompts(settings, samples.lines, samples.captions, samples.names)
    seeds = [settings.preview_seed + i for i in range(settings.preview_count)]
    return SampleRequest(
        prompts=[prompt for prompt in prompts for _ in seeds],
        seeds=seeds * len(prompts),
        negative_prompt=preview_negative(settings),
        steps=settings.preview_steps,
        cfg_scale=settings.preview_cfg,
        width=settings.preview_width or width,
        height=settings.preview_height or height,
        sampler=settings.preview_sampler,
    )


@contextmanager
def memory_told() -> Iterator[None]:
    """Raises JobFailed with a remedy in the place of an out-of-memory error."""
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise JobFailed(f"Stopped: {MEMORY_REMEDY}") from error
