"""Section 2: tags that call no network are told, and LyCORIS' word is understood."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lib_ti.cli import main
from lib_ti.networks.prompt import take_calls, unread_tags

WORDS = ("net", "lora", "lyco")


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("a cat <LORA:one:0.8>", "write <lora: in small letters"),
        ("a cat < lora:one>", "write <lora: in small letters and without blanks"),
        ("a cat <lora:one:0.8", "close it, as in <lora:NAME:0.8>"),
        ("a cat <net:>", "and a name after it"),
        ("a cat <hypernet:one:0.8>", "nothing here reads <hypernet:...>"),
        ("a cat <wildcard:colours>", "nothing here reads <wildcard:...>"),
    ],
)
def test_what_calls_nothing_is_told(prompt: str, said: str) -> None:
    rest, calls = take_calls(prompt, WORDS)
    (sentence,) = unread_tags(rest, WORDS)
    assert not calls and said in sentence and "is read as text" in sentence


@pytest.mark.parametrize("prompt", ["a cat <3", "3 < 4: true", "a <cat> here", "<lora:one><net:two:0.5>"])
def test_what_is_no_tag_is_left_alone(prompt: str) -> None:
    assert unread_tags(take_calls(prompt, WORDS)[0], WORDS) == []


def test_generate_takes_lyco_and_tells_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loras").mkdir()
    layer = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_v"
    tensors = {f"{layer}.lora_down.weight": torch.ones(2, 64), f"{layer}.lora_up.weight": torch.ones(128, 2)}
    save_file(tensors, "loras/one.safetensors")
    line = ["generate", "--json", "a star <lyco:one:0.5> <LORA:one:0.5>", "--negative", "dull <hypernet:x:1>"]
    assert main([*line, "--count=1", "--steps=1"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["networks"] == ["loras/one.safetensors"]
    assert [note.split(" calls no network")[0] for note in told["notes"] if "calls no" in note] == [
        "<LORA:one:0.5>",
        "<hypernet:x:1>",
    ]
