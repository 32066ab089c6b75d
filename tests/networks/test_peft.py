"""Adapters that PEFT itself saved, against what PEFT itself makes of them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lib_ti.networks.files import read_network

peft = pytest.importorskip("peft")

LAYERS = {"conv1": (16, 24, 3), "conv_shortcut": (16, 24, 1), "to_q": (32, 32, 0), "to_k": (48, 32, 0)}


def model() -> nn.Module:
    made = {
        name: nn.Conv2d(width, rows, size, padding=size // 2) if size else nn.Linear(width, rows, bias=False)
        for name, (width, rows, size) in LAYERS.items()
    }
    return nn.ModuleDict({"down_blocks": nn.ModuleDict({"0": nn.ModuleDict(made)})})


CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("LoraConfig", {"r": 4, "lora_alpha": 8}),
    "rslora": ("LoraConfig", {"r": 4, "lora_alpha": 8, "use_rslora": True}),
    "named": ("LoraConfig", {"r": 4, "rank_pattern": {"to_q": 2}, "alpha_pattern": {"to_q": 3, "conv1": 5}}),
    "searched": ("LoraConfig", {"r": 4, "alpha_pattern": {r"^down_blocks\..*conv1": 5, "to_[qv]": 3}}),
    "dora": ("LoraConfig", {"r": 4, "lora_alpha": 8, "use_dora": True}),
    "loha": ("LoHaConfig", {"r": 4, "alpha": 8}),
    "loha tucker": ("LoHaConfig", {"r": 4, "alpha": 8, "use_effective_conv2d": True}),
    "lokr": ("LoKrConfig", {"r": 4, "alpha": 8}),
    "lokr of two products": ("LoKrConfig", {"r": 1, "alpha": 4, "decompose_both": True}),
    "lokr whole": ("LoKrConfig", {"r": 64, "alpha": 8}),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_it_changes_what_peft_changes(case: str, tmp_path: Path) -> None:
    kind, told = CONFIGS[case]
    torch.manual_seed(0)
    base = model()
    original = copy.deepcopy(base)
    adapted = peft.get_peft_model(base, getattr(peft, kind)(target_modules=[*LAYERS], **told))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "original" not in name and ("lora_" in name or "hada" in name or "lokr" in name):
                parameter.copy_(torch.randn_like(parameter) * 0.3 + ("magnitude" in name))
    adapted.save_pretrained(tmp_path)
    network = read_network(tmp_path / "adapter_model.safetensors")
    assert not network.unread and len(network.updates) == len(LAYERS)
    merged = adapted.merge_and_unload()
    for name in LAYERS:
        path = f"down_blocks.0.{name}"
        weight = original.get_submodule(path).weight.detach()
        wanted = merged.get_submodule(path).weight.detach() - weight
        update = network.updates[f"lora_unet_{path.replace('.', '_')}"]
        assert update.fits(weight.shape)
        torch.testing.assert_close(update.delta(weight), wanted, atol=1e-5, rtol=1e-4)
