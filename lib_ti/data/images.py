"""Training images: which files of a folder they are, and their pixels as the model wants them."""

from __future__ import annotations

import hashlib
import mmap
import re
import struct
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from lib_ti.core import limits
from lib_ti.core.errors import BadInput
from lib_ti.core.files import checked_size
from lib_ti.core.picture_parts import check_parts
from lib_ti.core.text import is_text
from lib_ti.data.colour import colours_of

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
MASK_ENDING = "_att"  # of a file that weighs the parts of the picture it is named after
# Pillow reads dozens of formats; each is a parser that a stranger's file could attack.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_ORIENTATION = 0x0112  # of EXIF; from 5 on width and height change places
_EXIF, _SPACE, _INTEROPERABILITY = 0x8769, 0xA001, 0xA005  # of EXIF, too
_NAMES_TOLD = 5  # of files
# What damaged files were seen to raise in Pillow 9.5 and 13; it has no error of its own for them.
_DAMAGE = (
    OSError, SyntaxError, TypeError, ValueError, IndexError, struct.error, Image.DecompressionBombError,
)  # fmt: skip


def find_images(folder: Path) -> list[Path]:
    """The image files directly in ``folder``, 2.png before 10.png; hidden files are passed over, and those
    that belong to another: ``cat_att.png`` beside ``cat.jpg``.

    Raises BadInput where there is no such folder or it holds no image.
    """
    wanted = f"give a folder with {', '.join(suffix[1:] for suffix in SUFFIXES)} files"
    if not folder.exists():
        raise BadInput(f"The image folder {folder} does not exist; {wanted}.")
    if not folder.is_dir():
        raise BadInput(f"{folder} is a file, not a folder of images; {wanted}.")
    try:
        files = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    except OSError as error:
        raise BadInput(f"The image folder {folder} cannot be read ({error.strerror}); {wanted}.") from error
    pictures = [path for path in files if path.suffix.lower() in SUFFIXES]
    if odd := next((path for path in pictures if not is_text(path.name)), None):
        raise BadInput(f"{odd} has a name that is not UTF-8, so no caption can be read from it; rename it.")
    stems = {path.stem for path in pictures}
    images = sorted((path for path in pictures if not _belongs(path.stem, stems)), key=_natural_order)
    if not images:
        raise BadInput(f"{folder} has no images directly in it (other files: {len(files)}); {wanted}.")
    return images


def _belongs(stem: str, stems: Collection[str]) -> bool:
    """Whether it is a mask of another picture, or one that DreamArtist has drawn of it to be looked at."""
    return any(stem.endswith(end) and stem.removesuffix(end) in stems for end in (MASK_ENDING, "_att_proc"))


def mask_file(path: Path) -> Path | None:
    """The mask beside the picture at ``path``: ``cat_att.png``, or of another type, for ``cat.jpg``."""
    candidates = (path.with_name(f"{path.stem}{MASK_ENDING}{suffix}") for suffix in SUFFIXES)
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _natural_order(path: Path) -> tuple[list[str | int], str]:
    """Runs of digits compare as numbers; the exact name settles ties such as ``1.png``, ``01.png``."""
    parts = re.split(r"(\d+)", path.name.casefold())
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], path.name


@dataclass(frozen=True)
class Head:
    """What is known of an image before its pixels are read. ``size``: upright; ``converted``: whether
    ``open_image`` changes its colours; ``remarks``: what of the file is taken otherwise than it says."""

    size: tuple[int, int]
    converted: bool = False
    remarks: Sequence[str] = ()


def open_image(path: Path) -> Image.Image:
    """The image, upright, in sRGB, all its pixels read. Of an animation the first frame is taken.

    Raises BadInput where the file is not a whole image.
    """
    with _opened(path) as file:
        colours = colours_of(file.info, file.mode).colours
        image = ImageOps.exif_transpose(file)  # reads all pixels, too
        return colours.to_srgb(image) if colours else image


def open_numbers(path: Path) -> Image.Image:
    """As ``open_image``, its numbers as they are stored: of a mask, where they are no colours."""
    with _opened(path) as file:
        return ImageOps.exif_transpose(file)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    checked_size(path, limits.PICTURE_FILE)
    try:
        with path.open("rb") as parts, mmap.mmap(parts.fileno(), 0, access=mmap.ACCESS_READ) as data:
            check_parts(data, str(path))
        with Image.open(path, formats=FORMATS) as file:
            _limit_pixels(file, path)
            yield file
    except _DAMAGE as error:
        if not path.exists():
            raise BadInput(f"{path} is gone; put it back, or start again without it.") from error
        raise BadInput(
            f"{path} cannot be read as a PNG, JPEG, WEBP or BMP image ({error}); "
            "save it again from an image editor, or take it out of the folder."
        ) from error


