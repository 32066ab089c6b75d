"""Writing files and folders so that a reader never meets half of one; reading those that strangers made."""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from lib_ti.core import limits
from lib_ti.core.errors import BadInput, StudioError
from lib_ti.core.names import folded
from lib_ti.core.text import as_text, is_text

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_HELD = (5, 32, 33)  # Windows' numbers for a file that somebody has open: denied, sharing, locked
_LONG_PATH = 240  # characters; Windows takes 259, and a file is written under a longer name first
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
_UNFINISHED = (".tmp", ".new", ".old")
# Of TOML: what stands in quotes or behind a sharp, to its end or to that of the file.
_QUOTED = re.compile(
    r"""
      [\"]{3}(?s:.*?)(?:[\"]{3}|\Z)
    | '{3}(?s:.*?)(?:'{3}|\Z)
    | "(?:[^"\\\n]|\\.)*"?
    | '[^'\n]*'?
    | \#.*
    """,
    re.VERBOSE,
)
_DOTS = re.compile(rf"(?:\.[ \t]*[\w'-]+[ \t]*){{{limits.DEPTH}}}")
_DIGITS = re.compile(rf"[\d_]{{{limits.DIGITS + 1}}}")
_BEYOND = 2**30  # a place in a file behind all that it holds: Windows lets nobody read what is locked


_making = threading.Lock()
_owners: dict[Path, object] = {}  # names that files are being made for in this program -> by whom
_blocks: Counter[Path] = Counter()  # name -> how many blocks of its owner reserve it
_new: set[Path] = set()  # paths where a file may be put only as long as nothing is there


class CannotWrite(StudioError, OSError):
    """A file could not be written; what was there before still is."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} could not be written: {reason}")
        self.reason = reason

    def __str__(self) -> str:
        return as_text(str(self.args[0]))


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises CannotWrite with a remedy in the place of what goes wrong inside with the disk."""
    try:
        yield
    except CannotWrite as error:
        raise CannotWrite(path, error.reason) from error
    except OSError as error:
        raise CannotWrite(path, _reason(error, path)) from error


def _reason(error: OSError, path: Path) -> str:
    folder = path.parent
    if error.errno in _NO_ROOM:
        return "the disk has no room left; free some, and try again."
    if path.is_dir():
        return "a directory of that name is there; choose another name, or move it away."
    if _is_held(error):
        return (
            "another program has it open, such as a WebUI that has loaded it, a viewer or a virus scanner; "
            "close it there, and try again."
        )
    if error.errno in (errno.ENOENT, errno.ENAMETOOLONG) and len(str(path.absolute())) > _LONG_PATH:
        return (
            f"its path has {len(str(path.absolute()))} characters, too many; choose a shorter name or folder."
        )
    if error.errno in _NOT_ALLOWED:
        return f"{folder} is read-only, or not this user's; allow writing there, and try again."
    return f"{error}; check the disk, and try again."


def _is_held(error: OSError) -> bool:
    return getattr(error, "winerror", None) in _HELD


def _patiently(act: Callable[[], object]) -> None:
    """Again and again for a second where somebody has the file open, as virus scanners do for moments after
    it was written. Raises OSError."""
    for seconds in (0.05, 0.1, 0.2, 0.3, 0.4):
        try:
            act()
            return
        except PermissionError as error:
            if not _is_held(error):
                raise
        time.sleep(seconds)
    act()


def replace(source: Path, target: Path) -> None:
    """Rename ``source`` to ``target``, in the place of what is there. Raises OSError."""
    _patiently(partial(source.replace, target))


def remove(path: Path) -> None:
    """Delete a file, if it is there. Raises OSError."""
    _patiently(partial(path.unlink, missing_ok=True))


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file in the same folder, then rename it to ``path``. It must write with
    Python's own means: safetensors' ``save_file`` leaves files of other names where it is killed.

    An exception, or a kill, leaves ``path`` as it was; the temporary file starts with a dot and is
    removed where the process lives to do it. Raises CannotWrite.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            write(temporary)
            # A file that replaces another after a crash must have its bytes on the disk first.
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_umask())
            publish(temporary, path)
        finally:
            remove(temporary)


