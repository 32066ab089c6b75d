from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lib_ti.data.latent_store import LatentStore

TENSORS = {"mean": torch.arange(32.0).view(2, 4, 4), "std": torch.ones(2, 4, 4)}


def encode(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return pixels[:, :, ::8, ::8], pixels[:, :, ::8, ::8].abs()


def encode_otherwise(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mean, std = encode(pixels)
    return mean * (1 + 1e-6), std


def got(store: LatentStore, made_from: object = ("a", (64, 64))) -> tuple[dict[str, torch.Tensor], bool]:
    """What the store gives, and whether it had to be made."""
    made = []

    def make() -> dict[str, torch.Tensor]:
        made.append(1)
        return TENSORS

    return store.get(made_from, {"mean", "std"}, make), bool(made)


def filled(folder: Path) -> Path:
    """The only file of a store with one entry."""
    assert got(LatentStore(folder, encode))[1]
    (file,) = folder.rglob("*.safetensors")
    return file


def test_what_was_made_once_is_found_again_by_the_same_encoder_only(tmp_path: Path) -> None:
    filled(tmp_path)
    again, made = got(LatentStore(tmp_path, encode))
    assert not made and all(torch.equal(again[name], TENSORS[name]) for name in TENSORS)
    assert got(LatentStore(tmp_path, encode), ("b", (64, 64)))[1]
    assert got(LatentStore(tmp_path, encode_otherwise))[1]


def test_a_damaged_file_is_made_anew(tmp_path: Path) -> None:
    file = filled(tmp_path)
    whole = file.read_bytes()
    for length in (0, 7, 100, len(whole) - 1):
        file.write_bytes(whole[:length])
        assert got(LatentStore(tmp_path, encode))[1]
        assert file.read_bytes() == whole
    for tensors in (
        {"mean": TENSORS["mean"]},
        {**TENSORS, "more": torch.ones(1)},
        {**TENSORS, "std": torch.full((2, 4, 4), float("nan"))},
        {**TENSORS, "std": TENSORS["std"].half()},
    ):
        save_file(tensors, file)
        assert got(LatentStore(tmp_path, encode))[1]
        assert file.read_bytes() == whole


def test_what_was_not_used_for_longest_makes_room(tmp_path: Path) -> None:
    """Of other encoders' files too; what this job uses stays, however old it is."""
    files = {}
    for age, name in enumerate(("newest", "older", "own", "oldest")):
        encoder = encode_otherwise if name == "older" else encode
        known = set(tmp_path.rglob("*.safetensors"))
        got(LatentStore(tmp_path, encoder), name)
        (files[name],) = set(tmp_path.rglob("*.safetensors")) - known
        os.utime(files[name], (1e9 - age, 1e9 - age))
    size = files["own"].stat().st_size

    def there(limit: int) -> set[str]:
        store = LatentStore(tmp_path, encode)
        assert not got(store, "own")[1]
        os.utime(files["own"], (0, 0))
        store.trim(limit)
        return {name for name, file in files.items() if file.exists()}

    assert there(4 * size) == {"newest", "older", "own", "oldest"}
    assert there(4 * size - 1) == {"newest", "older", "own"}
    assert there(2 * size) == {"newest", "own"}
    assert there(0) == {"own"}


def test_what_is_used_is_young_again(tmp_path: Path) -> None:
    file = filled(tmp_path)
    os.utime(file, (1e9, 1e9))
    assert not got(LatentStore(tmp_path, encode))[1]
    assert file.stat().st_mtime > 1e9 + 1


def test_a_folder_that_cannot_be_written_stops_no_job(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    store = LatentStore(tmp_path / "file", encode)
    with caplog.at_level(logging.WARNING):
        assert got(store, "a") == (TENSORS, True)
        assert got(store, "b") == (TENSORS, True)
    assert [record.message[:39] for record in caplog.records] == ["encoded pictures are not kept for the n"]
