"""Files of a pair: both new, or both as they were."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from lib_ti.core.errors import BadInput
from lib_ti.core.files import CannotWrite
from lib_ti.formats.embedding import Embedding, read_embedding, write_safetensors
from lib_ti.formats.together import write_together


def made(name: str, step: int, width: int = 64) -> Embedding:
    return Embedding(name, {"clip_l": torch.full((2, width), float(step))}, step)


def writer(embedding: Embedding) -> Callable[[Path], None]:
    return partial(write_safetensors, embedding)


def pair(folder: Path, step: int) -> dict[Path, Callable[[Path], None]]:
    return {folder / f"{name}.safetensors": writer(made(name, step)) for name in ("zqx", "zqx-neg")}


def test_the_bytes_are_those_of_a_file_written_alone(tmp_path: Path) -> None:
    files = pair(tmp_path / "pair", 1)
    write_together(files)
    for path, write in files.items():
        write(tmp_path / path.name)
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()
    assert sorted(tmp_path.joinpath("pair").iterdir()) == sorted(files)


def test_an_embedding_that_cannot_be_written_leaves_both_as_they_were(tmp_path: Path) -> None:
    write_together(pair(tmp_path, 1))
    one, other = pair(tmp_path, 2)
    bad = Embedding("zqx-neg", made("x", 2).vectors, 2, {"settings": "{not JSON"})
    with pytest.raises(BadInput, match="not JSON"):
        write_together({one: writer(made("zqx", 2)), other: writer(bad)})
    assert [read_embedding(path).step for path in (one, other)] == [1, 1]
    assert sorted(tmp_path.iterdir()) == [other, one]


@pytest.mark.parametrize("was_there", [True, False])
def test_a_file_that_cannot_be_replaced_takes_the_other_back(tmp_path: Path, was_there: bool) -> None:
    one, other = pair(tmp_path, 2)
    other.mkdir()  # no file can take the place of a folder
    before = made("zqx", 1)
    if was_there:
        write_safetensors(before, one)
    bytes_before = one.read_bytes() if was_there else None
    with pytest.raises(CannotWrite, match=r"zqx-neg\.safetensors could not be written: .*directory"):
        write_together({one: writer(made("zqx", 2)), other: writer(made("zqx-neg", 2))})
    assert (one.read_bytes() if one.exists() else None) == bytes_before
    assert {path.name for path in tmp_path.iterdir()} == {other.name} | ({one.name} if was_there else set())