def _limit_pixels(file: Image.Image, path: Path) -> None:
    """Large photos, as JPEG, are read at half their size or less. Raises BadInput for other pictures."""
    width, height = file.size
    if width * height <= limits.PIXELS:
        return
    # A progressive one takes the memory of all its pixels, however few are wanted. MPO: a photo in JPEG
    # with others behind it, such as how bright or far away things are.
    shrinks = (2, 4, 8) if file.format in ("JPEG", "MPO") and "progressive" not in file.info else ()
    for shrink in shrinks:
        if width * height <= limits.PIXELS * shrink**2:
            file.draft(None, (max(1, width // shrink), max(1, height // shrink)))
            return
    raise BadInput(
        f"{path} has {width} x {height} pixels, at most {limits.PIXELS:,} are read; "
        "save a smaller copy of it."
    )


def read_head(path: Path) -> Head:
    """The head of the image at ``path``; its pixels are not read. Raises BadInput."""
    with _opened(path) as file:
        # Only where it stands before the pixels: Pillow would read all of them to look behind.
        exif = file.getexif() if {"exif", "Raw profile type exif"} & file.info.keys() else Image.Exif()
        on_its_side = exif.get(_ORIENTATION) in (5, 6, 7, 8)
        size = (file.height, file.width) if on_its_side else file.size
        taken = colours_of(file.info, file.mode)
        remarks = [taken.remark or _remark_of(exif, file)]
        if file.format in ("PNG", "WEBP") and getattr(file, "is_animated", False):
            remarks.append("an animation, of which the first picture is taken")
        return Head(size, taken.colours is not None, tuple(filter(None, remarks)))


def _remark_of(exif: Image.Exif, file: Image.Image) -> str:
    """Cameras name Adobe RGB in EXIF alone, which few programs for pictures read."""
    if file.info.get("icc_profile"):
        return ""
    try:
        told = exif.get_ifd(_EXIF)
        adobe = told.get(_SPACE) == 2
        if _INTEROPERABILITY in told:
            adobe = adobe or exif.get_ifd(_INTEROPERABILITY).get(1) == "R03"
    except _DAMAGE:  # of what no pixel depends on
        return ""
    return "Adobe RGB by EXIF, without a colour profile; taken as sRGB" if adobe else ""


def remarks_told(pictures: Iterable[tuple[str, Sequence[str]]]) -> list[str]:
    """A sentence for each remark, of all the pictures that it is true of. ``pictures``: name, remarks."""
    names: dict[str, list[str]] = {}
    for name, remarks in pictures:
        for remark in remarks:
            names.setdefault(remark, []).append(name)
    return [f"{counted(found)}: {remark} ({some(found)})" for remark, found in names.items()]


def counted(names: Sequence[object], noun: str = "picture") -> str:
    return f"{len(names)} {noun}{'' if len(names) == 1 else 's'}"


def some(names: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    more = f" and {len(names) - _NAMES_TOLD} more" if len(names) > _NAMES_TOLD else ""
    return ", ".join(names[:_NAMES_TOLD]) + more


def is_upright(path: Path) -> bool:
    """Whether the pixels of the image at ``path`` are stored as it is to be seen. Raises BadInput."""
    with _opened(path) as file:
        return file.getexif().get(_ORIENTATION, 1) == 1


def load_image(path: Path, width: int, height: int) -> torch.Tensor:
    """The image at ``path`` as ``to_pixels`` makes it, its middle cut out. Raises BadInput."""
    return to_pixels(open_image(path), width, height)


def to_pixels(
    image: Image.Image,
    width: int,
    height: int,
    place: tuple[float, float] = (0.5, 0.5),
    resize: str = "lanczos",
) -> torch.Tensor:
    """An image scaled to cover ``width`` x ``height`` pixels, what is too much cut off.

    ``place``: where in the spare length the cut lies, 0 left or top to 1 right or bottom. ``resize``: one
    of Pillow's ways.
    Returns (3, height, width), float32, -1..1.
    """
    # Lanczos both ways by default: Pillow widens the kernel when it shrinks, so nothing aliases, and it
    # keeps more detail than a box.
    box = cut_box(image.size, (width, height), place)
    image = flatten(image).resize((width, height), Image.Resampling[resize.upper()], box)
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 127.5 - 1).permute(2, 0, 1).contiguous()


def cut_box(
    size: tuple[int, int], target: tuple[int, int], place: tuple[float, float] = (0.5, 0.5)
) -> tuple[float, float, float, float]:
    """What of a picture of ``size`` is scaled to ``target``: left, top, right and bottom in its pixels.

    Fractions of a pixel too, so that the proportions stay exact. ``place``: see ``to_pixels``.
    """
    width, height = map(float, size)
    if size[0] * target[1] > size[1] * target[0]:
        width = height * target[0] / target[1]
    else:
        height = min(height, width * target[1] / target[0])
    left, top = (size[0] - width) * place[0], (size[1] - height) * place[1]
    return left, top, left + width, top + height


def flatten(image: Image.Image) -> Image.Image:
    """Any mode as RGB, transparency laid on white."""
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion clips at 255
        sixteen_bit = np.asarray(image, dtype=np.uint32)
        image = Image.fromarray(((sixteen_bit + 128) // 257).astype(np.uint8))
    # White, since pages show cut-out pictures on it and so the model met them; the colour stored
    # beneath transparent pixels is an accident. Before scaling, or that colour bleeds into the edges.
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def image_hash(path: Path) -> str:
    """SHA-256 of the file's bytes, in hexadecimal."""
    checked_size(path, limits.PICTURE_FILE)
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}); check that it is still there.") from error
