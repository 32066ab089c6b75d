"""Run a job: check, prepare, train, save. Command line, HTTP and page all come through here."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lib_ti.core.errors import BadInput
from lib_ti.core.files import (
    CannotWrite,
    forget_unfinished,
    is_writable,
    new_files,
    write_atomically,
)
from lib_ti.core.job import Job, recorded
from lib_ti.core.lengths import in_steps
from lib_ti.core.loop import check_learning
from lib_ti.core.names import folders_inside, safe_name
from lib_ti.core.nearest import perhaps
from lib_ti.core.settings import as_dict
from lib_ti.data.captions import check_extension
from lib_ti.data.dataset import Subset
from lib_ti.data.samples import TrainingSet
from lib_ti.data.sd_scripts_config import check_file_name
from lib_ti.data.source import Source, find_source, make_samples, steps_of_epoch
from lib_ti.data.templates import OUR_TEMPLATES, all_prompts, read_template, template_file
from lib_ti.formats.embedding import read_embedding
from lib_ti.formats.safetensors_file import read_tensors
from lib_ti.formats.suffixes import EMBEDDINGS, NETWORKS
from lib_ti.formats.together import write_together
from lib_ti.hosts.base import Embeddings, Folders, Host, Prediction
from lib_ti.job_cards import make_cards, with_cards
from lib_ti.job_memory import economy_of
from lib_ti.job_run import (
    Drawn,
    Event,
    Message,
    Outcome,
    Run,
    copies_of,
    in_their_place,
    memory_told,
    picture_size,
    preview_prompts,
    saved_steps,
    started_from,
)
from lib_ti.methods.conditioning import conditioning_of, cut_told
from lib_ti.methods.denoising import noise_schedule
from lib_ti.methods.kind import JobSettings, Product
from lib_ti.methods.registry import kind_of, read_settings
from lib_ti.methods.suggest import Suggestion, suggest_words
from lib_ti.methods.textual_inversion import check_name
from lib_ti.methods.vector_settings import VectorSettings
from lib_ti.regularisation import draw_pictures, drawn_prompt


def folders_under(data: Path) -> Folders:
    """The folders of the command line, all in one."""
    templates = data / "textual_inversion_templates"
    own = data / ".ti-studio"  # a dot folder, which WebUIs never serve over HTTP
    files = (data / "embeddings", data / "loras", (templates, OUR_TEMPLATES))
    return Folders(own / "jobs", *files, own / "datasets", own / "cards", (data / "checkpoints",))


def read_source(settings: JobSettings, folders: Folders, *, saved: bool = False) -> Source:
    """Pictures, captions and template of a job. Raises BadInput.

    ``saved``: a job's own, which may lie where none could be begun any more.
    """
    lines = read_template(template_file(settings.template, folders.templates))
    if dataset := folders_inside(folders.datasets).get(settings.images):
        settings = replace(settings, images=str(dataset))

    def check(subset: Subset) -> None:
        if not saved:
            check_extension(subset.caption_extension)
        if not saved and settings.dataset_config:  # other folders were looked at when they were named
            for path in filter(None, (subset.folder, subset.metadata, subset.mask_folder)):
                folders.check_readable(path)

    if not saved and settings.dataset_config:
        check_file_name(settings.dataset_config)
    return find_source(settings, lines, _kept(folders), check)


def settle(settings: JobSettings, folders: Folders) -> tuple[JobSettings, Source]:
    """The settings with every length in steps, and the source that settles how long an epoch is, without
    regularisation pictures that are yet to be drawn.

    Raises BadInput.
    """
    if settings.make_reg:
        drawn_prompt(settings)
    source = read_source(replace(settings, reg_images="") if settings.make_reg else settings, folders)
    return in_steps(settings, steps_of_epoch(source, settings)), source


_SIZES = ("width", "height", "preview_width", "preview_height")
_SMALLEST = 64  # pixels; below, the inner blocks of a U-Net have nothing left to look at
_GRAIN = 8  # pixels to a latent


def check_sizes(settings: JobSettings) -> None:
    """Raises BadInput for a side that no latents have. A saved job keeps those it began with."""
    for name in _SIZES:
        side = getattr(settings, name)
        if side and (side < _SMALLEST or side % _GRAIN):
            nearest = max(_SMALLEST, round(side / _GRAIN) * _GRAIN)
            raise BadInput(
                f"{name.replace('_', '-')}: got {side}, expected a multiple of {_GRAIN} pixels from "
                f"{_SMALLEST} on, such as {nearest}, or 0 for the usual size."
            )


Checked = tuple[JobSettings, Source]
# Settings of a job that is resumed which may name another place, with the same content.
PLACES = frozenset({"images", "reg_images", "dataset_config", "template"})


def check(settings: JobSettings, folders: Folders) -> Checked:
    """Everything of a job that needs no model, as ``settle`` gives it. Raises BadInput."""
    check_sizes(settings)
    check_targets(settings, folders)
    settings, source = settle(settings, folders)
    check_learning(settings)
    return settings, source


def _kept(folders: Folders, what: str = "latents") -> Path:
    """Where encoded pictures, and others, lie from job to job: beside the jobs, in a dot folder."""
    beside = folders.jobs.parent
    return (beside if beside.name == ".ti-studio" else beside / ".ti-studio") / what


def _samples(
    host: Host, settings: JobSettings, source: Source, folders: Folders
) -> tuple[TrainingSet, list[str]]:
    """The training set, its pictures encoded, and what is to be said of them. Raises BadInput."""

    def encode(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        latents = host.encode_images(pixels)
        return latents.mean, latents.std

    return make_samples(
        source,
        settings,
        settings.trigger,
        kind_of(settings).words(settings).others,
        native=host.info.native_size,
        grain=host.info.pixels_per_latent,
        timesteps=len(host.info.alphas_cumprod),
        encode=encode,
        kept=_kept(folders),
    )


def create(host: Host, settings: JobSettings, folders: Folders) -> dict[Product, Path]:
    """Write the files of a job that has not begun: its start. Raises BadInput, also where there is one."""
    kind = kind_of(settings)
    if kind.create is None:
        raise BadInput(f"{kind.title}: there is nothing to create before training; start the training.")
    check_names(host, settings)
    targets = check_targets(settings, folders)
    with new_files(targets.values(), overwrite=settings.overwrite):
        with host.lend() if settings.start_asks_model else nullcontext():
            made = kind.create(host, settings)
        write_together(dict(zip(targets.values(), made, strict=True)))
    return targets


def suggest(
    host: Host,
    settings: JobSettings,
    *,
    folders: Folders,
    say: Callable[[str], None],
    stopped: Callable[[], bool],
) -> list[Suggestion]:
    """Words of the model that come near to what the pictures show, the nearest first. Raises BadInput."""
    told = replace(told_to_suggest(settings), name=settings.trigger or "ti-studio-word")
    with host.lend(), memory_told():
        host.set_conditioning(conditioning_of(told))
        samples, _ = _samples(host, told, read_source(told, folders), folders)
        return suggest_words(host, told, samples, say=say, stopped=stopped)


def told_to_suggest(settings: JobSettings) -> VectorSettings:
    """Raises BadInput for a method whose start is not made of words."""
    if not isinstance(settings, VectorSettings):
        raise BadInput(f"{kind_of(settings).title} does not start at words; choose another method.")
    return settings


class _Kept:
    """Passes on what a job reports, and keeps its sentences for the result."""

    def __init__(self, report: Callable[[Event], None]) -> None:
        self._report = report
        self._messages: list[str] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, Message):
            self._messages.append(event.text)
        self._report(event)

    def into(self, outcome: Outcome) -> Outcome:
        return replace(outcome, messages=tuple(self._messages))


def start(
    host: Host,
    settings: JobSettings,
    *,
    folders: Folders,
    model: str,
    report: Callable[[Event], None],
    stopped: Callable[[], bool],
    job: Job | None = None,
    checked: Checked | None = None,
) -> Outcome:
    """Check everything, begin the job (in a folder reserved for it, if one is given), train. ``checked``:
    what ``check`` has found already.

    Raises BadInput before anything was written, JobFailed with the good part saved.
    """
    report = kept = _Kept(report)
    with host.lend(), memory_told():
        kind = kind_of(settings)
        check_names(host, settings)
        check_sampler(settings, host.sampler_names())
        check_sizes(settings)
        settings, source = checked or settle(settings, folders)
        rate = check_learning(settings, host.info.device)
        noise_schedule(host, settings)
        host.economise(economy_of(settings))
        host.set_conditioning(conditioning_of(settings))
        targets = check_targets(settings, folders)
        # The prompts are checked before the pictures are encoded.
        vectors = _start_vectors(host, settings, targets)
        host.set_embeddings(vectors)
        parts = _prompt_parts(settings, source)
        said = [host.info.prediction_told] if host.info.prediction_told else []
        said += kind.preflight(host, settings, *parts)
        said += cut_told(host, all_prompts(parts[0], settings.trigger, parts[1]), settings.max_token_length)
        said += _preview_warning(host, settings, source)
        for product, target in targets.items():
            if product.is_embedding and target.exists() and not settings.overwrite:
                count = _count(vectors[product.name])
                said.append(f"the start is {target.name}, {count} vectors not trained yet")
        if settings.make_reg:
            settings = _with_pictures_drawn(host, settings, folders, report, stopped)
            source = read_source(settings, folders)
        samples, sizes_told = _samples(host, settings, source, folders)
        said += sizes_told
        job = job or Job.reserve(folders.jobs, settings.name)
        record = {
            "method": kind.name,
            "model": model,
            "model_sha256": host.info.sha256,
            "prediction": host.info.prediction,
            "fingerprint": source.fingerprint,
            "pictures": [str(picture.path) for picture in source.pictures],
            "settings": as_dict(settings),
        }
        try:
            job.begin(record)
        except CannotWrite:
            job.discard()
            raise
        length = f"{settings.steps} steps ({samples.steps_of_epoch} to an epoch)"
        first_rate = rate.at(settings.initial_step + 1)
        said.append(f"job {job.id}: {len(source.pictures)} pictures, {length}, rate {first_rate:g}")
        with job.alone():
            for sentence in said:
                report(Message(sentence))
            began = _begin(host, settings, samples, job, targets, report, vectors, stopped, folders)
            return kept.into(began)


def _begin(
    host: Host,
    settings: JobSettings,
    samples: TrainingSet,
    job: Job,
    targets: Mapping[Product, Path],
    report: Callable[[Event], None],
    vectors: Embeddings,
    stopped: Callable[[], bool],
    folders: Folders,
) -> Outcome:
    """Train a job that has no saved state; stopped before its start was found it has none, and begins anew
    when it is resumed."""

    def say(sentence: str) -> None:
        report(Message(sentence))

    start = kind_of(settings).refine(host, settings, samples, vectors, say, stopped)
    if start is None:
        return Outcome("stopped", job, 0, {}, None, 0.0, 0, [])
    still_free = partial(check_targets, settings, folders, job)
    outcome = Run(host, settings, samples, job, targets, report, start, still_free).execute(stopped)
    return with_cards(outcome, settings, folders, report)


def _with_pictures_drawn(
    host: Host,
    settings: JobSettings,
    folders: Folders,
    report: Callable[[Event], None],
    stopped: Callable[[], bool],
) -> JobSettings:
    """The settings of the job whose regularisation pictures are there. Raises Interrupted."""
    folder = draw_pictures(
        host,
        settings,
        picture_size(host, settings),
        _kept(folders, "regularisation"),
        lambda there: report(Drawn(there, settings.make_reg)),
        stopped,
    )
    return replace(settings, reg_images=str(folder.resolve()))


def resume(
    host: Host,
    job: Job,
    *,
    folders: Folders,
    report: Callable[[Event], None],
    stopped: Callable[[], bool],
    moved: Mapping[str, Any] | None = None,
) -> Outcome:
    """Go on where the job's saved state is. ``moved``: where what some of ``PLACES`` name lies by now; the
    job's record stays as it is. Raises BadInput where model or pictures are not the same, or where another
    process is at it."""
    record = job.settings()
    settings = replace(settings_of(record), **(moved or {}))
    source = read_source(settings, folders, saved=True)
    model = recorded(record, "model", str)
    if recorded(record, "model_sha256", str) != host.info.sha256:
        raise BadInput(f"job {job.id} was started on another model ({model}); load that one to resume it.")
    if (predicted := prediction_of(record) or host.info.prediction) != host.info.prediction:
        raise BadInput(
            f"job {job.id} began with a model that predicts {predicted}, now {host.info.prediction}; "
            "see that its .yaml, or what was said of it, is as it was."
        )
    changed = recorded(record, "fingerprint", str) != source.fingerprint
    if changed or _repeats_changed(record, settings, source):
        raise _say_what_changed(job, record, source)
    targets = check_targets(settings, folders, job)
    report = told = _Kept(report)
    with job.alone(), host.lend(), memory_told():
        cleared = job.clear_up()
        for target in targets.values():
            forget_unfinished(target.parent, target.name)
        host.economise(economy_of(settings))
        host.set_conditioning(conditioning_of(settings))
        samples, said = _samples(host, settings, source, folders)
        for sentence in (f"resuming job {job.id}", *filter(None, [cleared]), *said):
            report(Message(sentence))
        kept = started_from(job, settings)
        if kept is None:
            vectors = _start_vectors(host, settings, targets)
            began = _begin(host, settings, samples, job, targets, report, vectors, stopped, folders)
            return told.into(began)
        still_free = partial(check_targets, settings, folders, job)
        outcome = Run(host, settings, samples, job, targets, report, kept, still_free).execute(stopped)
        return told.into(with_cards(outcome, settings, folders, report))


def prediction_of(record: Mapping[str, Any]) -> Prediction | None:
    """What the model of a job predicts; None where its record is of before that was kept. Raises BadInput."""
    known: Mapping[str, Prediction] = {"eps": "eps", "v": "v"}
    if "prediction" not in record:
        return None
    if (told := recorded(record, "prediction", str)) not in known:
        raise BadInput("a job's settings.json does not tell its prediction; remove the job's folder.")
    return known[told]


def _repeats_changed(record: Mapping[str, Any], settings: JobSettings, source: Source) -> bool:
    """Whether the folders inside the picture folder, whose names say the repeats, are called otherwise."""
    before, now = Path(record["settings"].get("images", "")), Path(settings.images)
    pictures = (map(Path, record.get("pictures", [])), (picture.path for picture in source.pictures))
    inside = [
        [path.parent.relative_to(root) for path in paths if path.is_relative_to(root)]
        for root, paths in zip((before.expanduser(), now.expanduser()), pictures, strict=True)
    ]
    return all(inside) and inside[0] != inside[1]


def _say_what_changed(job: Job, record: Mapping[str, Any], source: Source) -> BadInput:
    """Raised where a job finds other pictures, captions or template than it began with."""
    before = {Path(path).name for path in record.get("pictures", [])}
    now = {picture.path.name for picture in source.pictures}
    gone, new = sorted(before - now), sorted(now - before) if before else []
    told = [f"{', '.join(gone[:5])}: gone"] if gone else []
    told += [f"{', '.join(new[:5])}: new"] if new else []
    return BadInput(
        f"pictures, captions or template of job {job.id} have changed since"
        f"{' (' + '; '.join(told) + ')' if told else ''}; put them back as they were, or start a new job."
    )


def publish(job: Job, step: int, folders: Folders) -> Mapping[Product, Path]:
    """Put the job's copies of ``step`` where prompts find them, in the place of what the job left there.

    Raises BadInput where there are none, or where a file there is not the job's.
    """
    settings = settings_of(job.settings())
    copies = copies_of(job, kind_of(settings).products(settings), step)
    if not all(copy.is_file() for copy in copies.values()):
        steps = ", ".join(map(str, saved_steps(job))) or "none"
        raise BadInput(f"job {job.id} has no saved step {step}; there are {steps}.")
    with in_their_place(job, partial(check_targets, settings, folders, job)) as targets:
        write_together({target: partial(_copy, copies[product]) for product, target in targets.items()})
    make_cards(job, settings, targets, step, folders)
    return targets


def _copy(file: Path, to: Path) -> None:
    write_atomically(to, partial(shutil.copyfile, file))


def settings_of(record: Mapping[str, Any]) -> JobSettings:
    """The settings in a job's record."""
    return read_settings({**recorded(record, "settings", dict), "method": recorded(record, "method", str)})


