"""Every name that a person or a file gives, on its way to a path: none leaves the folder it is meant for."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from lib_ti.core.errors import BadInput

MAX_NAME = 100  # characters
_LISTED = 20  # names in a message
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # by Windows


def safe_name(name: str) -> str:
    """``name`` itself where it can be a file name on every system, else BadInput."""
    allowed = all(character.isalnum() or character in "._- " for character in name)
    if not allowed or not 1 <= len(name) <= MAX_NAME or name[0] in ". " or name[-1] in ". ":
        raise BadInput(
            f"{name[:MAX_NAME]!r} cannot be a name; expected 1 to {MAX_NAME} letters, digits, spaces, "
            f"'_', '-' and '.', beginning and ending with neither a space nor a dot."
        )
    if _RESERVED.fullmatch(name):
        raise BadInput(f"{name!r} cannot be a name: Windows reserves it for a device; choose another.")
    return name


def files_inside(folder: Path, suffixes: Collection[str]) -> dict[str, Path]:
    """Path relative to ``folder``, with "/" -> file, of all files in and below it with one of ``suffixes``.
    Hidden files and folders do not count."""
    found = {}
    for place, inside, names in os.walk(folder):
        inside[:] = [name for name in inside if not name.startswith(".")]
        for path in (Path(place, name) for name in names if not name.startswith(".")):
            if path.suffix.lower() in suffixes:
                found[path.relative_to(folder).as_posix()] = path
    return dict(sorted(found.items(), key=lambda item: item[0].casefold()))


def folders_inside(folder: Path) -> dict[str, Path]:
    """Name -> folder, of those right below ``folder``. Hidden ones do not count."""
    found = folder.iterdir() if folder.is_dir() else ()
    return {path.name: path for path in sorted(found) if path.is_dir() and path.name[0] != "."}


def find_named(name: str, there: Mapping[str, Path], what: str) -> Path:
    """The one of ``there`` that ``name`` means, with or without its suffix; never another path. Raises
    BadInput."""
    if name in there:
        return there[name]
    meant = [path for told, path in there.items() if told.rpartition(".")[0] == name]
    if len(meant) == 1:
        return meant[0]
    if meant:
        raise BadInput(f"{name!r} means {len(meant)} files; give the suffix too.")
    listed = ", ".join(list(there)[:_LISTED]) + (" ..." if len(there) > _LISTED else "")
    raise BadInput(f"{name[:MAX_NAME]!r} is none of the {what}; there are {listed or 'none'}.")
