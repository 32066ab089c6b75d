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
from lib_ti.data.captions import CaptionRules, check_extension, read_caption
from lib_ti.data.images import SUFFIXES, find_images, mask_file

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
    class_words: str | None = None  # the caption of a picture without a text file; None: its file name


@dataclass(frozen=True)
class Picture:
    """One picture of a data set."""

    path: Path
    caption: str
    subset: Subset
    mask: Path | None = None


def name_for(subset: Subset, name: str, others: Sequence[str]) -> str:
    """What [name] stands for in the prompts of a subset: of ``others`` the one that its class words are, or
    begin with, else ``name``."""
    called = f"{subset.class_words or ''} "
    return next((word for word in others if called.startswith(f"{word} ")), name)


def subset_of(settings: PictureSettings, folder: Path) -> Subset:
    """How the settings treat the pictures of ``folder``. Raises BadInput."""
    if not settings.caption_separator.strip():
        raise BadInput("caption-separator: got nothing to split at, expected a sign such as a comma.")
    check_extension(settings.caption_extension)
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
    subsets = _with_repeats(subset_of(settings, Path(settings.images).expanduser()))
    if settings.reg_images:
        regular = subset_of(settings, Path(settings.reg_images).expanduser())
        subsets += _with_repeats(replace(regular, regularisation=True))
    return subsets


def read_pictures(subsets: Sequence[Subset], settings: PictureSettings) -> list[Picture]:
    """The pictures of all subsets, with their captions. Raises BadInput."""
    found = [(subset, find_images(subset.folder)) for subset in subsets]
    shown = sum(subset.repeats * len(paths) for subset, paths in found)
    if shown > limits.SHOWN:
        raise BadInput(
            f"an epoch would show {shown} pictures, repeats counted; at most {limits.SHOWN} are taken; lower "
            "the repeats."
        )
    return [
        Picture(
            path, _caption_of(path, subset, settings), subset, mask_file(path) if subset.mask_files else None
        )
        for subset, paths in found
        for path in paths
    ]


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


def _caption_of(path: Path, subset: Subset, settings: PictureSettings) -> str:
    caption = read_caption(
        path,
        extension=subset.caption_extension,
        word_regex=settings.word_regex,
        join=settings.word_join,
        otherwise=subset.class_words,
    )
    if subset.first_line:
        caption = caption.partition("\n")[0].strip()
    return " ".join(filter(None, (subset.prefix, caption, subset.suffix)))