def check_names(host: Host, settings: JobSettings) -> None:
    """Raises BadInput where a word of the job is no usable file name, or already one of the vocabulary."""
    for word in kind_of(settings).words(settings).all:
        check_name(host, word)


def check_targets(settings: JobSettings, folders: Folders, job: Job | None = None) -> dict[Product, Path]:
    """Where the job's files will be. Raises BadInput, also where they could not be written at its end."""
    products = kind_of(settings).products(settings)
    targets = {product: _check_target(product, settings.overwrite, folders, job) for product in products}
    for folder in {target.parent for target in targets.values()}:
        if not is_writable(folder):
            raise BadInput(f"{folder} is read-only, or not this user's; allow writing there.")
    return targets


def _check_target(product: Product, overwrite: bool, folders: Folders, job: Job | None) -> Path:
    """Where the file will be; one that ``job`` left, or that is not trained yet, may be replaced.

    Raises BadInput where another one is that may not be, or where another file has the name: WebUIs
    read names without regard to case, and take whichever file they find first.
    """
    folder = folders.embeddings if product.is_embedding else folders.networks
    suffixes = EMBEDDINGS if product.is_embedding else NETWORKS
    target = folder / f"{safe_name(product.name)}.safetensors"
    for path in folder.rglob("*.*") if folder.is_dir() else ():
        if path.stem.lower() != product.name.lower() or path.suffix.lower() not in suffixes:
            continue
        if path != target:
            raise BadInput(f"{path} has the name already; choose another one, or move that file away.")
        if not overwrite and not _replaceable(product, path, job):
            raise BadInput(f"{target} exists; choose another name, or --overwrite to replace it.")
    return target


