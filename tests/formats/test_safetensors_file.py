from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lib_ti.core.errors import BadInput
from lib_ti.formats.safetensors_file import read_tensors, write_tensors

TENSORS = {
    "b": torch.arange(3, dtype=torch.uint8),
    "a": torch.arange(6.0).reshape(2, 3).t(),
    "wide": torch.tensor([1, 2], dtype=torch.int64),
    "half": torch.ones(1, 2, dtype=torch.bfloat16),
    "scalar": torch.tensor(True),
    "empty": torch.empty(0, 4, dtype=torch.float16),
}
METADATA = {"z": "last", "a": "é {", "m": ""}


def test_the_library_reads_what_we_write(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(TENSORS, METADATA, path)
    loaded = load_file(path)
    assert loaded.keys() == TENSORS.keys()
    assert all(torch.equal(loaded[name], TENSORS[name]) for name in TENSORS)
    with safe_open(path, framework="pt") as content:
        assert content.metadata() == METADATA


def test_tensors_are_aligned_and_the_header_is_sorted(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(TENSORS, METADATA, path)
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert length % 8 == 0
    assert list(header.pop("__metadata__")) == ["a", "m", "z"]
    assert all(header[name]["data_offsets"][0] % TENSORS[name].element_size() == 0 for name in TENSORS)
    write_tensors(dict(reversed(TENSORS.items())), dict(reversed(METADATA.items())), path)
    assert path.read_bytes() == data


def test_we_read_what_the_library_writes(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensors = {name: tensor.contiguous() for name, tensor in TENSORS.items()}
    save_file(tensors, path, METADATA)
    loaded, metadata = read_tensors(path)
    assert metadata == METADATA
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    save_file(tensors, path)
    assert read_tensors(path)[1] == {}


def test_faults_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(TENSORS, METADATA, path)
    good = path.read_bytes()
    for data, message in [
        (good[:-1], "not a whole safetensors file"),
        (good + b"\0", "not a whole safetensors file"),
        (good[:40], "not a whole safetensors file"),
        (good[:5], "neither a safetensors file nor one that torch saved"),
        ((100_000_000).to_bytes(8, "little") + good[8:], "claims a header of 100000000 bytes"),
    ]:
        path.write_bytes(data)
        with pytest.raises(BadInput, match=message):
            read_tensors(path)
    with pytest.raises(BadInput, match="cannot be read"):
        read_tensors(tmp_path / "nowhere.safetensors")
