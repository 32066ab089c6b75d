"""Run a job: check, prepare, train, save. Command line, HTTP and page all come through here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lib_ti.core.errors import BadInput
from lib_ti.core.job import Job
from lib_ti.core.loop import check_learning
from lib_ti.core.settings import as_dict
from lib_ti.data.samples import TrainingSet
from lib_ti.data.source import Source, find_source, make_samples
from lib_ti.data.templates import OUR_TEMPLATES, find_template, read_template
from lib_ti.formats.embedding import SUFFIXES, read_embedding, safe_name
from lib_ti.formats.together import write_together
from lib_ti.hosts.base import Embeddings, Folders, Host
from lib_ti.job_memory import economy_of
from lib_ti.job_run import (
    Event,
    Message,
    Outcome,
    Run,
    copies_of,
    memory_told,
    preview_prompt,
    saved_steps,
)
from lib_ti.methods.registry import kind_of, read_settings
from lib_ti.methods.textual_inversion import InversionSettings, check_name, noise_schedule


def folders_under(data: Path) -> Folders:
    """The folders of the command line, all in one."""
    templates = data / "textual_inversion_templates"
    # A dot folder, which WebUIs never serve over HTTP.
    return Folders(data / ".ti-studio" / "jobs", data / "embeddings", (templates, OUR_TEMPLATES))


def read_source(settings: InversionSettings, folders: Folders) -> Source:
    """Pictures, captions and template of a job. Raises BadInput."""
    lines = read_template(find_template(settings.template, folders.templates))
    return find_source(settings, lines, _kept(folders))


def _kept(folders: Folders) -> Path:
    """Where encoded pictures lie from job to job: beside the jobs, in a dot folder."""
    beside = folders.jobs.parent
    return (beside if beside.name == ".ti-studio" else beside / ".ti-studio") / "latents"


def _samples(
    host: Host, settings: InversionSettings, source: Source, folders: Folders
) -> tuple[TrainingSet, list[str]]:
    """The training set, its pictures encoded, and what is to be said of them. Raises BadInput."""

    def encode(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        latents = host.encode_images(pixels)
        return latents.mean, latents.std

    return make_samples(
        source,
        settings,
        settings.name,
        native=host.info.native_size,
        grain=host.info.pixels_per_latent,
        timesteps=len(host.info.alphas_cumprod),
        encode=encode,
        kept=_kept(folders),
    )


def create(host: Host, settings: InversionSettings, folders: Folders) -> list[Path]:
    """Write the embeddings of a job that has not begun: their vectors are the start. Raises BadInput."""
    kind = kind_of(settings)
    check_names(host, settings)
    targets = check_targets(settings, folders)
    made = kind.export(kind.start(host, settings), host, settings, 0, "")
    write_together(dict(zip(targets, made, strict=True)))
    return targets


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
        kind = kind_of(settings)
        check_names(host, settings)
        check_sampler(settings, host.sampler_names())
        rate = check_learning(settings, host.info.device)
        noise_schedule(host, settings)
        host.economise(economy_of(settings))
        source = read_source(settings, folders)
        targets = check_targets(settings, folders)
        # The prompts are checked before the pictures are encoded.
        vectors = _start_vectors(host, settings, targets)
        host.set_embeddings(vectors)
        said = kind.preflight(host, settings, source.lines, source.captions)
        said += _preview_warning(host, settings, source)
        for word, target in zip(vectors, targets, strict=True):
            if target.exists() and not settings.overwrite:
                said.append(f"the start is {target.name}, {_count(vectors[word])} vectors not trained yet")
        samples, sizes_told = _samples(host, settings, source, folders)
        said += sizes_told
        job = job or Job.reserve(folders.jobs, settings.name)
        job.begin(
            {
                "method": kind.name,
                "model": model,
                "model_sha256": host.info.sha256,
                "fingerprint": source.fingerprint,
                "settings": as_dict(settings),
            }
        )
        said.append(
            f"job {job.id}: {len(source.pictures)} pictures, {settings.steps} steps, rate {rate.at(1):g}"
        )
        for sentence in said:
            report(Message(sentence))
        return Run(host, settings, samples, job, targets, report, vectors).execute(stopped)


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
    targets = check_targets(settings, folders, job)
    with host.lend(), memory_told():
        host.economise(economy_of(settings))
        samples, _ = _samples(host, settings, source, folders)
        report(Message(f"resuming job {job.id}"))
        vectors = _start_vectors(host, settings, targets)
        return Run(host, settings, samples, job, targets, report, vectors).execute(stopped)


def publish(job: Job, step: int, folders: Folders) -> list[Path]:
    """Put the job's copies of ``step`` into the embeddings folder, in the place of what the job left there.

    Raises BadInput where there are none, or where a file there is not the job's.
    """
    settings = settings_of(job.settings())
    copies = copies_of(job, kind_of(settings).words(settings), step)
    if not all(copy.is_file() for copy in copies):
        steps = ", ".join(map(str, saved_steps(job))) or "none"
        raise BadInput(f"job {job.id} has no saved step {step}; there are {steps}.")
    targets = check_targets(settings, folders, job)
    write_together({target: read_embedding(copy) for copy, target in zip(copies, targets, strict=True)})
    return targets


def settings_of(record: Mapping[str, Any]) -> InversionSettings:
    """The settings in a job's record."""
    return read_settings({**record["settings"], "method": record["method"]})