def check_sampler(settings: JobSettings, known: Sequence[str]) -> None:
    """Raises BadInput where the previews ask for a sampler that is not among ``known``."""
    if settings.previews and settings.preview_sampler not in ("", *known):
        raise BadInput(
            f"preview-sampler: there is no {settings.preview_sampler!r}; choose one of {', '.join(known)}"
            f"{perhaps(settings.preview_sampler, known)}."
        )


def _replaceable(product: Product, path: Path, job: Job | None) -> bool:
    """Whether the file there is an embedding that is not trained yet, or is what ``job`` made."""
    try:
        known = read_embedding(path) if product.is_embedding else None
        metadata = known.metadata if known else read_tensors(path)[1]
    except BadInput:
        return False
    return (known is not None and known.step == 0) or (job is not None and metadata.get("job") == job.id)


def _start_vectors(host: Host, settings: JobSettings, targets: Mapping[Product, Path]) -> Embeddings:
    """Of each word: those of an embedding that waits for it untrained, else what the settings say."""
    kind = kind_of(settings)
    words = kind.words(settings).all
    created: dict[str, Mapping[str, torch.Tensor]] = {}
    for product, target in targets.items():
        if not product.is_embedding or not target.exists() or settings.overwrite:
            continue
        if (found := read_embedding(target)).step == 0:
            created[product.name] = found.vectors
    return created if len(created) == len(words) else {**kind.start(host, settings), **created}


