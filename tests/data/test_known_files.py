from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import pytest
from PIL import Image

from lib_ti.core.errors import BadInput
from lib_ti.data import known_files
from lib_ti.data.known_files import KnownFiles


def picture(path: Path, width: int = 8, *, age: float = 100, **options: object) -> Path:
    Image.new("RGB", (width, 6)).save(path, **options)
    then = time.time() - age
    os.utime(path, (then, then))
    return path


def content(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files whose bytes were read, in order."""
    seen: list[Path] = []
    hash_of = known_files.image_hash
    monkeypatch.setattr(known_files, "image_hash", lambda path: seen.append(path) or hash_of(path))
    return seen


def test_a_file_is_read_once_until_it_changes(tmp_path: Path, read: list[Path]) -> None:
    path, memory = picture(tmp_path / "a.png"), tmp_path / "memory" / "files.json"
    for _ in range(2):
        files = KnownFiles(memory)
        facts = files.facts(path)
        assert (facts.content, facts.size) == (content(path), (8, 6))
        files.save()
    assert read == [path]
    picture(path, 9, age=50)
    changed = KnownFiles(memory).facts(path)
    assert (changed.content, changed.size) == (content(path), (9, 6))


def test_equal_length_or_equal_time_is_not_enough(tmp_path: Path, read: list[Path]) -> None:
    path, memory = picture(tmp_path / "a.bmp"), tmp_path / "files.json"
    files = KnownFiles(memory)
    files.facts(path)
    files.save()
    stat = path.stat()
    Image.new("RGB", (8, 6), "red").save(path)  # as long as before
    assert path.stat().st_size == stat.st_size
    assert KnownFiles(memory).facts(path).content == content(path)
    picture(path, 16)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert KnownFiles(memory).facts(path).content == content(path)
    assert len(read) == 3


def test_a_file_that_was_just_written_is_not_trusted_yet(tmp_path: Path, read: list[Path]) -> None:
    path = picture(tmp_path / "a.png", age=0)
    files = KnownFiles(tmp_path / "files.json")
    files.facts(path)
    files.facts(path)
    assert len(read) == 2


def test_the_size_is_that_of_the_upright_picture(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    sizes = {}
    for name in ("a.png", "a.jpg", "a.webp"):
        sizes[name] = KnownFiles(tmp_path / "files.json").facts(picture(tmp_path / name, exif=exif)).size
    assert set(sizes.values()) == {(6, 8)}


def test_a_damaged_memory_is_an_empty_one_and_files_that_are_gone_are_forgotten(
    tmp_path: Path, read: list[Path]
) -> None:
    path, gone, memory = picture(tmp_path / "a.png"), picture(tmp_path / "b.png"), tmp_path / "files.json"
    key = str(path.resolve())
    for damage in ("", "[1]", "{", json.dumps({key: 3}), json.dumps({key: [1, 2, "x", None, 5]})):
        memory.write_text(damage)
        files = KnownFiles(memory)
        assert files.facts(path).content == content(path)
    files.facts(gone)
    gone.unlink()
    files.save()
    assert list(json.loads(memory.read_text())) == [key]


def test_what_is_no_picture_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("not a picture")
    files = KnownFiles(tmp_path / "files.json")
    with pytest.raises(BadInput, match=r"a\.png cannot be read as a PNG"):
        files.facts(tmp_path / "a.png")
    with pytest.raises(BadInput, match=r"b\.png cannot be read .* still there"):
        files.facts(tmp_path / "b.png")
