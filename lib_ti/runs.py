"""A job as others see it, and as the thread that it has in this process writes it."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from lib_ti.core.job import Job, recorded
from lib_ti.core.loop import Progress
from lib_ti.core.settings import as_dict
from lib_ti.job_run import Drawn, Event, Message, Outcome, saved_steps, told_files
from lib_ti.methods.kind import ROLES, JobSettings, Product

State = Literal["waiting", "preparing", "training", "done", "stopped", "failed", "broken off"]
RUNNING: frozenset[State] = frozenset({"waiting", "preparing", "training"})


@dataclass
class Status:
    """A job as others see it."""

    job: str
    status: State
    settings: dict[str, Any]
    step: int = 0
    steps: int = 0
    loss: float | None = None  # mean of the last 50 steps
    seconds_per_step: float | None = None
    seconds_left: float | None = None
    messages: list[str] = field(default_factory=list)
    error: str | None = None
    embedding: str | None = None
    negative_embedding: str | None = None
    network: str | None = None
    bundle: str | None = None
    other_embeddings: list[str] = field(default_factory=list)  # of a job of several words
    evaluations: list[tuple[int, float]] = field(default_factory=list)  # step, loss of the fixed batch
    previews: dict[int, list[str]] = field(default_factory=dict)  # step -> files in the job's samples
    saved_steps: list[int] = field(default_factory=list)
    ahead: int = 0  # jobs that come before a waiting one

    @property
    def running(self) -> bool:
        return self.status in RUNNING

    def as_json(self) -> dict[str, Any]:
        previews = {str(step): names for step, names in self.previews.items()}  # JSON's keys are text
        return {**asdict(self), "previews": previews, "running": self.running}


class Run:
    """A job of this process: its thread writes, everybody reads."""

    def __init__(self, job: Job, settings: JobSettings) -> None:
        self.job, self.settings = job, settings
        self.state: State = "waiting"
        self.progress: Progress | None = None
        self.losses = job.losses()
        self.messages: list[str] = []
        self.drawn = ""  # how many regularisation pictures there are
        self.error: str | None = None
        self.files: Mapping[Product, Path] = {}  # where prompts find them
        self.outcome: Outcome | None = None
        self.stop = threading.Event()
        self.publish = False  # what is there when it stops goes where prompts find it
        self.names = ExitStack()  # holds the names of the files that it will make
        self.waits = ExitStack()  # holds it against other programs, while it waits

    def leave_queue(self) -> None:
        """Its turn has come, or nobody wants it any more."""
        self.waits.close()
        self.job.stop_waiting()

    def __call__(self, event: Event) -> None:
        if isinstance(event, Drawn):
            self.drawn = f"regularisation pictures: {event.there} of {event.count} are drawn"
            return
        self.state = "training"  # nothing is reported before everything is prepared
        if isinstance(event, Progress):
            self.progress = event
            self.losses.extend(event.rows)
        elif isinstance(event, Message):
            self.messages.append(event.text)

    def status(self) -> Status:
        progress = self.progress
        step = progress.step if progress else (self.losses[-1][0] if self.losses else 0)
        left = (self.settings.steps - step) * progress.seconds_per_step if progress else None
        return Status(
            job=self.job.id,
            status=self.state,
            settings=as_dict(self.settings),
            step=step,
            steps=self.settings.steps,
            loss=_mean_loss(self.losses),
            seconds_per_step=progress.seconds_per_step if progress else None,
            seconds_left=left if self.state == "training" else None,
            messages=[*filter(None, [self.drawn]), *self.messages],
            error=self.error,
            **told_files(self.files),
            **_kept_in(self.job),
        )


def status_of(job: Job) -> Status:
    """A job of an earlier process, as its folder tells."""
    settings = recorded(job.settings(), "settings", dict)
    losses, result = job.losses(), job.result() or {}
    files: dict[str, Any] = {role: _text(result.get(role)) for role in ROLES}
    files["other_embeddings"] = _texts(result.get("other_embeddings"))
    steps, state = settings.get("steps"), result.get("status")
    return Status(
        job=job.id,
        status=next((known for known in get_args(State) if known == state), "broken off"),
        settings=settings,
        step=losses[-1][0] if losses else 0,
        steps=steps if isinstance(steps, int) else 0,
        loss=_mean_loss(losses),
        error=_text(result.get("error")),
        messages=_texts(result.get("messages")),
        **files,
        **_kept_in(job),
    )


def _text(told: object) -> str | None:
    return told if isinstance(told, str) else None


def _texts(told: object) -> list[str]:
    return [text for text in told if isinstance(text, str)] if isinstance(told, list) else []


def _mean_loss(losses: list[tuple[int, float, float]]) -> float | None:
    recent = [row[1] for row in losses[-50:]]
    mean = sum(recent) / len(recent) if recent else math.nan
    return mean if math.isfinite(mean) else None


def _kept_in(job: Job) -> dict[str, Any]:
    """What the job's folder adds to its status."""
    previews = {step: [path.name for path in paths] for step, paths in job.previews().items()}
    return {"evaluations": job.evaluations(), "previews": previews, "saved_steps": saved_steps(job)}