def _prompt_parts(settings: JobSettings, source: Source) -> tuple[Sequence[str], Sequence[str]]:
    """Template lines and captions. With several words [name] is not the same in all prompts, so that each
    prompt is a caption of its own."""
    others = kind_of(settings).words(settings).others
    if not others:
        return source.lines, source.captions
    return ["[filewords]"], source.prompts(settings.trigger, others)


def _count(vectors: Mapping[str, torch.Tensor]) -> int:
    return len(next(iter(vectors.values())))


def _preview_warning(host: Host, settings: JobSettings, source: Source) -> list[str]:
    """What to say of previews that will not show what is learned."""
    if not settings.previews:
        return []
    words = kind_of(settings).words(settings)
    if words.for_negative and settings.preview_cfg == 1:
        unheard = ", ".join(words.for_negative)
        return [f"warning: at preview-cfg 1 the negative prompt, and {unheard} in it, has no say"]
    names = source.names(settings.trigger, words.others)
    prompts = preview_prompts(settings, source.lines, source.captions, names)
    shown = {word for prompt in prompts for word, count in host.count_triggers(prompt).items() if count}
    return [
        f"warning: {word!r} is not in the preview prompt {prompts[0]!r}; put [name] into it"
        for word in words.for_prompt
        if word not in shown
    ]
