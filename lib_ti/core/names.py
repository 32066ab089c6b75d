"""Every name that a person, a file or a request gives, on its way to a path: none leaves the folder it is
meant for.

What is there is looked up in a listing (``find_named``), what is to be made gets a checked name
(``new_path``), and a folder that is named whole is one of this computer's own (``local_path``).
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from itertools import count
from pathlib import Path

from lib_ti.core.errors import BadInput
from lib_ti.core.nearest import perhaps
from lib_ti.core.text import as_text

MAX_NAME = 100  # characters
_MAX_BYTES = 200  # in UTF-8: a file system takes 255, and endings and temporary files want their share
_MAX_PATH = 4096  # characters
_MAX_PART = 255  # bytes between two slashes
_LISTED = 20  # names in a message
_USUAL = ".safetensors"
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9]|conin\$|conout\$) *(\..*)?", re.IGNORECASE)
_ELSEWHERE = re.compile(r"[\\/]{2}")  # how Windows begins another computer's folders, and devices


def safe_name(name: str) -> str:
    """``name``, its accents composed (NFC), where it can be a file name on every system, else BadInput."""
    given = name
    if len(name) <= 4 * MAX_NAME:  # a long row of accents takes for ever to be put in order
        name = unicodedata.normalize("NFC", name)
    if (
        not 1 <= len(name) <= MAX_NAME
        or not all(map(_is_allowed, name))
        or len(name.encode()) > _MAX_BYTES
        or name[0] in ". "
        or name[-1] in ". "
    ):
        raise BadInput(
            f"{given[:MAX_NAME]!r} cannot be a name; expected 1 to {MAX_NAME} letters, digits, spaces, "
            f"'_', '-' and '.', beginning and ending with neither a space nor a dot: "
            f"{suggest_name(given)!r} would do."
        )
    if _is_reserved(name):
        raise BadInput(
            f"{name!r} cannot be a name: Windows reserves it for a device; {suggest_name(name)!r} would do."
        )
    return name


def _is_allowed(character: str) -> bool:
    return character.isalnum() or character in "._- "


def _is_reserved(name: str) -> bool:
    """By Windows, which also takes COM\N{SUPERSCRIPT ONE} for COM1."""
    return _RESERVED.fullmatch(unicodedata.normalize("NFKC", name)) is not None


def suggest_name(name: str, taken: Collection[str] = ()) -> str:
    """A safe name near to ``name`` that is none of ``taken``, as ``folded`` compares them."""
    letters = "".join(c if _is_allowed(c) else "-" for c in unicodedata.normalize("NFC", name[:MAX_NAME]))
    stem = re.sub(r"-{2,}", "-", letters)[:50].strip(". -") or "embedding"
    if _is_reserved(stem):
        stem = f"my-{stem}"
    others = {folded(other) for other in taken}
    names = (stem if number == 1 else f"{stem}-{number}" for number in count(1))
    return next(name for name in names if folded(name) not in others)


def as_prompted(name: str) -> str:
    """``name`` as a prompt must write it: a bracket without a backslash before it would be emphasis."""
    return re.sub(r"([()\[\]])", r"\\\1", name)


def folded(name: str) -> str:
    """Alike for names that some file system takes for the same: other capitals, accents put otherwise."""
    return unicodedata.normalize("NFC", name).casefold()


def new_path(folder: Path, name: str) -> Path:
    """Where what is called ``name`` will be, right below ``folder``.

    Raises BadInput where that is no safe name, where something there has it in other capitals, and where a
    link leads elsewhere.
    """
    path = folder / safe_name(name)
    for other in folder.iterdir() if folder.is_dir() else ():
        if other.name != path.name and folded(other.name) == folded(path.name):
            raise BadInput(f"{other} has the name {name!r} in other capitals already; choose another one.")
    if path.is_symlink() and not leads_inside(path, folder):
        raise BadInput(f"{path} is a link that leads out of its folder; choose another name.")
    return path


def leads_inside(path: Path, folder: Path) -> bool:
    """Whether ``path`` is in or below ``folder``, whatever links it goes through."""
    return path.resolve().is_relative_to(folder.resolve())


def local_path(text: str) -> Path:
    """A place on this computer that somebody names whole, to be read from; ``~`` is their home.

    Raises BadInput for one on another computer, to which Windows would send its user's login, for a device,
    and for what is no path.
    """
    if _ELSEWHERE.match(text):
        raise BadInput(
            f"{text[:MAX_NAME]!r} lies on another computer; connect it as a drive, or copy it to this one."
        )
    parts = re.split(r"[\\/]", text)
    if (
        len(text) > _MAX_PATH
        or not text.isprintable()
        or any(len(part.encode()) > _MAX_PART for part in parts)
    ):
        raise BadInput(f"{text[:MAX_NAME]!r} is no path: it is too long, or has signs that cannot be shown.")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # there is no such user
        raise BadInput(f"{text[:MAX_NAME]!r} cannot be found: {error}; write the whole path.") from error


def below(folder: Path, text: str) -> Path:
    """What a file in ``folder`` names: a place on this computer written whole, or one below ``folder``.

    Raises BadInput where ``..`` would lead out, and as ``local_path`` does.
    """
    path = local_path(text)
    if ".." in re.split(r"[\\/]", text):
        raise BadInput(f"{text[:MAX_NAME]!r} leads out of its folder; write the whole path, without '..'.")
    return path if path.is_absolute() else folder / path


def named_file(path: Path, suffixes: Collection[str]) -> Path:
    """``path`` itself, or with ``.safetensors`` where its name has no suffix.

    Raises BadInput for a suffix that is none of ``suffixes``.
    """
    if "." not in path.name:
        return path.with_name(path.name + _USUAL)
    if path.suffix.lower() not in suffixes:
        known = ", ".join(sorted(suffixes, key=lambda suffix: (suffix != _USUAL, suffix)))
        raise BadInput(f"cannot write {path.name}: expected a name ending in {known}.")
    return path


def files_inside(folder: Path, suffixes: Collection[str], *, linked: bool = False) -> dict[str, Path]:
    """Path relative to ``folder``, with "/" -> file, of all files in and below it with one of ``suffixes``.
    Hidden files and folders do not count, nor does what is no file, nor a link that leads out, unless
    ``linked``: models often lie on another disk."""
    found = {}
    seen: set[Path] = set()  # a link to a folder above it would have no end
    for place, inside, names in os.walk(folder, followlinks=linked):
        real = Path(place).resolve()
        inside[:] = [] if real in seen else [name for name in inside if not name.startswith(".")]
        seen.add(real)
        within = linked or leads_inside(real, folder)  # once for all files that are no links themselves
        for path in (Path(place, name) for name in names if not name.startswith(".")):
            if path.suffix.lower() not in suffixes or not path.is_file():
                continue
            if leads_inside(path, folder) if not linked and path.is_symlink() else within:
                found[as_text(path.relative_to(folder).as_posix())] = path
    return dict(sorted(found.items(), key=lambda item: item[0].casefold()))


def folders_inside(folder: Path) -> dict[str, Path]:
    """Name -> folder, of those right below ``folder``. Hidden ones do not count, nor do links that lead
    out."""
    found: Iterable[Path] = folder.iterdir() if folder.is_dir() else ()
    visible = (path for path in sorted(found) if path.is_dir() and path.name[0] != ".")
    return {as_text(path.name): path for path in visible if leads_inside(path, folder)}


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
    raise BadInput(
        f"{name[:MAX_NAME]!r} is none of the {what}; there are {listed or 'none'}{perhaps(name, there)}."
    )
