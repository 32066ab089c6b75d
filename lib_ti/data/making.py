"""A data set made of a folder of pictures: copies, captions and masks that are ready to be learned from."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from PIL import Image, ImageOps

from lib_ti.core.errors import BadInput, Interrupted
from lib_ti.data.buckets import Size
from lib_ti.data.captions import check_extension, read_caption
from lib_ti.data.duplicates import Pair, Print, find_pairs, print_of
from lib_ti.data.images import MASK_ENDING, find_images, is_upright, mask_file, open_image, read_head
from lib_ti.data.masks import load_mask, to_grey
from lib_ti.data.shrinking import prepared, shrink, shrunk_size

OVERLAP = 0.2  # of the parts of a split picture, as a share of a part
_LONGEST = 120  # characters of a name, to which endings are added; file systems take 255


@dataclass(frozen=True)
class Making:
    """``split``: a picture longer than so many times its short side is cut into squares that overlap; 0: none
    is. ``areas``: of smaller copies. ``alpha_masks``: what is transparent becomes a mask beside the picture.
    """

    split: float = 0.0
    flip: bool = False
    areas: Sequence[Size] = ()
    alpha_masks: bool = False


@dataclass(frozen=True)
class Known:
    """A picture that can be read, and its caption."""

    path: Path
    caption: str
    print: Print
    remarks: Sequence[str] = ()  # what of the file is taken otherwise than it says


@dataclass(frozen=True)
class Survey:
    """What a folder holds. ``damaged``: why those pictures cannot be used, by the names of their files."""

    pictures: Sequence[Known]
    damaged: dict[str, str]

    @cached_property
    def pairs(self) -> list[Pair]:
        return find_pairs([known.print for known in self.pictures])

    def told(self, pair: Pair) -> str:
        kept, other = (self.pictures[place].path.name for place in (pair.kept, pair.other))
        return f"{other} has the same pixels as {kept}" if pair.exact else f"{other} looks like {kept}"


def survey(
    folder: Path,
    extension: str = ".txt",
    stopped: Callable[[], bool] = lambda: False,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Survey:
    """Look at every picture of ``folder``. ``extension``: of the text files with captions.

    Raises BadInput where there is none, Interrupted when ``stopped``.
    """
    check_extension(extension)
    paths = find_images(folder)
    pictures, damaged = [], {}
    for done, path in enumerate(paths, start=1):
        if stopped():
            raise Interrupted("Stopped; nothing was written.")
        try:
            caption, seen = read_caption(path, extension=extension), print_of(open_image(path))
            pictures.append(Known(path, caption, seen, read_head(path).remarks))
        except BadInput as error:
            damaged[path.name] = str(error)
        progress(done, len(paths))
    return Survey(pictures, damaged)


def write_picture(known: Known, making: Making, folder: Path, taken: set[str]) -> list[Path]:
    """Write what becomes of one picture into ``folder``; the new pictures, not their captions and masks.

    ``taken``: the stems in use, in small letters, to which the new ones are added. A picture that needs no
    change is copied byte by byte; others are PNG files, so that nothing is lost.
    Raises BadInput, with nothing written, where the picture cannot be read or nothing of it would count.
    """
    image = open_image(known.path)
    mask = _grey_mask(image, known.path, making.alpha_masks)
    views = list(_views(prepared(image, keep_transparency=True), mask, making))
    untouched = not views[0].ending and is_upright(known.path)
    written = []
    for place, view in enumerate(views):
        stem = free_stem(known.path.stem[:_LONGEST] + view.ending, taken)
        if untouched and place == 0:
            written.append(folder / f"{stem}{known.path.suffix}")
            shutil.copyfile(known.path, written[-1])
        else:
            written.append(folder / f"{stem}.png")
            view.image.save(written[-1], format="PNG")
        if view.mask is not None:
            view.mask.save(folder / f"{stem}{MASK_ENDING}.png", format="PNG")
        (folder / f"{stem}.txt").write_text(known.caption, encoding="utf-8")
    return written


def copy_as(stem: str, picture: Path, folder: Path) -> Path:
    """Picture and mask, byte by byte, under the name ``stem``; the new picture."""
    new = folder / f"{stem}{picture.suffix}"
    shutil.copyfile(picture, new)
    if (mask := mask_file(picture)) is not None:
        shutil.copyfile(mask, folder / f"{stem}{MASK_ENDING}{mask.suffix}")
    return new


def free_stem(stem: str, taken: set[str]) -> str:
    """``stem``, or ``stem-2`` and so on where it is taken; it is taken from now on."""
    names = (f"{stem}-{number}" if number > 1 else stem for number in itertools.count(1))
    free = next(name for name in names if name.casefold() not in taken)
    taken.add(free.casefold())
    return free


def _grey_mask(image: Image.Image, path: Path, alpha: bool) -> Image.Image | None:
    """On the scale of mask files; None where every part counts alike."""
    weights = load_mask(image, path, mask_file(path), alpha)
    return None if weights is None or weights.getextrema() == (1, 1) else to_grey(weights)


@dataclass(frozen=True)
class _View:
    """``ending``: of its name; ``mask``: on the scale of mask files."""

    ending: str
    image: Image.Image
    mask: Image.Image | None


def _views(image: Image.Image, mask: Image.Image | None, making: Making) -> Iterator[_View]:
    """The picture or its parts, each followed by its copies."""
    for part in _parts(_View("", image, mask), making.split):
        sides = [part]
        if making.flip:
            mirrored = part.mask and ImageOps.mirror(part.mask)
            sides.append(_View(f"{part.ending}_flip", ImageOps.mirror(part.image), mirrored))
        for side in sides:
            yield side
            for area in making.areas:
                if shrunk_size(side.image.size, area) != side.image.size:
                    yield _shrunk(side, area)


def _shrunk(view: _View, area: Size) -> _View:
    smaller = shrink(view.image, area, 1, "area")
    mask = view.mask and view.mask.resize(smaller.size, Image.Resampling.BOX)
    return _View(f"{view.ending}+{area[0]}x{area[1]}", smaller, mask)


def _parts(view: _View, split: float) -> list[_View]:
    boxes = split_boxes(view.image.size, split)
    if len(boxes) == 1:
        return [view]
    return [
        _View(f"_part{number}", view.image.crop(box), view.mask and view.mask.crop(box))
        for number, box in enumerate(boxes, start=1)
    ]


def split_boxes(size: Size, split: float) -> list[tuple[int, int, int, int]]:
    """The squares that a picture is cut into, left, top, right and bottom of each; all of it where it is not
    longer than ``split`` times its short side. They overlap by ``OVERLAP`` or more and leave nothing out."""
    short, long = min(size), max(size)
    if not split or long <= split * short:
        return [(0, 0, *size)]
    count = max(2, math.ceil((long / short - OVERLAP) / (1 - OVERLAP)))
    starts = [round(i * (long - short) / (count - 1)) for i in range(count)]
    if size[0] > size[1]:
        return [(start, 0, start + short, short) for start in starts]
    return [(0, start, short, start + short) for start in starts]
