"""Writing files so that a reader never meets half of one."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lib_ti.core.errors import StudioError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
_UNFINISHED = (".tmp", ".new", ".old")
_BEYOND = 2**30  # a place in a file behind all that it holds: Windows lets nobody read what is locked


class CannotWrite(StudioError, OSError):
    """A file could not be written; what was there before still is."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} could not be written: {reason}")
        self.reason = reason

    def __str__(self) -> str:
        return str(self.args[0])


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises CannotWrite with a remedy in the place of what goes wrong inside with the disk."""
    try:
        yield
    except CannotWrite as error:
        raise CannotWrite(path, error.reason) from error
    except OSError as error:
        raise CannotWrite(path, _reason(error, path.parent)) from error


def _reason(error: OSError, folder: Path) -> str:
    if error.errno in _NO_ROOM:
        return "the disk has no room left; free some, and try again."
    if error.errno in _NOT_ALLOWED:
        return f"{folder} is read-only, or not this user's; allow writing there, and try again."
    return f"{error}; check the disk, and try again."


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
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


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
        if path.suffix in _UNFINISHED and (not name or called.startswith(f"{name}.")):
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
