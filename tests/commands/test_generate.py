"""``ti-studio generate`` with networks called in the prompt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lib_ti.cli import main

SHORT = ["--count", "1", "--steps", "2"]
LAYER = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_v"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def network(path: Path, inputs: int = 64) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"{LAYER}.lora_down.weight": torch.randn(2, inputs, generator=generator),
        f"{LAYER}.lora_up.weight": torch.randn(128, 2, generator=generator),
    }
    save_file(tensors, path)
    return path


def drawn(capsys: pytest.CaptureFixture[str], prompt: str, *more: str) -> tuple[bytes, dict[str, Any]]:
    assert main(["generate", "--json", prompt, *SHORT, *more]) == 0
    told = json.loads(capsys.readouterr().out)
    return Path(told["images"][0]).read_bytes(), told


def test_networks_are_called_in_both_prompts(capsys: pytest.CaptureFixture[str]) -> None:
    one, two = network(Path("loras", "one.safetensors")), network(Path("more", "two.safetensors"))
    plain, told = drawn(capsys, "a star", "--negative", "dull")
    assert told["networks"] == []
    called, told = drawn(capsys, "a star<net:one:0.8>", "--negative", "dull")
    assert told["networks"] == [str(one)]
    below, told = drawn(capsys, "a star", "--negative", "dull<net:TWO>", "--networks", "more")
    assert told["networks"] == [str(two)]
    assert len({plain, called, below}) == 3
    assert drawn(capsys, "a star<net:one:start=1>", "--negative", "dull")[0] == plain


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("a <net:onne>", "perhaps 'one' is meant"),
        ("a <net:one:strat=0.1>", "perhaps 'start' is meant"),
        ("a <net:odd>", "odd is not used: none of its 1 layers"),
    ],
)
def test_what_cannot_be_used_is_refused(prompt: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    network(Path("loras", "one.safetensors"))
    network(Path("loras", "odd.safetensors"), inputs=7)
    assert main(["generate", prompt, *SHORT]) == 2
    assert said in capsys.readouterr().err
    assert not Path("outputs").exists()
