"""What lies in a folder of pictures and is not read, and pictures that have no caption: told, not guessed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from lib_ti.data.images import SUFFIXES, counted, some

# Endings of captions in other programs.
_CAPTIONS = (".txt", ".caption", ".captions", ".cap", ".tags", ".tag", ".text")
# Kinds of pictures that are not read.
_PICTURES = (
    *(".gif", ".apng", ".tif", ".tiff", ".avif", ".heic", ".heif", ".jxl", ".jfif", ".jpe", ".jp2", ".psd"),
    *(".svg", ".ico", ".tga", ".dds", ".exr", ".hdr", ".dng", ".cr2", ".nef", ".arw"),
)


def captions_told(pictures: Sequence[Path], extension: str, otherwise: str | None = None) -> list[str]:
    """Of pictures in one folder: how many have no caption file, and what looks like one and is not read.

    ``otherwise``: the caption of those that have none; None: their file names.
    """
    without = [path.name for path in pictures if not path.with_name(path.stem + extension).is_file()]
    said = []
    if without:
        theirs = "their file names" if otherwise is None else f'"{otherwise}"' if otherwise else "nothing"
        said.append(
            f"no caption file ({extension}): {len(without)} of {counted(pictures)}, whose captions are "
            f"{theirs} ({some(without)})"
        )
    alike = _like_captions(pictures, extension)
    if alike:
        first = next(path for path in pictures if _belongs(alike[0], path, extension))
        said.append(
            f"not read, though they look like captions: {counted(alike, 'file')} ({some(alike)}); call them "
            f"{first.stem}{extension} beside {first.name}, or give their ending as caption-extension"
        )
    return said


def unread_told(folders: Iterable[Path]) -> list[str]:
    """Pictures of kinds that are not read."""
    names = [name for folder in folders for name in _files(folder) if name.lower().endswith(_PICTURES)]
    if not names:
        return []
    return [f"not read: {counted(names)} of another kind ({some(names)}); save them as PNG or JPEG"]


def _like_captions(pictures: Sequence[Path], extension: str) -> list[str]:
    """``1.caption``, ``1.png.txt`` or ``1.TXT`` beside ``1.png``."""
    found = []
    for folder in dict.fromkeys(path.parent for path in pictures):
        here = [path for path in pictures if path.parent == folder]
        read = {path.stem + extension for path in here}
        stems = {stem for path in here for stem in _stems(path, extension)}
        for name in _files(folder):
            stem, dot, ending = name.rpartition(".")
            if f"{dot}{ending}".lower() in {*_CAPTIONS, extension.lower()} and stem.casefold() in stems:
                found += [name] if name not in read else []
    return found


def _stems(picture: Path, extension: str) -> tuple[str, ...]:
    """What a file with its caption may be called before its ending, in small letters."""
    return picture.stem.casefold(), picture.name.casefold(), f"{picture.stem}{extension}".casefold()


def _belongs(name: str, picture: Path, extension: str) -> bool:
    return name.rpartition(".")[0].casefold() in _stems(picture, extension)


def _files(folder: Path) -> list[str]:
    """Their names, sorted; hidden ones are passed over."""
    if not folder.is_dir():
        return []
    visible = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(path.name for path in visible if path.suffix.lower() not in SUFFIXES and path.is_file())
