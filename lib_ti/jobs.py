"""Run a job: check, prepare, train, save. Command line, HTTP and page all come through here."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from lib_ti.core.errors import BadInput, JobFailed
from lib_ti.core.files import write_atomically
from lib_ti.core.job import Job
from lib_ti.core.loop import Loop, Progress
from lib_ti.core.schedule import parse_learning_rate
from lib_ti.core.settings import as_dict, build
from lib_ti.data.captions import read_caption
from lib_ti.data.images import find_images, image_hash
from lib_ti.data.samples import TrainingSet, cache_latents
from lib_ti.data.templates import OUR_TEMPLATES, all_prompts, fill, find_template, read_template
from lib_ti.formats.embedding import write_safetensors
from lib_ti.hosts.base import Host, SampleRequest
from lib_ti.methods.textual_inversion import (
    InversionSettings,
    TextualInversion,
    as_embedding,
    check_name,
    initial_vectors,
    preflight,
)

EMBEDDINGS = "embeddings"
TEMPLATES = "textual_inversion_templates"


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
    """How a job ended. ``embedding``: in the embeddings folder when done, else a copy in the job's."""

    status: Literal["done", "stopped"]
    job: Job
    step: int
    embedding: Path
    loss: float | None  # mean of the last 50 steps
    seconds: float


@dataclass(frozen=True)
class Source:
    """Everything of the user's that a job reads, found and checked before anything is written."""

    paths: list[Path]
    captions: list[str]
    lines: tuple[str, ...]
    fingerprint: str  # of pictures, captions and template: a resumed job must find the same


def read_source(settings: InversionSettings, data: Path) -> Source:
    """Pictures, captions and template of a job. Raises BadInput."""
    if not settings.images:
        raise BadInput("images: missing; give the folder with the training pictures.")
    paths = find_images(Path(settings.images).expanduser())
    captions = [read_caption(path, word_regex=settings.word_regex, join=settings.word_join) for path in paths]
    lines = read_template(find_template(settings.template, (data / TEMPLATES, OUR_TEMPLATES)))
    digest = hashlib.sha256("\n".join([*map(image_hash, paths), *captions, *lines]).encode())
    return Source(paths, captions, lines, digest.hexdigest())


def _size(host: Host, settings: InversionSettings) -> tuple[int, int]:
    """Width and height in pixels."""
    return settings.width or host.info.native_size, settings.height or host.info.native_size


