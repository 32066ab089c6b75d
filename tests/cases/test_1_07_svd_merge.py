"""A line of svd_merge_lora.py keeps the clamp; its result says so, and how the exact sum is to be had."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lib_ti.cli import main
from lib_ti.networks.files import read_network
from lib_ti.networks.tools.saving import save_network
from tests.networks.tools.made import builtin, delta, lora

NAME = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"


def test_the_clamp_is_told_and_the_way_to_the_exact_sum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    networks = [lora(builtin(), seed=seed, conv=False, name=f"n{seed}") for seed in (1, 999)]
    for network in networks:
        save_network(tmp_path / f"{network.name}.safetensors", network.updates, None, {})
    shape = builtin().shape(builtin().layers[NAME])
    wanted = sum(delta(network, NAME, shape) for network in networks)

    def run(*words: str) -> tuple[dict[str, Any], float]:
        first, *rest = words
        assert main([first, "--json", *rest] if first == "sd-scripts" else [*words, "--json"]) == 0
        told: dict[str, Any] = json.loads(capsys.readouterr().out)
        found = delta(read_network(Path("sum.safetensors")), NAME, shape)
        return told, float(torch.linalg.norm(found - wanted) / torch.linalg.norm(torch.as_tensor(wanted)))

    files = ("n1.safetensors", "n999.safetensors")
    line = ("svd_merge_lora.py", "--save_to", "sum.safetensors", "--models", *files, "--ratios", "1", "1")
    told, missed = run("sd-scripts", *line, "--new_rank", "8")
    assert missed > 1e-3
    (note,) = (note for note in told["notes"] if "quantile 0.99" in note)
    assert "--clamp 1" in note
    assert "--how exact" in note
    ours = ("lora", "merge", *files, "sum.safetensors", "--overwrite")
    for words in ((), ("--how", "nearest", "--rank", "8", "--clamp", "1")):
        told, missed = run(*ours, *words)
        assert missed < 1e-5
        assert not told["notes"]
