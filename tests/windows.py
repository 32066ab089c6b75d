"""Windows' rules for files, on Linux: who holds a file, names without case, reserved names, long paths.

A file that this process has open or mapped, however it came to that, stands in /proc/self: so what a library
maps by itself counts too. As a plugin (``-p tests.windows``) the rules hold in every test's temporary folder.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import os
import pathlib
import re
import sys
import threading
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import pytest
import safetensors

LONGEST = 259  # characters of a path
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_FORBIDDEN = re.compile(r'[<>:"|?*\x00-\x1f]|[. ]$')
_OF_A_PATH = ("stat", "lstat", "listdir", "scandir", "mkdir", "chmod", "utime", "access", "open", "rmdir")
_DELETING = ("unlink", "remove")
_OF_TWO = ("replace", "rename", "link")


def holders(path: str) -> list[str]:
    """What in this process has the file at ``path`` open or mapped."""
    wanted, found = os.stat(path), []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(int(descriptor)), wanted):
                found.append(f"descriptor {descriptor}")
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        fields = [line.split(None, 5) for line in maps]
    return found + [f"mapping {field[0]}" for field in fields if field[4] == str(wanted.st_ino)]


def _refused(number: int, path: str, what: str) -> PermissionError:
    error = PermissionError(errno.EACCES, what, path)
    error.winerror = number
    return error


class Windows:
    """Answers to calls of ``os`` and ``open``, for paths below ``root`` alone."""

    def __init__(self, root: str) -> None:
        self.root = os.path.realpath(root)
        self._here = threading.local()  # while this class itself looks at the disk, Linux' rules hold

    @contextlib.contextmanager
    def _looking(self) -> Iterator[None]:
        self._here.looking = True
        try:
            yield
        finally:
            self._here.looking = False

    def _is_ours(self, path: Any) -> bool:
        if isinstance(path, int) or getattr(self._here, "looking", False):
            return False
        full = os.path.abspath(os.fsdecode(path))
        return full == self.root or full.startswith(self.root + os.sep)

    def known(self, path: Any) -> str:
        """The path as it is on the disk, by any case. Raises OSError for what Windows does not take."""
        full = os.path.abspath(os.fsdecode(path))
        if len(full) > LONGEST:
            raise FileNotFoundError(errno.ENOENT, "the path is too long", full)
        found = self.root
        for name in filter(None, full[len(self.root) :].split(os.sep)):
            if _RESERVED.fullmatch(name) or _FORBIDDEN.search(name):
                raise OSError(errno.EINVAL, "the file name is not allowed", full)
            if not os.path.lexists(os.path.join(found, name)):
                there = os.listdir(found) if os.path.isdir(found) else []
                name = next((other for other in there if other.lower() == name.lower()), name)
            found = os.path.join(found, name)
        return found

    def _refuse_held(self, path: str) -> None:
        files = [path]
        if os.path.isdir(path):
            files = [os.path.join(root, name) for root, _, names in os.walk(path) for name in names]
        for file in files:
            if os.path.isfile(file) and (who := holders(file)):
                raise _refused(32, path, f"it is open: {', '.join(who)}")

    def of_a_path(self, real: Callable[..., Any], *, deletes: bool = False) -> Callable[..., Any]:
        """``real``, which takes a path first."""

        @wraps(real)
        def call(path: Any = ".", *more: Any, dir_fd: int | None = None, **named: Any) -> Any:
            if dir_fd is not None and not isinstance(path, int):
                path = os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), os.fsdecode(path))
            if self._is_ours(path):
                with self._looking():
                    path = self.known(path)
                    if deletes:
                        self._refuse_held(path)
            return real(path, *more, **named)

        return call

    def of_two(self, real: Callable[..., Any]) -> Callable[..., Any]:
        """``real``, which makes a second path of a first."""

        @wraps(real)
        def call(source: Any, target: Any, **named: Any) -> Any:
            if self._is_ours(source) or self._is_ours(target):
                with self._looking():
                    source, target = self._checked(real.__name__, self.known(source), target)
            return real(source, target, **named)

        return call

    def _checked(self, verb: str, source: str, target: Any) -> tuple[str, str]:
        other = self.known(target)
        if verb != "link":
            self._refuse_held(source)
        if not os.path.lexists(other):
            return source, other
        if verb != "link" and os.path.samefile(source, other):
            return source, os.fsdecode(target)  # another case of its own name
        if verb != "replace":
            raise FileExistsError(errno.EEXIST, "it exists", other)
        if os.path.isdir(other):
            raise _refused(5, other, "it is a folder")
        self._refuse_held(other)
        return source, other


def install(monkeypatch: pytest.MonkeyPatch, root: pathlib.Path) -> None:
    """From now on the rules hold below ``root``."""
    windows = Windows(str(root))
    changed = {name: windows.of_a_path(getattr(os, name)) for name in _OF_A_PATH}
    changed |= {name: windows.of_a_path(getattr(os, name), deletes=True) for name in _DELETING}
    changed |= {name: windows.of_two(getattr(os, name)) for name in _OF_TWO}
    # Python 3.10's pathlib keeps the calls for itself.
    accessor = getattr(pathlib, "_NormalAccessor", None)
    for name, call in changed.items():
        monkeypatch.setattr(os, name, call)
        if accessor is not None and name != "open" and hasattr(accessor, name):
            monkeypatch.setattr(accessor, name, staticmethod(call))
    opener = windows.of_a_path(io.open)
    for module in (io, builtins):
        monkeypatch.setattr(module, "open", opener)
    if accessor is not None:
        monkeypatch.setattr(accessor, "open", staticmethod(opener))
    real, changed_open = safetensors.safe_open, windows.of_a_path(safetensors.safe_open)
    for module in [module for module in sys.modules.values() if vars(module).get("safe_open") is real]:
        monkeypatch.setattr(module, "safe_open", changed_open)


@pytest.fixture(autouse=True)
def _windows(request: pytest.FixtureRequest) -> None:
    if "tmp_path" in request.fixturenames:
        install(request.getfixturevalue("monkeypatch"), request.getfixturevalue("tmp_path"))