def refuse_existing(paths: Iterable[Path], overwrite: bool) -> None:
    """Raises BadInput where one of ``paths`` exists and may not be replaced."""
    there = [path for path in paths if path.exists()]
    if there and not overwrite:
        raise BadInput(f"{there[0]} exists; choose another name, or allow overwriting to replace it.")


@contextmanager
def reserved(paths: Iterable[Path], whose: str = "") -> Iterator[None]:
    """Nobody else in this program makes files of these names, in whatever capitals, until the block ends.
    ``whose``: the id of a job, which may reserve them again when its turn has come.

    Raises BadInput where somebody else has reserved one.
    """
    owner: object = whose or object()
    names = {_exact(path).with_name(folded(path.name)): path for path in paths}
    with _making:
        for name, path in names.items():
            other = _owners.get(name, owner)
            if other != owner:
                by = f"for job {other}" if isinstance(other, str) else "by somebody else"
                raise BadInput(f"{path} is being made {by}; choose another name, or wait until that ends.")
        _owners.update(dict.fromkeys(names, owner))
        _blocks.update(names.keys())
    try:
        yield
    finally:
        with _making:
            _blocks.subtract(names.keys())
            for name in names:
                if not _blocks[name]:
                    del _blocks[name], _owners[name]


@contextmanager
def new_files(paths: Iterable[Path], *, overwrite: bool = False, whose: str = "") -> Iterator[None]:
    """Reserve the names of files that the block makes by ``write_atomically`` or ``write_together``. They are
    put where nothing is, even if another program was faster; an error leaves none of them. With
    ``overwrite`` what is there is replaced.

    Raises BadInput where there is something, or comes to be meanwhile.
    """
    paths = list(paths)
    with reserved(paths, whose):
        refuse_existing(paths, overwrite)
        new = set() if overwrite else set(map(_exact, paths))
        _new.update(new)
        try:
            yield
        except BaseException:
            for path in new - _new:
                remove(path)
            raise
        finally:
            _new.difference_update(new)


def _exact(path: Path) -> Path:
    """One path for all ways to a file, which may be a link itself."""
    return path.parent.resolve() / path.name


def publish(temporary: Path, path: Path) -> None:
    """Rename ``temporary`` to ``path`` beside it: onto nothing, where it is one of ``new_files``, else in
    the place of what is there. Raises BadInput where something is that may not be replaced."""
    if _exact(path) not in _new:
        replace(temporary, path)
        return
    try:
        _move_onto_nothing(temporary, path)
    except FileExistsError:
        raise BadInput(f"{path} exists, since this moment; choose another name.") from None
    _new.discard(_exact(path))


