"""Run a job: check, prepare, train, save. Command line, HTTP and page all come through here."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from lib_ti.formats.embedding import SUFFIXES, read_embedding, safe_name, write_safetensors
from lib_ti.hosts.base import Folders, Host, SampleRequest
from lib_ti.methods.textual_inversion import (
    InversionSettings,
    TextualInversion,
    as_embedding,
    check_name,
    initial_vectors,
    preflight,
)


def folders_under(data: Path) -> Folders:
    """The folders of the command line, all in one."""
    templates = data / "textual_inversion_templates"
    # A dot folder, which WebUIs never serve over HTTP.
    return Folders(data / ".ti-studio" / "jobs", data / "embeddings", (templates, OUR_TEMPLATES))


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

    def as_json(self) -> dict[str, Any]:
        return {
            "status": self.status,
            "job": self.job.id,
            "step": self.step,
            "embedding": str(self.embedding),
            "loss": self.loss,
            "seconds": round(self.seconds, 1),
        }


@dataclass(frozen=True)
class Source:
    """Everything of the user's that a job reads, found and checked before anything is written."""

    paths: list[Path]
    captions: list[str]
    lines: tuple[str, ...]
    fingerprint: str  # of pictures, captions and template: a resumed job must find the same


def read_source(settings: InversionSettings, folders: Folders) -> Source:
    """Pictures, captions and template of a job. Raises BadInput."""
    if not settings.images:
        raise BadInput("images: missing; give the folder with the training pictures.")
    paths = find_images(Path(settings.images).expanduser())
    captions = [read_caption(path, word_regex=settings.word_regex, join=settings.word_join) for path in paths]
    lines = read_template(find_template(settings.template, folders.templates))
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
        self.method = TextualInversion(host, settings, samples, _start_vectors(host, settings, target))
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
        embedding = self._leave()
        if status == "done":
            embedding = self._save_embedding(self.target)
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
        if step % settings.save_every == 0:
            self.job.save_state(self.loop.good)
        if settings.copy_every and step % settings.copy_every == 0:
            self._save_copy()
        if settings.preview_every and (step % settings.preview_every == 0 or step == settings.steps):
            self._preview(step)

    def _leave(self) -> Path:
        """Save what is good so far, so that the job can be resumed."""
        self.job.save_state(self.loop.snapshot())
        return self._save_copy()

    def _save_copy(self) -> Path:
        return self._save_embedding(_copy(self.job, self.settings.name, self.loop.step))

    def _save_embedding(self, path: Path) -> Path:
        made = as_embedding(self.method.vectors, self.host, self.settings, self.loop.step, self.job.id)
        write_safetensors(made, path)
        return path

    def _preview(self, step: int) -> None:
        """Draw and keep pictures; no picture is worth the run, so one that fails is skipped."""
        try:
            images = self.host.sample(_preview_request(self.host, self.settings, self.samples))
        except Exception as error:
            reason = _MEMORY_REMEDY if _out_of_memory(error) else error
            self.report(Message(f"the preview of step {step} was skipped: {reason}"))
            return
        paths = [self.job.samples / f"step-{step:06d}-{i}.png" for i in range(len(images))]
        for path, image in zip(paths, images, strict=True):
            write_atomically(path, partial(image.save, format="PNG"))
        self.report(Preview(step, paths))


def _preview_prompt(settings: InversionSettings, lines: Sequence[str], captions: Sequence[str]) -> str:
    return fill(settings.preview_prompt or lines[0], name=settings.name, filewords=captions[0])


def _preview_request(host: Host, settings: InversionSettings, samples: TrainingSet) -> SampleRequest:
    width, height = _size(host, settings)
    prompt = _preview_prompt(settings, samples.lines, samples.captions)
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
def _memory_told() -> Iterator[None]:
    """Raises JobFailed with a remedy in the place of an out-of-memory error."""
    try:
        yield
    except Exception as error:
        if not _out_of_memory(error):
            raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise JobFailed(f"Stopped: {_MEMORY_REMEDY}") from error


def create(host: Host, settings: InversionSettings, folders: Folders) -> Path:
    """Write an embedding that is not trained yet: its vectors are the start. Raises BadInput."""
    check_name(host, settings.name)
    target = check_target(settings, folders)
    write_safetensors(as_embedding(initial_vectors(host, settings), host, settings, step=0), target)
    return target


