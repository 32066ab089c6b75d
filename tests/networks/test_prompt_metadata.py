from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lib_ti.core.errors import BadInput
from lib_ti.networks.prompt_metadata import metadata_shown, save_metadata_text

TAGS = '{"folder":  {"a tag": 3}}'  # with a space that a rewriter would not keep


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "net.safetensors"
    tensors = {"lora_unet_x.lora_up.weight": torch.randn(3, 5).half(), "lora_unet_x.alpha": torch.randn(1)}
    save_file(tensors, path, {"ss_tag_frequency": TAGS, "ss_comment": "old", "sshs_legacy_hash": "12345678"})
    return path


def data_of(path: Path) -> bytes:
    content = path.read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]


def test_metadata_are_changed_and_nothing_else(file: Path) -> None:
    before, tensors = data_of(file), load_file(file)
    shown = metadata_shown(file)
    assert shown["ss_tag_frequency"] == {"folder": {"a tag": 3}}
    shown |= {"ss_comment": "Ünïcode", "ssmd_rating": 5, "ssmd_tags": ["x", "y"]}
    written = save_metadata_text(file, json.dumps(shown))
    assert written == {
        "ss_tag_frequency": TAGS,
        "ss_comment": "Ünïcode",
        "ssmd_rating": "5",
        "ssmd_tags": '["x", "y"]',
    }
    with safe_open(file, framework="pt") as content:
        assert content.metadata() == written
    assert data_of(file) == before
    after = load_file(file)
    assert after.keys() == tensors.keys() and all(torch.equal(after[k], tensors[k]) for k in tensors)
    assert int.from_bytes(file.read_bytes()[:8], "little") % 8 == 0


def test_true_is_not_one(file: Path) -> None:
    save_metadata_text(
        file, json.dumps(metadata_shown(file) | {"ss_datasets": [{"flip": True, "repeats": 1}]})
    )
    changed = metadata_shown(file) | {"ss_datasets": [{"flip": 1, "repeats": 1}]}
    assert save_metadata_text(file, json.dumps(changed))["ss_datasets"] == '[{"flip": 1, "repeats": 1}]'


def test_nothing_is_written_where_nothing_changed_or_all_is_wrong(file: Path) -> None:
    before = file.read_bytes(), file.stat().st_mtime_ns
    save_metadata_text(file, json.dumps(metadata_shown(file)))
    for wrong in ("{", "[1]", '"text"'):
        with pytest.raises(BadInput, match="nothing was saved"):
            save_metadata_text(file, wrong)
    assert (file.read_bytes(), file.stat().st_mtime_ns) == before


def test_a_checkpoint_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"model.diffusion_model.out.2.bias": torch.ones(4)}, path, {"clip_heads": "4"})
    before = path.read_bytes()
    with pytest.raises(BadInput, match=r"model\.safetensors is a checkpoint"):
        save_metadata_text(path, "{}")
    assert path.read_bytes() == before


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"\x05\0\0\0\0\0\0\0{}{}{}")
    with pytest.raises(BadInput, match="not a whole safetensors file"):
        save_metadata_text(path, "{}")
    assert path.read_bytes() == b"\x05\0\0\0\0\0\0\0{}{}{}"
