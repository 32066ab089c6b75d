"""Data set files of sd-scripts: its TOML or JSON, with the meaning it has there.

A key is looked for in the subset, its dataset, [general], the settings, and last among the defaults of
sd-scripts. What that file can ask for and is not to be had here is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from lib_ti.core import limits
from lib_ti.core.errors import BadInput
from lib_ti.core.files import parse_json, parse_toml, read_text, refuse_backslashes
from lib_ti.core.names import below
from lib_ti.core.nearest import perhaps
from lib_ti.core.picture_settings import PictureSettings
from lib_ti.core.settings import build, option, options_of
from lib_ti.data.dataset import Subset, subset_of

SUFFIXES = (".toml", ".json")
_TABLES = {"general", "datasets"}  # at the top of a file
_DATASETS = re.compile(r"""^\s*\[\[\s*["']?datasets\b|["']datasets["']\s*:""", re.MULTILINE)
_RANDOM_CROPS = 4  # in the place of a new cut at every step

# Keys that are settings of ours under another name.
_DATASET_SETTINGS = {
    "enable_bucket": "buckets",
    "min_bucket_reso": "bucket_min",
    "max_bucket_reso": "bucket_max",
    "bucket_reso_steps": "bucket_step",
}
_SUBSET_SETTINGS = {
    "caption_extension": "caption_extension",
    "shuffle_caption": "shuffle_tags",
    "keep_tokens": "keep_tags",
    "keep_tokens_separator": "keep_separator",
    "secondary_separator": "second_separator",
    "caption_separator": "caption_separator",
    "enable_wildcard": "wildcards",
    "caption_prefix": "caption_prefix",
    "caption_suffix": "caption_suffix",
    "caption_dropout_rate": "drop_captions",
    "caption_tag_dropout_rate": "drop_tags",
    "caption_dropout_every_n_epochs": "drop_captions_every",
    "token_warmup_step": "tag_warmup",
    "token_warmup_min": "tag_warmup_from",
    "flip_aug": "flip",
    "resize_interpolation": "resize",
    "alpha_mask": "alpha_mask",
    "num_repeats": "repeats",
    "validation_split": "validation_split",
    "validation_seed": "validation_seed",
}
# What sd-scripts takes where neither the file nor a changed setting says anything.
_DEFAULTS: Mapping[str, Any] = {
    "buckets": False,
    "bucket_min": 256,
    "bucket_max": 1024,
    "bucket_step": 64,
    "caption_extension": ".caption",
}
# Other names of what settings of ours call otherwise.
_RESIZE = {"linear": "bilinear", "cubic": "bicubic", "area": "box"}
_ENCODED_ONCE = "pictures are encoded once, before the first step"
# Keys of which we have this one value only (None: leave it out), and why.
_FIXED: Mapping[str, tuple[Any, str]] = {
    "network_multiplier": (1.0, "nothing would come of it, in sd-scripts either"),
    "color_aug": (False, f"{_ENCODED_ONCE}, so their colours cannot change from step to step"),
    "face_crop_aug_range": (None, f"{_ENCODED_ONCE}; use random_crop"),
    "custom_attributes": ({}, "nothing here reads them"),
}
# Keys that change nothing here: each belongs to a fixed one, or to a cache of sd-scripts.
_IDLE = {"cache_info"}


@dataclass(frozen=True)
class _DatasetKeys:
    """Keys of a dataset that are not settings of ours."""

    batch_size: int = option(1, "", group="", low=1, high=256)
    bucket_no_upscale: bool = option(False, "", group="")


@dataclass(frozen=True)
class _SubsetKeys:
    """Keys of a subset that are not settings of ours."""

    is_reg: bool = option(False, "", group="")
    class_tokens: str = option("", "", group="")
    metadata_file: str = option("", "", group="")
    conditioning_data_dir: str = option("", "", group="")
    random_crop: bool = option(False, "", group="")


def _same_names(kind: type) -> dict[str, str]:
    return {name: name for name in options_of(kind)}


_HELD_OUT = {"validation_split", "validation_seed"}
_IN_DATASET = {
    *_DATASET_SETTINGS, *_same_names(_DatasetKeys), *_HELD_OUT, "resolution",
    "network_multiplier", "resize_interpolation",
}  # fmt: skip
_IN_SUBSET = {
    *_SUBSET_SETTINGS.keys() - _HELD_OUT, *_same_names(_SubsetKeys), *_FIXED.keys() - {"network_multiplier"},
    *_IDLE,
}  # fmt: skip
_OWN = {"image_dir", "is_reg", "class_tokens", "metadata_file", "conditioning_data_dir"}  # not inherited


@dataclass(frozen=True)
class DatasetConfig:
    """A file's subsets, regularisation pictures last. ``batch_size``: None where it does not say."""

    subsets: list[Subset]
    batch_size: int | None
    text: str


def check_file_name(name: str) -> None:
    """Raises BadInput where that is no data set file's: whatever else lies there is not even opened."""
    if Path(name).suffix.lower() not in SUFFIXES:
        raise BadInput(
            f"dataset-config: got {name[:100]!r}, expected a name ending in {' or '.join(SUFFIXES)}."
        )


def read_dataset_config(settings: PictureSettings) -> DatasetConfig:
    """The file that ``settings.dataset_config`` names. Raises BadInput by file and key."""
    path = Path(settings.dataset_config).expanduser()
    text = read_text(path)
    config = _parse(path, text)
    _refuse_unknown(f"{path}", config, _TABLES)
    general = config.get("general", {})
    _refuse_unknown(f"{path}, [general]", general, (_IN_DATASET | _IN_SUBSET) - _OWN)
    base = settings if settings.dataset_fallback == "settings" else _with_defaults(settings)
    subsets: list[Subset] = []
    sizes = set()
    for dataset in config.get("datasets", []):
        where = f"{path}, [[datasets]]"
        _refuse_unknown(where, dataset, (_IN_DATASET | _IN_SUBSET | {"subsets"}) - _OWN)
        shared = {**general, **{key: value for key, value in dataset.items() if key != "subsets"}}
        sizes.add(shared.get("batch_size"))
        found: dict[Path, Subset] = {}
        for subset in dataset.get("subsets", []):
            where = f"{path}, [[datasets.subsets]]"
            _refuse_unknown(where, subset, _IN_SUBSET | {"image_dir"})
            made = _subset(where, {**shared, **subset}, base, path.parent)
            found.setdefault(made.folder, made)  # sd-scripts too takes the first of a folder
        subsets += found.values()
    if not subsets:
        raise BadInput(f"{path} names no pictures; expected [[datasets]] with [[datasets.subsets]] in it.")
    if len(sizes) > 1:
        raise BadInput(f"{path}: the datasets differ in batch_size; expected the same for all of them.")
    subsets.sort(key=lambda subset: subset.regularisation)
    return DatasetConfig(subsets, sizes.pop(), text)


def _with_defaults(settings: PictureSettings) -> PictureSettings:
    """sd-scripts' defaults, but for what was changed."""
    changed = {field.name for field in fields(settings) if getattr(settings, field.name) != field.default}
    return replace(settings, **{name: value for name, value in _DEFAULTS.items() if name not in changed})


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        config = _parse_json(text) if text.lstrip()[:1] == "{" else parse_toml(text)
    except ValueError as error:  # of which both parsers' errors are
        # They may quote what is there, which in a file of another kind is nobody's business.
        told = f" ({error})" if _DATASETS.search(text) else ", and does not look like a data set file"
        raise BadInput(f"{path} cannot be read{told}; mend it, or leave it out.") from error
    tables = config.get("datasets") if isinstance(config, dict) else None
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise BadInput(f"{path} is no data set file; expected [[datasets]] with [[datasets.subsets]] in it.")
    count = sum(len(inside) for table in tables if isinstance(inside := table.get("subsets"), list))
    if len(tables) + count > limits.SUBSETS:
        raise BadInput(f"{path} has {len(tables) + count} tables; at most {limits.SUBSETS} are read.")
    return config


def _parse_json(text: str) -> Any:
    refuse_backslashes(text, ":")
    return parse_json(text)


def _refuse_unknown(where: str, table: Any, known: set[str]) -> None:
    if not isinstance(table, dict):
        raise BadInput(f"{where}: got {table!r}, expected a table of keys.")
    unknown = sorted(set(table) - known)
    if unknown:
        raise BadInput(
            f"{where}: unknown key {', '.join(unknown)}; "
            f"expected some of {', '.join(sorted(known))}{perhaps(unknown[0], known)}."
        )


def _subset(where: str, keys: Mapping[str, Any], base: PictureSettings, beside: Path) -> Subset:
    for key, (only, reason) in _FIXED.items():
        if key in keys and keys[key] != only:
            raise BadInput(f"{where}: {key} = {keys[key]!r} is not available here: {reason}.")
    if not isinstance(keys.get("image_dir"), str):
        raise BadInput(f"{where}: image_dir is missing; give the folder with the pictures.")
    if (way := keys.get("resize_interpolation")) in _RESIZE:
        keys = {**keys, "resize_interpolation": _RESIZE[way]}
    told = _told(where, PictureSettings, {**_DATASET_SETTINGS, **_SUBSET_SETTINGS}, keys)
    settings = replace(base, **told, **_size(where, keys))
    dataset = _DatasetKeys(**_told(where, _DatasetKeys, _same_names(_DatasetKeys), keys))
    subset = _SubsetKeys(**_told(where, _SubsetKeys, _same_names(_SubsetKeys), keys))
    if "bucket_no_upscale" in keys:
        settings = replace(settings, bucket_enlarge=not dataset.bucket_no_upscale)
    if "random_crop" in keys:
        crops = settings.random_crops or _RANDOM_CROPS
        settings = replace(settings, random_crops=crops if subset.random_crop else 0)
    files: dict[str, Any] = {
        ours: str(_folder(where, key, told, beside))
        for ours, key, told in (
            ("metadata_file", "metadata_file", subset.metadata_file),
            ("mask_folder", "conditioning_data_dir", subset.conditioning_data_dir),
        )
        if told
    }
    settings = replace(settings, **files)
    if subset.is_reg:
        settings = replace(settings, metadata_file="", mask_folder="", validation_split=0.0)
    return replace(
        subset_of(settings, _folder(where, "image_dir", keys["image_dir"], beside)),
        regularisation=subset.is_reg,
        class_words=subset.class_tokens,
        first_line=not settings.wildcards,
    )


def _told(where: str, kind: type, names: Mapping[str, str], keys: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of ``kind`` that ``keys`` give, by ``names`` (key -> field), each of the right type."""
    told = {}
    for key, name in names.items():
        if key in keys:
            try:
                told[name] = getattr(build(kind, {name: keys[key]}), name)
            except BadInput as error:
                raise BadInput(f"{where}: {key}: {str(error).partition(': ')[2]}") from error
    return told


def _size(where: str, keys: Mapping[str, Any]) -> dict[str, Any]:
    """Width and height: ``resolution`` is a number or two."""
    if "resolution" not in keys:
        return {}
    match keys["resolution"]:
        case int(side) if side > 0 and not isinstance(side, bool):
            return {"width": side, "height": side}
        case [int(width), int(height)] if width > 0 and height > 0:
            return {"width": width, "height": height}
    raise BadInput(f"{where}: resolution: got {keys['resolution']!r}, expected 512 or [512, 768].")


def _folder(where: str, key: str, named: str, beside: Path) -> Path:
    """As it is written; or beside the file, where there is only that. Raises BadInput for one that leads out
    by "..", or to another computer: the file may be a stranger's."""
    if not named.isprintable():  # such as the tab that \t is in double quotes
        raise BadInput(
            f"{where}: {key}: a sign in it cannot be shown; write a path with \\ in single quotes, or with /."
        )
    try:
        inside = below(beside, named)
    except BadInput as error:
        raise BadInput(f"{where}: {key}: {error}") from error
    folder = Path(named).expanduser()
    return folder if folder.exists() or not inside.exists() else inside