def start(
    host: Host,
    settings: InversionSettings,
    *,
    folders: Folders,
    model: str,
    report: Callable[[Event], None],
    stopped: Callable[[], bool],
    job: Job | None = None,
) -> Outcome:
    """Check everything, begin the job (in a folder reserved for it, if one is given), train.

    Raises BadInput before anything was written, JobFailed with the good part saved.
    """
    with host.lend(), _memory_told():
        check_name(host, settings.name)
        check_sampler(settings, host.sampler_names())
        rate = parse_learning_rate(settings.learning_rate)
        source = read_source(settings, folders)
        target = check_target(settings, folders)
        # The prompts are checked before the pictures are encoded.
        vectors = _start_vectors(host, settings, target)
        host.set_embeddings({settings.name: vectors})
        said = preflight(host, settings, all_prompts(source.lines, settings.name, source.captions))
        said += _preview_warning(host, settings, source)
        if target.exists() and not settings.overwrite:
            said.append(f"the start is {target.name}, {_count(vectors)} vectors not trained yet")
        samples = _samples(host, settings, source)
        job = job or Job.reserve(folders.jobs, settings.name)
        job.begin(
            {
                "method": "ti",
                "model": model,
                "model_sha256": host.info.sha256,
                "fingerprint": source.fingerprint,
                "settings": as_dict(settings),
            }
        )
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
    folders: Folders,
    report: Callable[[Event], None],
    stopped: Callable[[], bool],
) -> Outcome:
    """Go on where the job's saved state is. Raises BadInput where model or pictures are not the same."""
    record = job.settings()
    settings = settings_of(record)
    source = read_source(settings, folders)
    if record["model_sha256"] != host.info.sha256:
        raise BadInput(
            f"job {job.id} was started on another model ({record['model']}); load that one to resume it."
        )
    if record["fingerprint"] != source.fingerprint:
        raise BadInput(f"pictures, captions or template of job {job.id} have changed since; start a new job.")
    target = check_target(settings, folders, job)
    with host.lend(), _memory_told():
        samples = _samples(host, settings, source)
        report(Message(f"resuming job {job.id}"))
        return _Run(host, settings, samples, job, target, report).execute(stopped)


def publish(job: Job, step: int, folders: Folders) -> Path:
    """Put the job's copy of ``step`` into the embeddings folder, in the place of what the job left there.

    Raises BadInput where there is no such copy, or where the file there is not the job's.
    """
    settings = settings_of(job.settings())
    copy = _copy(job, settings.name, step)
    if not copy.is_file():
        steps = ", ".join(map(str, saved_steps(job))) or "none"
        raise BadInput(f"job {job.id} has no saved step {step}; there are {steps}.")
    target = check_target(settings, folders, job)
    write_safetensors(read_embedding(copy), target)
    return target


def saved_steps(job: Job) -> list[int]:
    """The steps of which the job's folder has a copy."""
    return sorted(int(path.stem.rpartition("-")[2]) for path in job.copies.glob("*.safetensors"))


def _copy(job: Job, name: str, step: int) -> Path:
    return job.copies / f"{name}-{step:06d}.safetensors"


def settings_of(record: Mapping[str, Any]) -> InversionSettings:
    """The settings in a job's record."""
    return build(InversionSettings, record["settings"])


def check_target(settings: InversionSettings, folders: Folders, job: Job | None = None) -> Path:
    """Where the embedding will be; one that ``job`` left there, or that is not trained yet, may be replaced.

    Raises BadInput where another one is that may not be, or where another file has the name: WebUIs
    read names without regard to case, and take whichever file they find first.
    """
    target = folders.embeddings / f"{safe_name(settings.name)}.safetensors"
    for path in folders.embeddings.rglob("*.*") if folders.embeddings.is_dir() else ():
        if path.stem.lower() != settings.name.lower() or path.suffix.lower() not in SUFFIXES:
            continue
        if path != target:
            raise BadInput(f"{path} has the name already; choose another one, or move that file away.")
        if not settings.overwrite and not _replaceable(path, job):
            raise BadInput(f"{target} exists; choose another name, or --overwrite to replace it.")
    return target


def check_sampler(settings: InversionSettings, known: Sequence[str]) -> None:
    """Raises BadInput where the previews ask for a sampler that is not among ``known``."""
    if settings.preview_every and settings.preview_sampler not in ("", *known):
        raise BadInput(
            f"preview-sampler: there is no {settings.preview_sampler!r}; choose one of {', '.join(known)}."
        )


def _replaceable(path: Path, job: Job | None) -> bool:
    """Whether the embedding there is not trained yet, or is what ``job`` made."""
    try:
        known = read_embedding(path)
    except BadInput:
        return False
    return known.step == 0 or (job is not None and known.metadata.get("job") == job.id)


def _start_vectors(host: Host, settings: InversionSettings, target: Path) -> Mapping[str, torch.Tensor]:
    """Those of an embedding that waits untrained under the name, else what the settings say."""
    if target.exists() and not settings.overwrite:
        created = read_embedding(target)
        if created.step == 0:
            return created.vectors
    return initial_vectors(host, settings)


def _count(vectors: Mapping[str, torch.Tensor]) -> int:
    return len(next(iter(vectors.values())))


def _preview_warning(host: Host, settings: InversionSettings, source: Source) -> list[str]:
    """What to say of previews that will not show the new word."""
    prompt = _preview_prompt(settings, source.lines, source.captions)
    if not settings.preview_every or host.count_triggers(prompt).get(settings.name):
        return []
    return [f"warning: {settings.name!r} is not in the preview prompt {prompt!r}; put [name] into it"]