def check_names(host: Host, settings: InversionSettings) -> None:
    """Raises BadInput where a word of the job is no usable file name, or already one of the vocabulary."""
    for word in kind_of(settings).words(settings).all:
        check_name(host, word)


def check_targets(settings: InversionSettings, folders: Folders, job: Job | None = None) -> list[Path]:
    """Where the embeddings will be, a file for each word. Raises BadInput."""
    words = kind_of(settings).words(settings)
    return [_check_target(word, settings.overwrite, folders, job) for word in words.all]


def _check_target(word: str, overwrite: bool, folders: Folders, job: Job | None) -> Path:
    """Where the word's file will be; one that ``job`` left, or that is not trained yet, may be replaced.

    Raises BadInput where another one is that may not be, or where another file has the name: WebUIs
    read names without regard to case, and take whichever file they find first.
    """
    target = folders.embeddings / f"{safe_name(word)}.safetensors"
    for path in folders.embeddings.rglob("*.*") if folders.embeddings.is_dir() else ():
        if path.stem.lower() != word.lower() or path.suffix.lower() not in SUFFIXES:
            continue
        if path != target:
            raise BadInput(f"{path} has the name already; choose another one, or move that file away.")
        if not overwrite and not _replaceable(path, job):
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


def _start_vectors(host: Host, settings: InversionSettings, targets: Sequence[Path]) -> Embeddings:
    """Of each word: those of an embedding that waits for it untrained, else what the settings say."""
    kind = kind_of(settings)
    words = kind.words(settings).all
    created: dict[str, Mapping[str, torch.Tensor]] = {}
    for word, target in zip(words, targets, strict=True):
        if target.exists() and not settings.overwrite and (found := read_embedding(target)).step == 0:
            created[word] = found.vectors
    return created if len(created) == len(words) else {**kind.start(host, settings), **created}


def _count(vectors: Mapping[str, torch.Tensor]) -> int:
    return len(next(iter(vectors.values())))


def _preview_warning(host: Host, settings: InversionSettings, source: Source) -> list[str]:
    """What to say of previews that will not show the new word."""
    prompt = preview_prompt(settings, source.lines, source.captions)
    if not settings.preview_every or host.count_triggers(prompt).get(settings.name):
        return []
    return [f"warning: {settings.name!r} is not in the preview prompt {prompt!r}; put [name] into it"]
