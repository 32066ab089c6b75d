"""One job on one host, from where it stands to the end; what it reports on the way."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from lib_ti.core.errors import JobFailed
from lib_ti.core.files import write_atomically
from lib_ti.core.job import Job
from lib_ti.core.loop import Loop, Progress
from lib_ti.core.schedule import parse_learning_rate
from lib_ti.data.samples import TrainingSet
from lib_ti.data.templates import fill
from lib_ti.formats.together import write_together
from lib_ti.hosts.base import Embeddings, Host, SampleRequest
from lib_ti.methods.kind import Words
from lib_ti.methods.registry import kind_of
from lib_ti.methods.textual_inversion import InversionSettings


@dataclass(frozen=True)
class Message:
    """A sentence for whoever watches."""

    text: str


@dataclass(frozen=True)
class Preview:
    """Pictures drawn with the vectors of ``step``."""

    step: int
    paths: list[Path]


Event = Message | Progress | Preview


@dataclass(frozen=True)
class Outcome:
    """How a job ended. ``files``: one for each word, in the embeddings folder when done, else copies in the
    job's."""

    status: Literal["done", "stopped"]
    job: Job
    step: int
    files: Sequence[Path]
    loss: float | None  # mean of the last 50 steps
    seconds: float

    @property
    def embedding(self) -> Path:
        """The file of the word for the prompt."""
        return self.files[0]

    def as_json(self) -> dict[str, Any]:
        return {
            "status": self.status,
            "job": self.job.id,
            "step": self.step,
            **told_files(self.files),
            "loss": self.loss,
            "seconds": round(self.seconds, 1),
        }


def told_files(files: Sequence[Path]) -> dict[str, str | None]:
    """The files of a job's words, for people and programs."""
    positive, negative = [*map(str, files), None, None][:2]
    return {"embedding": positive, "negative_embedding": negative}


def picture_size(host: Host, settings: InversionSettings) -> tuple[int, int]:
    """Width and height in pixels."""
    return settings.width or host.info.native_size, settings.height or host.info.native_size


def saved_steps(job: Job) -> list[int]:
    """The steps of which the job's folder has a copy."""
    return sorted({int(path.stem.rpartition("-")[2]) for path in job.copies.glob("*.safetensors")})


def copies_of(job: Job, words: Words, step: int) -> list[Path]:
    """A file for each word, in the job's folder."""
    return [job.copies / f"{word}-{step:06d}.safetensors" for word in words.all]


