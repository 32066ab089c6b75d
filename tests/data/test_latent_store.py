from __future__ import annotations

import logging
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


def found(store: LatentStore, made_from: object = ("a", (64, 64))) -> dict[str, torch.Tensor] | None:
    return store.load(made_from, {"mean", "std"})


def filled(folder: Path) -> Path:
    """The only file of a store with one entry."""
    LatentStore(folder, encode).save(("a", (64, 64)), TENSORS)
    (file,) = folder.rglob("*.safetensors")
    return file


def test_what_was_saved_is_found_again_by_the_same_encoder_only(tmp_path: Path) -> None:
    filled(tmp_path)
    again = found(LatentStore(tmp_path, encode))
    assert again is not None and all(torch.equal(again[name], TENSORS[name]) for name in TENSORS)
    assert found(LatentStore(tmp_path, encode), ("b", (64, 64))) is None
    assert found(LatentStore(tmp_path, encode_otherwise)) is None


def test_a_damaged_file_counts_as_missing_and_is_replaced(tmp_path: Path) -> None:
    file = filled(tmp_path)
    whole = file.read_bytes()
    store = LatentStore(tmp_path, encode)
    for length in (0, 7, 100, len(whole) - 1):
        file.write_bytes(whole[:length])
        assert found(store) is None
    for tensors in (
        {"mean": TENSORS["mean"]},
        {**TENSORS, "more": torch.ones(1)},
        {**TENSORS, "std": torch.full((2, 4, 4), float("nan"))},
        {**TENSORS, "std": TENSORS["std"].half()},
    ):
        save_file(tensors, file)
        assert found(store) is None
    store.save(("a", (64, 64)), TENSORS)
    assert file.read_bytes() == whole


def test_a_folder_that_cannot_be_written_stops_no_job(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    store = LatentStore(tmp_path / "file", encode)
    with caplog.at_level(logging.WARNING):
        store.save(("a", 1), TENSORS)
        store.save(("b", 1), TENSORS)
    assert found(store, ("a", 1)) is None
    assert [record.message[:39] for record in caplog.records] == ["encoded pictures are not kept for the n"]