def _samples(host: Host, settings: InversionSettings, source: Source) -> TrainingSet:
    """The training set, its pictures encoded. Raises BadInput at a picture that cannot be read."""

    def encode(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        latents = host.encode_images(pixels)
        return latents.mean, latents.std

    cache = cache_latents(source.paths, *_size(host, settings), settings.flip, encode)
    timesteps = len(host.info.alphas_cumprod)
    return TrainingSet(cache, source.captions, source.lines, settings.name, settings, timesteps)


class _Run:
    """One job on one host: trains from the saved state, or from the start, to the end."""

    def __init__(
        self,
        host: Host,
        settings: InversionSettings,
        samples: TrainingSet,
        job: Job,
        target: Path,
        report: Callable[[Event], None],
    ) -> None:
        self.host, self.settings, self.samples = host, settings, samples
        self.job, self.target, self.report = job, target, report
        self.started = time.monotonic()
        self.recent: deque[float] = deque(maxlen=50)
        self.method = TextualInversion(host, settings, samples)
        self.loop = Loop(self.method, parse_learning_rate(settings.learning_rate), job.load_state())
        job.forget_losses_after(self.loop.step)

    def execute(self, stopped: Callable[[], bool]) -> Outcome:
        """Raises JobFailed; then, and at an interrupt, what is good so far has been saved."""
        try:
            status = self.loop.run(
                self.settings.steps, due=self._due, on_progress=self._progress, stopped=stopped
            )
        except (JobFailed, KeyboardInterrupt):
            self.loop.restore(self.loop.good)
            self._leave()
            raise
        embedding = self._leave() if status == "stopped" else self._save_embedding(self.target)
        loss = sum(self.recent) / len(self.recent) if self.recent else None
        return Outcome(status, self.job, self.loop.step, embedding, loss, time.monotonic() - self.started)

    def _due(self, step: int) -> bool:
        s = self.settings
        return any(every and step % every == 0 for every in (s.save_every, s.copy_every, s.preview_every))

    def _progress(self, progress: Progress) -> None:
        step, settings = progress.step, self.settings
        self.job.append_losses(progress.rows)
        self.recent.extend(row[1] for row in progress.rows)
        self.report(progress)
        if step % settings.save_every == 0 or step == settings.steps:
            self.job.save_state(self.loop.good)
        if settings.copy_every and step % settings.copy_every == 0:
            self._save_copy()
        if settings.preview_every and step % settings.preview_every == 0:
            self._preview(step)

    def _leave(self) -> Path:
        """Save what is good so far, so that the job can be resumed."""
        self.job.save_state(self.loop.snapshot())
        return self._save_copy()

    def _save_copy(self) -> Path:
        return self._save_embedding(
            self.job.copies / f"{self.settings.name}-{self.loop.step:06d}.safetensors"
        )

    def _save_embedding(self, path: Path) -> Path:
        embedding = as_embedding(self.method.vectors, self.host, self.settings, self.loop.step)
        write_safetensors(embedding, path)
        return path

    def _preview(self, step: int) -> None:
        settings = self.settings
        width, height = _size(self.host, settings)
        line = settings.preview_prompt or self.samples.lines[0]
        prompt = fill(line, name=settings.name, filewords=self.samples.captions[0])
        request = SampleRequest(
            prompts=[prompt] * settings.preview_count,
            seeds=[settings.preview_seed + i for i in range(settings.preview_count)],
            negative_prompt=fill(settings.preview_negative, name=settings.name, filewords=""),
            steps=settings.preview_steps,
            cfg_scale=settings.preview_cfg,
            width=width,
            height=height,
        )
        images = self.host.sample(request)
        paths = [self.job.samples / f"step-{step:06d}-{i}.png" for i in range(len(images))]
        for path, image in zip(paths, images, strict=True):
            write_atomically(path, partial(image.save, format="PNG"))
        self.report(Preview(step, paths))


def start(
    host: Host,
    settings: InversionSettings,
    *,
    data: Path,
    model: str,
    report: Callable[[Event], None],
    stopped: Callable[[], bool],
) -> Outcome:
    """Check everything, make the job's folder, train.

    Raises BadInput before anything was written, JobFailed with the good part saved.
    """
    with host.lend():
        check_name(host, settings.name)
        rate = parse_learning_rate(settings.learning_rate)
        source = read_source(settings, data)
        # The prompts are checked before the pictures are encoded.
        host.set_embeddings({settings.name: initial_vectors(host, settings)})
        said = preflight(host, settings, all_prompts(source.lines, settings.name, source.captions))
        target = _target(settings, data)
        samples = _samples(host, settings, source)
        record = {
            "method": "ti",
            "model": model,
            "model_sha256": host.info.sha256,
            "fingerprint": source.fingerprint,
            "settings": as_dict(settings),
        }
        job = Job.create(data, settings.name, record)
        said.append(
            f"job {job.id}: {len(source.paths)} pictures, {settings.steps} steps, rate {rate.at(1):g}"
        )
        for sentence in said:
            report(Message(sentence))
        return _Run(host, settings, samples, job, target, report).execute(stopped)


def resume(
    host: Host,
    job: Job,
    *,
    data: Path,
    report: Callable[[Event], None],
    stopped: Callable[[], bool],
) -> Outcome:
    """Go on where the job's saved state is. Raises BadInput where model or pictures are not the same."""
    record = job.settings()
    settings = settings_of(record)
    source = read_source(settings, data)
    if record["model_sha256"] != host.info.sha256:
        raise BadInput(
            f"job {job.id} was started on another model ({record['model']}); load that one to resume it."
        )
    if record["fingerprint"] != source.fingerprint:
        raise BadInput(f"pictures, captions or template of job {job.id} have changed since; start a new job.")
    target = _target(settings, data)
    with host.lend():
        report(Message(f"resuming job {job.id}"))
        return _Run(host, settings, _samples(host, settings, source), job, target, report).execute(stopped)


def settings_of(record: dict[str, Any]) -> InversionSettings:
    """The settings in a job's record."""
    return build(InversionSettings, record["settings"])


def _target(settings: InversionSettings, data: Path) -> Path:
    """Where the embedding will be. Raises BadInput where one is that may not be replaced."""
    target = data / EMBEDDINGS / f"{settings.name}.safetensors"
    if target.exists() and not settings.overwrite:
        raise BadInput(f"{target} exists; choose another name, or --overwrite to replace it.")
    return target
