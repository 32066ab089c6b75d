"""Smaller copies of training pictures: learned beside the originals, they teach small sizes too.

What the files are called is as in bmaltais' tool of sd-scripts, ``resize_images_to_resolution``.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from lib_ti.core.errors import BadInput
from lib_ti.core.files import write_atomically
from lib_ti.data.buckets import Size
from lib_ti.data.images import (
    MASK_ENDING,
    SUFFIXES,
    find_images,
    flatten,
    mask_file,
    open_image,
    open_numbers,
)

# All of them average over what becomes one pixel, so that nothing aliases.
INTERPOLATIONS: Mapping[str, Image.Resampling] = {
    "area": Image.Resampling.BOX,
    "box": Image.Resampling.BOX,
    "linear": Image.Resampling.BILINEAR,
    "cubic": Image.Resampling.BICUBIC,
    "lanczos4": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}


_JPEG = {"format": "JPEG", "quality": 100, "subsampling": 0}


@dataclass(frozen=True)
class Made:
    """What a new file is made from, and at which area; None: it is copied as it is. ``mask``: its numbers are
    no colours."""

    source: Path
    area: Size | None = None
    mask: bool = False


@dataclass(frozen=True)
class Shrinking:
    """``areas``: of each copy, given as a width and a height; both sides a multiple of ``step``.

    ``together``: files of a picture's name, such as its caption, are copied for each of its copies. Its mask
    always is, at the same size.
    """

    areas: Sequence[Size]
    step: int = 1
    interpolation: str = "area"
    png: bool = False
    together: bool = False


def parse_areas(text: str) -> list[Size]:
    """``512x512,384x384``. Raises BadInput."""
    areas = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,6})\s*[xX]\s*(\d{1,6})\s*", part)
        if found is None or not all(1 <= int(side) <= 16384 for side in found.groups()):
            raise BadInput(f"sizes: got {part.strip()!r}, expected WIDTHxHEIGHT, such as 512x512,384x384.")
        areas.append((int(found[1]), int(found[2])))
    return areas


def shrunk_size(size: Size, area: Size) -> Size:
    """``size`` in its proportions with no more pixels than ``area``; never larger than it was."""
    factor = math.sqrt(area[0] * area[1] / (size[0] * size[1]))
    if factor >= 1:
        return size
    return max(1, int(size[0] * factor)), max(1, int(size[1] * factor))


def shrink(picture: Image.Image, area: Size, step: int, interpolation: str) -> Image.Image:
    """``picture`` at ``shrunk_size``, its middle cut so that ``step`` divides both sides.

    A side shorter than ``step`` stays as it is.
    """
    size = shrunk_size(picture.size, area)
    if size != picture.size:
        picture = picture.resize(size, INTERPOLATIONS[interpolation])
    width, height = (side - side % step if side >= step else side for side in size)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return picture.crop((left, top, left + width, top + height))


def planned(source: Path, target: Path, shrinking: Shrinking) -> dict[Path, Made]:
    """New file -> what it is made from.

    Raises BadInput where there is no picture, or two would be written to one file.
    """
    if target.exists() and target.samefile(source):
        raise BadInput(f"{target} is the folder of the pictures themselves; give another one to write into.")
    pictures = find_images(source)
    files = sorted(path for path in source.iterdir() if path.is_file() and not path.name.startswith("."))
    plan: dict[Path, Made] = {}
    for name, made in (*((path.name, Made(path)) for path in files), *_copies(pictures, files, shrinking)):
        if target / name in plan:
            raise BadInput(
                f"{plan[target / name].source.name} and {made.source.name} would both become {name}."
            )
        plan[target / name] = made
    return plan


def _copies(
    pictures: Sequence[Path], files: Sequence[Path], shrinking: Shrinking
) -> Iterator[tuple[str, Made]]:
    for picture in pictures:
        mask = mask_file(picture)
        beside = [path for path in files if path.stem == picture.stem and path.suffix.lower() not in SUFFIXES]
        for area in shrinking.areas:
            stem = f"{picture.stem}+{area[0]}x{area[1]}"
            yield f"{stem}.{'png' if shrinking.png else 'jpg'}", Made(picture, area)
            if mask is not None:
                yield f"{stem}{MASK_ENDING}.png", Made(mask, area, mask=True)
            for path in beside if shrinking.together else ():
                yield f"{stem}{path.suffix}", Made(path)


def shrink_folder(
    plan: Mapping[Path, Made], shrinking: Shrinking, stopped: Callable[[], bool] = lambda: False
) -> Iterator[Path]:
    """Carry ``planned``'s answer out; yields each new file. Raises BadInput at a damaged picture.

    Every copy is made from the original, never from another copy.
    """
    for new, made in plan.items():
        if stopped():
            return
        if made.area is None:
            write_atomically(new, partial(shutil.copyfile, made.source))
        else:
            read = open_numbers if made.mask else open_image
            picture = prepared(read(made.source), keep_transparency=new.suffix == ".png")
            picture = shrink(picture, made.area, shrinking.step, shrinking.interpolation)
            options = {"format": "PNG"} if new.suffix == ".png" else _JPEG
            write_atomically(new, partial(picture.save, **options))
        yield new


def prepared(picture: Image.Image, *, keep_transparency: bool) -> Image.Image:
    """RGB, or RGBA where transparency is to be kept and there is some: it may be what masks the loss."""
    transparent = picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info
    return picture.convert("RGBA") if keep_transparency and transparent else flatten(picture)
