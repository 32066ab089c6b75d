from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib_ti.core.errors import BadInput
from lib_ti.formats.streaming import HASH, TensorFile, meta, open_tensors, write_streamed

TENSORS = {
    "wide": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "half": torch.tensor([[1.5, -2.0]], dtype=torch.bfloat16),
    "eighth": torch.tensor([1.5, -2.0]).to(torch.float8_e4m3fn),
    "scalar": torch.tensor(7, dtype=torch.int64),
    "empty": torch.empty(0, 4, dtype=torch.float16),
}


def content(file: TensorFile) -> dict[str, torch.Tensor]:
    return {name: file.read(name) for name in file.plan}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    def bits(tensor: torch.Tensor) -> tuple[torch.dtype, torch.Size, bytes]:
        plain = tensor.contiguous().reshape(-1).view(torch.uint8)
        return tensor.dtype, tensor.shape, plain.numpy().tobytes()

    return {name: bits(t) for name, t in one.items()} == {name: bits(t) for name, t in other.items()}


def test_what_the_library_writes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file(TENSORS, path, {"a": "b"})
    file = open_tensors(path)
    assert same(content(file), TENSORS)
    assert file.metadata == {"a": "b"}
    assert all(entry.is_meta and entry.shape == TENSORS[name].shape for name, entry in file.plan.items())


def test_what_torch_writes_is_read(tmp_path: Path) -> None:
    tensors = {name: tensor for name, tensor in TENSORS.items() if name != "eighth"}
    torch.save({"state_dict": tensors, "epoch": 3}, tmp_path / "x.ckpt")
    torch.save(tensors, tmp_path / "y.pt", _use_new_zipfile_serialization=False)
    for name in ("x.ckpt", "y.pt"):
        assert same(content(open_tensors(tmp_path / name)), tensors)


def test_a_file_is_written_tensor_by_tensor(tmp_path: Path) -> None:
    path, asked = tmp_path / "x.safetensors", []

    def read(name: str) -> torch.Tensor:
        asked.append(name)
        return TENSORS[name]

    plan = {name: meta(tensor.shape, tensor.dtype) for name, tensor in TENSORS.items()}
    write_streamed(path, plan, read, {"z": "1", HASH: ""})
    assert sorted(asked) == sorted(TENSORS)
    assert same(load_file(path), TENSORS)
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    assert header["__metadata__"] == {"z": "1", HASH: f"0x{hashlib.sha256(data[start:]).hexdigest()}"}


def test_torch_reads_the_pickle_that_is_written(tmp_path: Path) -> None:
    tensors = {name: tensor for name, tensor in TENSORS.items() if name != "eighth"}
    path = tmp_path / "x.ckpt"
    write_streamed(path, {n: meta(t.shape, t.dtype) for n, t in tensors.items()}, tensors.__getitem__, {})
    assert same(torch.load(path, weights_only=True), tensors)
    assert same(content(open_tensors(path)), tensors)


def test_an_error_on_the_way_leaves_what_was_there(tmp_path: Path) -> None:
    for name in ("x.safetensors", "x.ckpt"):
        path = tmp_path / name
        path.write_bytes(b"before")
        with pytest.raises(ValueError, match="its plan says"):
            write_streamed(path, {"a": meta([2], torch.float32)}, lambda _: torch.zeros(3), {})
        assert path.read_bytes() == b"before"
    assert len(list(tmp_path.iterdir())) == 2


def test_faults_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file(TENSORS, path)
    good = path.read_bytes()
    for data in (good[:-1], good + b"\0", good[:40]):
        path.write_bytes(data)
        with pytest.raises(BadInput, match="not a whole safetensors file"):
            open_tensors(path)
    path.write_bytes(b"no tensors")
    with pytest.raises(BadInput, match="neither a safetensors file"):
        open_tensors(path)
    with pytest.raises(BadInput, match="cannot be read"):
        open_tensors(tmp_path / "nowhere.ckpt")
    with pytest.raises(BadInput, match=r"expected a name ending in \.safetensors"):
        write_streamed(tmp_path / "x.png", {}, TENSORS.__getitem__, {})


def test_a_file_that_shrinks_meanwhile_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file(TENSORS, path)
    file = open_tensors(path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(BadInput, match="became shorter"):
        content(file)
