"""What a job learns from: the user's pictures and captions, found, checked and made ready."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from lib_ti.core import limits
from lib_ti.core.errors import BadInput
from lib_ti.core.picture_settings import PictureSettings
from lib_ti.core.train_settings import TrainSettings
from lib_ti.data.beside import captions_told, unread_told
from lib_ti.data.buckets import bucket_table
from lib_ti.data.captions import plain_caption
from lib_ti.data.dataset import Picture, Subset, name_for, read_pictures, subsets_of
from lib_ti.data.images import counted, remarks_told
from lib_ti.data.known_files import Facts, KnownFiles
from lib_ti.data.latent_store import Encode, LatentStore
from lib_ti.data.latents import LatentCache, cache_latents
from lib_ti.data.samples import TrainingSet, steps_to_show
from lib_ti.data.sd_scripts_config import read_dataset_config
from lib_ti.data.templates import as_one_word, fill
from lib_ti.data.views import Framed, frame


@dataclass(frozen=True)
class Source:
    """Everything of the user's that a job reads, found and checked before anything is written."""

    pictures: Sequence[Picture]
    facts: Sequence[Facts]  # of each picture's file
    lines: Sequence[str]  # of the template
    files: KnownFiles  # where the facts are from; nothing is written down before the pictures are encoded
    batch_size: int | None = None  # of the data set file; it goes before the settings'
    config: str = ""  # its text

    @cached_property
    def captions(self) -> list[str]:
        """What [filewords] can be, with nothing left to chance."""
        return [plain_caption(picture.caption, picture.subset.captions) for picture in self._own]

    def names(self, name: str, others: Sequence[str]) -> list[str]:
        """What [name] stands for with each of the captions."""
        return [name_for(picture.subset, name, others) for picture in self._own]

    def prompts(self, name: str, others: Sequence[str]) -> list[str]:
        """Each distinct prompt that can be drawn, as ``all_prompts`` has them where [name] is always the
        same."""
        prompts: dict[str, None] = {}
        for called, caption in zip(self.names(name, others), self.captions, strict=True):
            if len(prompts) >= limits.DRAWN_PROMPTS:
                break
            filled = (fill(line, name=called, filewords=caption, others=others) for line in self.lines)
            prompts |= dict.fromkeys(filled)
        return list(prompts)

    @cached_property
    def _own(self) -> list[Picture]:
        """Those that are learned from."""
        return [picture for picture in self.pictures if _is_own(picture)]

    @cached_property
    def fingerprint(self) -> str:
        """Of pictures, captions and template: a resumed job must find the same."""
        contents = (known.content + known.mask for known in self.facts)
        captions = (picture.caption for picture in self.pictures)
        return hashlib.sha256(
            "\n".join([*contents, *captions, *self.lines, *filter(None, [self.config])]).encode()
        ).hexdigest()


def first_prompts(
    source: Source, settings: TrainSettings, trigger: str, limit: int = 100, others: Sequence[str] = ()
) -> list[str]:
    """The distinct prompts of the first epoch, as its steps will draw them; no more than ``limit``."""
    samples = _training_set(source, LatentCache([], []), settings, trigger, others)
    prompts: dict[str, None] = {}
    for step in range(1, samples.steps_of_epoch + 1):
        prompts |= dict.fromkeys(samples.prompts(step))
        if len(prompts) >= limit:
            break
    return list(prompts)[:limit]


def _is_own(picture: Picture) -> bool:
    return not (picture.subset.regularisation or picture.held_out)


def steps_of_epoch(source: Source, settings: TrainSettings) -> int:
    """How many steps show every picture of the source once, and those that are yet to be drawn."""
    own = sum(picture.subset.repeats for picture in source.pictures if _is_own(picture))
    regularised = bool(settings.make_reg) or any(picture.subset.regularisation for picture in source.pictures)
    return steps_to_show(own, regularised, _with_batch_size(settings, source))


def find_source(
    settings: PictureSettings,
    lines: Sequence[str],
    kept: Path,
    check: Callable[[Subset], object] = lambda subset: None,
) -> Source:
    """The source that the settings name. ``kept``: the folder of what is remembered of earlier jobs;
    ``check`` raises BadInput for a subset that may not be read.

    Raises BadInput.
    """
    if not settings.dataset_config:
        subsets, batch_size, text = subsets_of(settings), None, ""
    elif settings.images or settings.reg_images or settings.make_reg:
        raise BadInput("dataset-config names the pictures; leave out images, reg-images and make-reg.")
    else:
        config = read_dataset_config(settings)
        subsets, batch_size, text = config.subsets, config.batch_size, config.text
    for subset in subsets:
        check(subset)
    pictures = read_pictures(subsets, settings)
    if all(picture.subset.regularisation for picture in pictures):
        raise BadInput(
            f"{settings.dataset_config} has regularisation pictures only; add what is to be learned."
        )
    files = KnownFiles(kept / "files.json")
    facts = []
    for picture in pictures:
        known = files.facts(picture.path)
        facts.append(replace(known, mask=files.facts(picture.mask).content) if picture.mask else known)
    return Source(pictures, facts, lines, files, batch_size, text)


