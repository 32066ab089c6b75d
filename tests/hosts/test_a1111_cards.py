"""What a card says of a file; the page of cards itself is in tests/host and tests/browser."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lib_ti.hosts.a1111_cards import UNKNOWN, UNREADABLE, _told_by, _weight

XL = "lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight"


def test_the_family_is_told_by_shapes_where_metadata_do_not(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for tensor, metadata, family in (
        (XL, {}, "SDXL"),
        (XL, {"ss_sd_model_name": "mine"}, "SDXL"),
        (XL, {"ss_base_model_version": "Kolors 1.0"}, "Kolors 1.0"),
        ("x", {}, UNKNOWN),
    ):
        save_file({tensor: torch.zeros(1, len(family))}, path, metadata or None)
        assert _told_by(path) == (metadata, family)
    path.write_bytes(path.read_bytes()[:-1])
    assert _told_by(path) == ({}, UNREADABLE)


@pytest.mark.parametrize(
    ("told", "weight"), [(0.7, "0.7"), ("0.7", "0.7"), (1, "1.0"), (0, ""), ("x", ""), ([1], ""), ("nan", "")]
)
def test_a_weight_that_is_none_is_the_usual_one(told: object, weight: str) -> None:
    assert _weight(told) == (weight or "opts.extra_networks_default_multiplier")