class Run:
    """One job on one host: trains from the saved state, or from the start, to the end."""

    def __init__(
        self,
        host: Host,
        settings: InversionSettings,
        samples: TrainingSet,
        job: Job,
        targets: Sequence[Path],
        report: Callable[[Event], None],
        start: Embeddings,
    ) -> None:
        self.host, self.settings, self.samples = host, settings, samples
        self.job, self.targets, self.report = job, targets, report
        self.kind = kind_of(settings)
        self.words = self.kind.words(settings)
        self.started = time.monotonic()
        self.recent: deque[float] = deque(maxlen=50)
        self.method = self.kind.make(host, settings, samples, start)
        self.loop = Loop(self.method, parse_learning_rate(settings.learning_rate), job.load_state())
        job.forget_losses_after(self.loop.step)

    def execute(self, stopped: Callable[[], bool]) -> Outcome:
        """Whatever ends it early, what is good so far has been saved. Raises JobFailed."""
        try:
            status = self.loop.run(
                self.settings.steps, due=self._due, on_progress=self._progress, stopped=stopped
            )
        except BaseException:
            self.loop.restore(self.loop.good)
            self._leave()
            raise
        files = self._leave()
        if status == "done":
            files = self._save(self.targets)
        loss = sum(self.recent) / len(self.recent) if self.recent else None
        return Outcome(status, self.job, self.loop.step, files, loss, time.monotonic() - self.started)

    def _due(self, step: int) -> bool:
        s = self.settings
        return any(every and step % every == 0 for every in (s.save_every, s.copy_every, s.preview_every))

    def _progress(self, progress: Progress) -> None:
        step, settings = progress.step, self.settings
        self.job.append_losses(progress.rows)
        self.recent.extend(row[1] for row in progress.rows)
        self.report(progress)
        if step % settings.save_every == 0:
            self.job.save_state(self.loop.good)
        if settings.copy_every and step % settings.copy_every == 0:
            self._save_copy()
        if settings.preview_every and (step % settings.preview_every == 0 or step == settings.steps):
            self._preview(step)

    def _leave(self) -> Sequence[Path]:
        """Save what is good so far, so that the job can be resumed."""
        self.job.save_state(self.loop.snapshot())
        return self._save_copy()

    def _save_copy(self) -> Sequence[Path]:
        return self._save(copies_of(self.job, self.words, self.loop.step))

    def _save(self, paths: Sequence[Path]) -> Sequence[Path]:
        """The words as they are now, into ``paths``, together or not at all."""
        vectors = self.kind.vectors(self.method.parameters(), self.settings)
        made = self.kind.export(vectors, self.host, self.settings, self.loop.step, self.job.id)
        write_together(dict(zip(paths, made, strict=True)))
        return paths

    def _preview(self, step: int) -> None:
        """Draw and keep pictures; no picture is worth the run, so one that fails is skipped."""
        try:
            # A method may derive its vectors from what it trains, which the last step has changed.
            self.host.set_embeddings(self.kind.vectors(self.method.parameters(), self.settings))
            images = self.host.sample(_preview_request(self.host, self.settings, self.samples))
        except Exception as error:
            reason = _MEMORY_REMEDY if _out_of_memory(error) else error
            self.report(Message(f"the preview of step {step} was skipped: {reason}"))
            return
        paths = [self.job.samples / f"step-{step:06d}-{i}.png" for i in range(len(images))]
        for path, image in zip(paths, images, strict=True):
            write_atomically(path, partial(image.save, format="PNG"))
        self.report(Preview(step, paths))


def preview_prompt(settings: InversionSettings, lines: Sequence[str], captions: Sequence[str]) -> str:
    return fill(settings.preview_prompt or lines[0], name=settings.name, filewords=captions[0])


def preview_negative(settings: InversionSettings) -> str:
    """The negative prompt of the previews; the word that is for it comes first, unless it is there."""
    words = kind_of(settings).words(settings)
    told = fill(settings.preview_negative, name=words.negative or words.positive, filewords="")
    if words.negative in told:  # an empty one is in every text
        return told
    return ", ".join(filter(None, (words.negative, told)))


def _preview_request(host: Host, settings: InversionSettings, samples: TrainingSet) -> SampleRequest:
    width, height = picture_size(host, settings)
    prompt = preview_prompt(settings, samples.lines, samples.captions)
    return SampleRequest(
        prompts=[prompt] * settings.preview_count,
        seeds=[settings.preview_seed + i for i in range(settings.preview_count)],
        negative_prompt=preview_negative(settings),
        steps=settings.preview_steps,
        cfg_scale=settings.preview_cfg,
        width=settings.preview_width or width,
        height=settings.preview_height or height,
        sampler=settings.preview_sampler,
    )


_MEMORY_REMEDY = (
    "there is not enough memory; take fewer pictures at once (batch-size, preview-count) or smaller ones "
    "(width, height), or close what else uses the device."
)


def _out_of_memory(error: BaseException) -> bool:
    # PyTorch's allocator on the CPU has no error class of its own.
    return isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or "can't allocate memory" in str(
        error
    )


@contextmanager
def memory_told() -> Iterator[None]:
    """Raises JobFailed with a remedy in the place of an out-of-memory error."""
    try:
        yield
    except Exception as error:
        if not _out_of_memory(error):
            raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise JobFailed(f"Stopped: {_MEMORY_REMEDY}") from error
