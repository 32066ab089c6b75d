import errno
import os
import stat
from pathlib import Path

import pytest

from lib_ti.core.files import CannotWrite, forget_unfinished, held, is_writable, write_atomically, write_text


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def fail(path: Path) -> None:
        path.write_text("half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        write_atomically(target, fail)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_folders_are_made_and_the_file_is_readable_by_others(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "er" / "a.txt"
    write_text(target, "naïve")
    assert target.read_text(encoding="utf-8") == "naïve"
    if os.name == "posix":
        umask = os.umask(0)
        os.umask(umask)
        assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk has no room left; free some"),
        (
            PermissionError(errno.EACCES, "Permission denied"),
            "is read-only, or not this user's",
        ),
        (OSError(errno.EIO, "Input/output error"), "Input/output error; check the disk"),
    ],
)
def test_a_disk_that_fails_is_told_with_a_remedy(tmp_path: Path, error: Exception, said: str) -> None:
    def fail(path: Path) -> None:
        raise error

    with pytest.raises(CannotWrite) as told:
        write_atomically(tmp_path / "a.txt", fail)
    assert str(told.value).startswith(f"{tmp_path / 'a.txt'} could not be written: ") and said in str(
        told.value
    )
    assert isinstance(told.value, OSError) and list(tmp_path.iterdir()) == []


def test_what_killed_processes_left_goes_and_nothing_else(tmp_path: Path) -> None:
    for name in (".cat.png.x1.tmp", ".cat.png.new", ".cat.png.old", "..cat.png.new.x2.tmp"):
        (tmp_path / name).touch()
    others = {".dog.png.x3.tmp", ".cat.txt", "cat.png", "cat.png.new", ".cat.pngs.x4.tmp"}
    for name in others:
        (tmp_path / name).touch()
    forget_unfinished(tmp_path, "cat.png")
    assert {path.name for path in tmp_path.iterdir()} == others
    forget_unfinished(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".cat.txt", "cat.png", "cat.png.new"}


def test_a_file_is_held_by_one_at_a_time_and_can_be_read_by_all(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("mine")
    with held(path) as first:
        with held(path) as second:
            assert (first, second) == (True, False)
        assert path.read_text() == "mine"
    with held(path) as again:
        assert again


def test_a_folder_that_is_not_there_yet_is_as_writable_as_the_one_it_would_be_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    assert not is_writable(tmp_path / "not" / "there")
    (tmp_path / "not").mkdir()
    assert is_writable(tmp_path / "not" / "there")
