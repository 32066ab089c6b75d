"""A data set: the pictures of one or more folders, and how those of each are treated."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lib_ti.core import limits
from lib_ti.core.errors import BadInput
from lib_ti.core.picture_settings import PictureSettings
from lib_ti.data.buckets import Bucketing
from lib_ti.data.captions import CaptionRules, captions_by_name, read_caption
from lib_ti.data.holding_out import held_out
from lib_ti.data.images import SUFFIXES, find_images, mask_file
from lib_ti.data.metadata_file import captions_of

# What sd-scripts calls its folders: 10_red cat
_REPEATED = re.compile(r"(\d+)_(.+)")


@dataclass(frozen=True)
class Subset:
    """Pictures that are treated alike."""

    folder: Path
    bucketing: Bucketing = field(default_factory=Bucketing)
    repeats: int = 1  # how often an epoch shows each of them
    resize: str = "lanczos"
    flip: bool = False
    random_crops: int = 0  # 0: the middle
    grey_copies: bool = False
    alpha_mask: bool = False
    mask_files: bool = True
    normalise_masks: bool = True
    regularisation: bool = False  # what the model should go on to know, beside what it learns
    prefix: str = ""  # of every caption
    suffix: str = ""
    captions: CaptionRules = field(default_factory=CaptionRules)
    caption_extension: str = ".txt"
    first_line: bool = False  # of a text file is the caption
    metadata: Path | None = None  # where captions are, in place of text files
    mask_folder: Path | None = None
    validation_split: float = 0.0  # of its pictures
    validation_seed: int = 0
    class_words: str | None = None  # the caption of a picture without a text file; None: its file name


@dataclass(frozen=True)
class Picture:
    """One picture of a data set."""

    path: Path
    caption: str
    subset: Subset
    mask: Path | None = None
    held_out: bool = False  # not learned from


def name_for(subset: Subset, name: str, others: Sequence[str]) -> str:
    """What [name] stands for in the prompts of a subset: of ``others`` the one that its class words are, or
    begin with, else ``name``."""
    called = f"{subset.class_words or ''} "
    return next((word for word in others if called.startswith(f"{word} ")), name)


def subset_of(settings: PictureSettings, folder: Path) -> Subset:
    """How the settings treat the pictures of ``folder``. Raises BadInput."""
    if not settings.caption_separator.strip():
        raise BadInput("caption-separator: got nothing to split at, expected a sign such as a comma.")
    return Subset(
        folder=folder,
        bucketing=Bucketing(
            settings.width,
            settings.height,
            settings.buckets,
            settings.bucket_enlarge,
            settings.bucket_min,
            settings.bucket_max,
            settings.bucket_step,
        ),
        resize=settings.resize,
        flip=settings.flip,
        random_crops=settings.random_crops,
        grey_copies=settings.grey_copies,
        alpha_mask=settings.alpha_mask,
        mask_files=settings.mask_files,
        normalise_masks=settings.normalise_masks,
        prefix=settings.caption_prefix,
        suffix=settings.caption_suffix,
        caption_extension=settings.caption_extension,
        repeats=settings.repeats,
        metadata=Path(settings.metadata_file).expanduser() if settings.metadata_file else None,
        mask_folder=Path(settings.mask_folder).expanduser() if settings.mask_folder else None,
        validation_split=settings.validation_split,
        validation_seed=settings.validation_seed,
        captions=CaptionRules(
            settings.drop_captions,
            settings.wildcards,
            settings.keep_tags,
            settings.keep_separator,
            settings.shuffle_tags,
            settings.drop_tags,
            settings.caption_separator,
            settings.second_separator,
            settings.drop_captions_every,
            settings.tag_warmup,
            settings.tag_warmup_from,
        ),
    )


def subsets_of(settings: PictureSettings) -> list[Subset]:
    """The subsets that the settings name, regularisation pictures last. Raises BadInput."""
    if not settings.images:
        raise BadInput(
            "images: missing; give the folder with the training pictures, or a dataset-config that names it."
        )
    own = subset_of(settings, Path(settings.images).expanduser())
    subsets = [own] if own.metadata else _with_repeats(own)
    if settings.reg_images:
        regular = subset_of(settings, Path(settings.reg_images).expanduser())
        subsets += _with_repeats(
            replace(regular, regularisation=True, metadata=None, mask_folder=None, validation_split=0.0)
        )
    return subsets


def read_pictures(subsets: Sequence[Subset], settings: PictureSettings) -> list[Picture]:
    """The pictures of all subsets, with their captions. Raises BadInput."""
    pictures = [picture for subset in subsets for picture in _pictures_of(subset, settings)]
    shown = sum(picture.subset.repeats for picture in pictures)
    if shown > limits.SHOWN:
        raise BadInput(
            f"an epoch would show {shown} pictures, repeats counted; at most {limits.SHOWN} are taken; lower "
            "the repeats."
        )
    return pictures


def _pictures_of(subset: Subset, settings: PictureSettings) -> list[Picture]:
    found, captions = find_images(subset.folder), dict[Path, str]()
    if subset.metadata:
        rules = subset.captions
        captions = captions_of(
            subset.metadata, subset.folder, found, separator=rules.separator, lines=rules.wildcards
        )
        found = list(captions)
    held = set(held_out(found, subset.validation_split, subset.validation_seed, str(subset.folder)))
    names = captions_by_name(found, settings.word_regex, settings.word_join)
    return [
        Picture(
            path,
            _caption_of(path, captions.get(path), name, subset),
            subset,
            _mask_of(path, subset),
            path in held,
        )
        for path, name in zip(found, names, strict=True)
    ]


def _mask_of(path: Path, subset: Subset) -> Path | None:
    if subset.mask_folder is None:
        return mask_file(path) if subset.mask_files else None
    masks = (subset.mask_folder / f"{path.stem}{suffix}" for suffix in (path.suffix, *SUFFIXES))
    found = next((mask for mask in masks if mask.is_file()), None)
    if found is None:
        raise BadInput(
            f"{subset.mask_folder} has no mask {path.stem}.png for {path}; add it, white where all counts."
        )
    return found


def _with_repeats(subset: Subset) -> list[Subset]:
    """The folder itself; or, where it holds folders such as ``10_red cat`` and no picture, those: ten
    repeats of pictures whose caption, if they have none, is "red cat"."""
    folder = subset.folder
    inside = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    named = [(path, match) for path in inside if (match := _REPEATED.fullmatch(path.name))]
    if not named or any(path.suffix.lower() in SUFFIXES and path.is_file() for path in folder.iterdir()):
        return [subset]
    if many := next((path for path, match in named if int(match[1]) > limits.REPEATS), None):
        raise BadInput(f"{many} would repeat its pictures more than {limits.REPEATS} times; rename it.")
    return [
        replace(subset, folder=path, repeats=max(1, int(match[1])), class_words=match[2])
        for path, match in named
    ]


def _caption_of(path: Path, told: str | None, name: str, subset: Subset) -> str:
    """``told``: its caption, where that is no text file's; ``name``: what the file name says."""
    otherwise = name if subset.class_words is None else subset.class_words
    caption = told
    if caption is None:
        caption = read_caption(path, extension=subset.caption_extension, otherwise=otherwise)
    if subset.first_line:
        caption = caption.partition("\n")[0].strip()
    return " ".join(filter(None, (subset.prefix, caption, subset.suffix)))
