"""Writing files and folders so that a reader never meets half of one; reading those that strangers made."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lib_ti.core.errors import BadInput

MAX_TEXT = 1 << 20  # bytes of a caption, a template, a data set file


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file in the same folder, then rename it to ``path``.

    An exception, or a kill, leaves ``path`` as it was; the temporary file starts with a dot and is
    removed where the process lives to do it.
    """
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
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which becomes ``path`` in the end; an exception, or a kill, leaves nothing there.

    Raises BadInput where there is something already.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise BadInput(f"{path} exists; choose another name, or take it away.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        if path.exists():
            path.rmdir()  # an empty one; Windows renames onto nothing
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def write_text(path: Path, text: str) -> None:
    """``text`` as UTF-8, whole or not at all."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


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


def read_text(path: Path, most: int = MAX_TEXT) -> str:
    """A user's UTF-8 file, with or without a byte order mark. Raises BadInput, also for more than ``most``
    bytes."""
    checked_size(path, most)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8.") from error
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}); check that it is there.") from error


def parse_json(text: str | bytes) -> Any:
    """What JSON says. Raises ValueError, also for what is nested too deeply to be read."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