def _move_onto_nothing(temporary: Path, path: Path) -> None:
    """Raises FileExistsError."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a disk that knows no links: an empty file keeps the place
        path.open("x").close()
        try:
            replace(temporary, path)
        except BaseException:
            remove(path)
            raise
    else:
        remove(temporary)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which becomes ``path`` in the end; an exception, or a kill, leaves nothing there.

    Raises BadInput where there is something already, or comes to be meanwhile.
    """
    with reserved([path]):
        _refuse_full(path)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        try:
            yield temporary
            temporary.chmod(0o777 & ~_umask())
            _refuse_full(path)
            with writing(path):
                if path.exists():
                    path.rmdir()  # an empty one; Windows renames onto nothing
                _patiently(
                    partial(temporary.rename, path)
                )  # no system replaces a folder that has something in it
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _refuse_full(folder: Path) -> None:
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise BadInput(f"{folder} exists; choose another name, or take it away.")


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def write_text(path: Path, text: str) -> None:
    """``text`` as UTF-8, whole or not at all. Raises CannotWrite."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def is_writable(folder: Path) -> bool:
    """Whether files can be made in the folder, or in the one that it would be made in, as far as the system
    tells."""
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    return os.access(there, os.W_OK)


def forget_unfinished(folder: Path, name: str = "") -> None:
    """Delete what killed processes have left in ``folder`` of files they had not finished: of the one called
    ``name``, or of all. For whoever alone writes there."""
    for path in folder.glob(".*"):
        called = path.name.lstrip(".")
        if path.suffix in _UNFINISHED and path.is_file() and (not name or called.startswith(f"{name}.")):
            path.unlink(missing_ok=True)


@contextmanager
def held(path: Path) -> Iterator[bool]:
    """Whether the file is this block's alone now. The system lets go of it when the process ends, however
    it ends."""
    with path.open("rb") as file:
        file.seek(_BEYOND)
        try:
            if sys.platform == "win32":
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            yield False
            return
        except OSError:  # a network's disk that knows no locks
            pass
        yield True


def checked_size(path: Path, most: int | None = None) -> int:
    """Bytes of the file at ``path``. Raises BadInput where there is none, where it has more than ``most``,
    and where it is no file: a pipe keeps its reader waiting, and a device never ends."""
    try:
        size = path.stat().st_size
    except (OSError, ValueError) as error:  # a name with a zero byte
        raise BadInput(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    if not path.is_file():
        raise BadInput(f"{path} cannot be read: it is no file.")
    if most is not None and size > most:
        raise BadInput(f"{path} has {size} bytes; at most {most} are read.")
    return size


def read_text(path: Path, most: int = limits.TEXT) -> str:
    """A user's UTF-8 file, with or without a byte order mark. Raises BadInput, also for more than ``most``
    bytes."""
    checked_size(path, most)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8.") from error
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}); check that it is there.") from error


def parse_json(
    text: str | bytes, most: int = limits.JSON, make: Callable[[dict[str, Any]], Any] | None = None
) -> Any:
    """What JSON says; ``make``: what becomes of its objects, the innermost first. Raises ValueError, also for
    what is longer than ``most`` bytes, nested too deeply, or holds half a character."""
    if len(text) > most:
        raise ValueError(f"it has {len(text)} bytes, at most {most} are read")
    try:
        told = json.loads(
            text if isinstance(text, str) else text.decode("utf-8-sig"), parse_int=_whole, object_hook=make
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return _checked(told)


def _whole(digits: str) -> int:
    if len(digits) > limits.DIGITS:
        raise ValueError(f"it has a number of {len(digits)} digits")
    return int(digits)


def _checked(told: Any) -> Any:
    """Without a call for each level, of which Python has few."""
    level = [told]
    for _ in range(limits.DEPTH):
        inside: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inside += value.keys()
                inside += value.values()
            elif isinstance(value, list):
                inside += value
            elif isinstance(value, str) and not is_text(value):
                raise ValueError("it holds half a character, which is no text anywhere else")
        level = inside
        if not level:
            return told
    raise ValueError("it is nested too deeply")


def parse_toml(text: str) -> dict[str, Any]:
    """What TOML says. Raises ValueError, as ``parse_json``, and BadInput where this Python cannot read it."""
    # A parser looks at every beginning of a long name with dots, and Python at every digit of a number.
    for long, what in ((_DOTS, "it is nested too deeply"), (_DIGITS, "it has a number of too many digits")):
        if long.search(_QUOTED.sub("''", text)):
            raise ValueError(what)
    for name in ("tomllib", "tomli"):  # the first comes with Python 3.11
        with contextlib.suppress(ImportError):
            parser = importlib.import_module(name)
            break
    else:
        raise BadInput(
            "This Python cannot read TOML; install tomli, take Python 3.11 or later, or write the file as "
            "JSON where that is taken."
        )
    refuse_backslashes(text, "=")
    try:
        found: dict[str, Any] = _checked(parser.loads(text))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError as error:
        if "\\" in str(error) or "hex value" in str(error):
            raise ValueError(f"{error}; write a path in single quotes, or with /") from error
        raise
    return found


def refuse_backslashes(text: str, before: str) -> None:
    """Raises ValueError for "C:\\temp" in double quotes, where \\t is a tab. ``before``: what stands before a
    value, = in TOML and : in JSON. Of the file nothing is told but the line."""
    found = re.search(rf'{before}\s{{0,20}}\[?\s{{0,20}}"[A-Za-z]:\\(?![\\/])', text)
    if found:
        line = text.count("\n", 0, found.end()) + 1
        instead = "write it in single quotes, or with /" if before == "=" else "write it with / or \\\\"
        raise ValueError(f"line {line} has a path with \\ in double quotes, where that is no \\; {instead}")
