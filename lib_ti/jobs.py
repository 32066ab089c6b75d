"""Run a job: check, prepare, train, save. Command line, HTTP and page all come through here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lib_ti.core.errors import BadInput
from lib_ti.core.job import Job
from lib_ti.core.loop import check_learning
from lib_ti.core.settings import as_dict, build
from lib_ti.data.captions import read_caption
from lib_ti.data.images import find_images, image_hash
from lib_ti.data.samples import TrainingSet, cache_latents
from lib_ti.data.templates import OUR_TEMPLATES, all_prompts, find_template, read_template
from lib_ti.formats.embedding import SUFFIXES, read_embedding, safe_name, write_safetensors
from lib_ti.hosts.base import Folders, Host
from lib_ti.job_run import (
    Event,
    Message,
    Outcome,
    Run,
    copy_of,
    memory_told,
    picture_size,
    preview_prompt,
    saved_steps,
)
from lib_ti.methods.textual_inversion import (
    InversionSettings,
    as_embedding,
    check_name,
    initial_vectors,
    noise_schedule,
    preflight,
)


def folders_under(data: Path) -> Folders:
    """The folders of the command line, all in one."""
    templates = data / "textual_inversion_templates"
    # A dot folder, which WebUIs never serve over HTTP.
    return Folders(data / ".ti-studio" / "jobs", data / "embeddings", (templates, OUR_TEMPLATES))


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


def _samples(host: Host, settings: InversionSettings, source: Source) -> TrainingSet:
    """The training set, its pictures encoded. Raises BadInput at a picture that cannot be read."""

    def encode(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        latents = host.encode_images(pixels)
        return latents.mean, latents.std

    cache = cache_latents(source.paths, *picture_size(host, settings), settings.flip, encode)
    timesteps = len(host.info.alphas_cumprod)
    return TrainingSet(cache, source.captions, source.lines, settings.name, settings, timesteps)


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
    with host.lend(), memory_told():
        check_name(host, settings.name)
        check_sampler(settings, host.sampler_names())
        rate = check_learning(settings, host.info.device)
        noise_schedule(host, settings)
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
        return Run(host, settings, samples, job, target, report, vectors).execute(stopped)


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
    with host.lend(), memory_told():
        samples = _samples(host, settings, source)
        report(Message(f"resuming job {job.id}"))
        vectors = _start_vectors(host, settings, target)
        return Run(host, settings, samples, job, target, report, vectors).execute(stopped)


def publish(job: Job, step: int, folders: Folders) -> Path:
    """Put the job's copy of ``step`` into the embeddings folder, in the place of what the job left there.

    Raises BadInput where there is no such copy, or where the file there is not the job's.
    """
    settings = settings_of(job.settings())
    copy = copy_of(job, settings.name, step)
    if not copy.is_file():
        steps = ", ".join(map(str, saved_steps(job))) or "none"
        raise BadInput(f"job {job.id} has no saved step {step}; there are {steps}.")
    target = check_target(settings, folders, job)
    write_safetensors(read_embedding(copy), target)
    return target


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
    prompt = preview_prompt(settings, source.lines, source.captions)
    if not settings.preview_every or host.count_triggers(prompt).get(settings.name):
        return []
    return [f"warning: {settings.name!r} is not in the preview prompt {prompt!r}; put [name] into it"]
