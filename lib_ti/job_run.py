"""One job on one host, from where it stands to the end; what it reports on the way."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from lib_ti.core.errors import JobFailed
from lib_ti.core.files import write_atomically
from lib_ti.core.job import Job
from lib_ti.core.loop import Loop, Progress
from lib_ti.core.schedule import learning_rate_of
from lib_ti.data.evaluation import evaluation_batches
from lib_ti.data.samples import Batch, TrainingSet
from lib_ti.data.templates import fill
from lib_ti.formats.embedding import write_safetensors
from lib_ti.hosts.base import Host, SampleRequest
from lib_ti.methods.gauge import VectorReport, measure, told
from lib_ti.methods.textual_inversion import InversionSettings, TextualInversion, as_embedding


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
class Evaluation:
    """The loss of the fixed batch at ``step``, and the step whose vectors did best so far."""

    step: int
    loss: float
    best_step: int


Event = Message | Progress | Preview | Evaluation


@dataclass(frozen=True)
class Outcome:
    """How a job ended. ``embedding``: in the embeddings folder when done, else a copy in the job's."""

    status: Literal["done", "stopped"]
    job: Job
    step: int
    embedding: Path
    loss: float | None  # mean of the last 50 steps
    seconds: float
    kept_step: int  # the one that the embedding is of
    vectors: Sequence[VectorReport]

    def as_json(self) -> dict[str, Any]:
        return {
            "status": self.status,
            "job": self.job.id,
            "step": self.step,
            "embedding": str(self.embedding),
            "loss": self.loss,
            "seconds": round(self.seconds, 1),
            "kept_step": self.kept_step,
            "vectors": [asdict(report) for report in self.vectors],
        }


def picture_size(host: Host, settings: InversionSettings) -> tuple[int, int]:
    """Width and height in pixels."""
    return settings.width or host.info.native_size, settings.height or host.info.native_size


def saved_steps(job: Job) -> list[int]:
    """The steps of which the job's folder has a copy."""
    return sorted(int(path.stem.rpartition("-")[2]) for path in job.copies.glob("*.safetensors"))


def copy_of(job: Job, name: str, step: int) -> Path:
    return job.copies / f"{name}-{step:06d}.safetensors"


class Run:
    """One job on one host: trains from the saved state, or from the start, to the end."""

    def __init__(
        self,
        host: Host,
        settings: InversionSettings,
        samples: TrainingSet,
        job: Job,
        target: Path,
        report: Callable[[Event], None],
        start: Mapping[str, torch.Tensor],
    ) -> None:
        self.host, self.settings, self.samples = host, settings, samples
        self.job, self.target, self.report = job, target, report
        self.started = time.monotonic()
        self.recent: deque[float] = deque(maxlen=50)
        self.method = TextualInversion(host, settings, samples, start)
        evaluation: Sequence[Batch] = ()
        if settings.evaluate_every:
            evaluation = evaluation_batches(self.method.draw, settings, samples.timesteps)
        self.loop = Loop(self.method, learning_rate_of(settings), job.load_state(), settings, evaluation)
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
        embedding, kept = self._leave(), self.loop.step
        if status == "done":
            kept, vectors = self.loop.final()
            embedding = self._save_embedding(self.target, kept, vectors)
        reports = self._report(status, kept)
        loss = sum(self.recent) / len(self.recent) if self.recent else None
        seconds = time.monotonic() - self.started
        return Outcome(status, self.job, self.loop.step, embedding, loss, seconds, kept, reports)

    def _report(self, status: str, kept: int) -> list[VectorReport]:
        """Measure what came of the vectors and say it."""
        loop = self.loop
        vectors = loop.final()[1] if status == "done" else loop.result()
        means = {name: total / max(1, loop.step) for name, total in loop.gradients.items()}
        reports = measure(self.host, vectors, loop.start, means)
        said = told(reports)
        if kept != loop.step:
            loss = loop.evaluations.best_row[1]
            said.append(f"kept the vectors of step {kept}, the best of those evaluated (loss {loss:.4g})")
        for sentence in said:
            self.report(Message(sentence))
        return reports

    def _due(self, step: int) -> bool:
        s = self.settings
        return any(every and step % every == 0 for every in (s.save_every, s.copy_every, s.preview_every))

    def _progress(self, progress: Progress) -> None:
        step, settings = progress.step, self.settings
        self.job.append_losses(progress.rows)
        self.recent.extend(row[1] for row in progress.rows)
        self.report(progress)
        if progress.evaluation is not None:
            self.job.append_evaluations([(step, progress.evaluation)])
            best, _ = self.loop.evaluations.best_row
            self.report(Evaluation(step, progress.evaluation, best))
        if step % settings.save_every == 0:
            self.job.save_state(self.loop.good)
        if settings.copy_every and step % settings.copy_every == 0:
            self._save_copy()
        ends = step == settings.steps or self.loop.evaluations.settled
        if settings.preview_every and (step % settings.preview_every == 0 or ends):
            self._preview(step, self.loop.final()[1] if ends else self.loop.result())

    def _leave(self) -> Path:
        """Save what is good so far, so that the job can be resumed."""
        self.job.save_state(self.loop.snapshot())
        return self._save_copy()

    def _save_copy(self) -> Path:
        step = self.loop.step
        return self._save_embedding(copy_of(self.job, self.settings.name, step), step, self.loop.result())

    def _save_embedding(self, path: Path, step: int, vectors: Mapping[str, torch.Tensor]) -> Path:
        made = as_embedding(vectors, self.host, self.settings, step, self.job.id)
        write_safetensors(made, path)
        return path

    def _preview(self, step: int, vectors: Mapping[str, torch.Tensor]) -> None:
        """Draw and keep pictures; no picture is worth the run, so one that fails is skipped."""
        try:
            with self.loop.showing(vectors):
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


def _preview_request(host: Host, settings: InversionSettings, samples: TrainingSet) -> SampleRequest:
    width, height = picture_size(host, settings)
    prompt = preview_prompt(settings, samples.lines, samples.captions)
    return SampleRequest(
        prompts=[prompt] * settings.preview_count,
        seeds=[settings.preview_seed + i for i in range(settings.preview_count)],
        negative_prompt=fill(settings.preview_negative, name=settings.name, filewords=""),
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