def make_samples(
    source: Source,
    settings: TrainSettings,
    trigger: str,
    others: Sequence[str] = (),
    *,
    native: int,
    grain: int,
    timesteps: int,
    encode: Encode,
    kept: Path,
) -> tuple[TrainingSet, list[str]]:
    """The training set, its pictures encoded, and what is to be said of them.

    ``others``: the words beside ``trigger``; ``native``: the model's side; ``grain``: pixels a latent;
    ``kept``: the folder of encoded pictures.
    Raises BadInput at a picture that cannot be read.
    """
    framed = frame(source.pictures, source.facts, native, grain, settings.seed)
    source.files.save()
    store = LatentStore(kept, encode) if settings.keep_latents else None
    cache = cache_latents(framed, encode, store)
    if store:
        store.trim()
    samples = _training_set(source, cache, settings, trigger, others, timesteps)
    said = _said(source, framed, len(cache.mask)) + held_told(samples, settings)
    return samples, said + [told for word in (trigger, *others) for told in _tokens_told(source, word)]


def _training_set(
    source: Source,
    cache: LatentCache,
    settings: TrainSettings,
    trigger: str,
    others: Sequence[str],
    timesteps: int = 1000,
) -> TrainingSet:
    settings = _with_batch_size(settings, source)
    captions = [picture.caption for picture in source.pictures]
    subsets = [picture.subset for picture in source.pictures]
    held = [row for row, picture in enumerate(source.pictures) if picture.held_out]
    return TrainingSet(cache, captions, source.lines, trigger, settings, timesteps, subsets, others, held)


def _with_batch_size(settings: TrainSettings, source: Source) -> TrainSettings:
    return replace(settings, batch_size=source.batch_size) if source.batch_size else settings


def _said(source: Source, framed: Sequence[Framed], masked: int) -> list[str]:
    said = bucket_table([known.size for known in source.facts], [picture.size for picture in framed])
    pairs = zip(source.pictures, source.facts, strict=True)
    said += remarks_told((picture.path.name, known.remarks) for picture, known in pairs)
    said += _captions_told(source)
    if masked:
        said.append(f"loss masks: {masked} of {len(framed)} pictures have one")
    regular = sum(picture.subset.regularisation for picture in source.pictures)
    if regular:
        said.append(
            f"regularisation pictures: {regular}, in turn with the others ({len(framed) - regular}); their "
            "captions are their prompts, and one without the new word teaches that word nothing"
        )
    return said


def _captions_told(source: Source) -> list[str]:
    """Of each folder, as far as its captions come into prompts."""
    said = unread_told(dict.fromkeys(picture.subset.folder for picture in source.pictures))
    used = any("[filewords]" in line for line in source.lines)
    for subset in dict.fromkeys(picture.subset for picture in source.pictures):
        if subset.metadata:
            continue  # which has the captions
        paths = [picture.path for picture in source.pictures if picture.subset == subset]
        if used or subset.regularisation:
            said += captions_told(paths, subset.caption_extension, subset.class_words)
        elif having := [
            path for path in paths if path.with_name(path.stem + subset.caption_extension).is_file()
        ]:
            said.append(f"captions of {counted(having)} are in no prompt: the template has no [filewords]")
    return said


def held_told(samples: TrainingSet, settings: TrainSettings) -> list[str]:
    """What to say of the pictures that are held out. Raises BadInput where others wait for a look at them."""
    if not samples.held:
        if not settings.evaluate_pictures and (settings.staircase or settings.stop_rule != "none"):
            raise BadInput(
                "evaluate-pictures 0 stands for the pictures that are held out, and there are none; give a "
                "number, or a validation-split."
            )
        return []
    looked = (
        f"evaluate-every looks at {len(samples.looked_at(settings.evaluate_pictures))} of them"
        if settings.evaluate_every
        else "nothing looks at them without evaluate-every"
    )
    return [f"validation: {len(samples.held)} of {len(samples.subsets)} pictures are held out; {looked}"]


def _tokens_told(source: Source, word: str) -> list[str]:
    """What to say where captions or lines have the word as sd-scripts' tokens."""
    texts = [text.replace("[name]", word) for text in (*source.lines, *source.captions)]
    count = sum(as_one_word(text, word) != text for text in texts)
    return [f"{word} {word}1 ... is read as the one word {word} ({count} times)"] if count else []
