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
    assert drawn(capsys, "a star<lora:one:0.8>", "--negative", "dull")[0] == called
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


GEN_IMG = [
    *("sd-scripts", "--json", "gen_img_diffusers.py", "--ckpt", "builtin", "--outdir", "out", "--xformers"),
    *("--W=64", "--H=64", "--steps=2", "--scale=5", "--seed=1", "--network_module", "networks.lora"),
]


def test_a_line_of_sd_scripts_draws_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    network(Path("loras", "one.safetensors")), network(Path("my nets", "two.safetensors"))
    prompt = "a star <net:one:0.8> <net:two:1>"
    expected, _ = drawn(capsys, prompt, "--negative=-dull", "--networks", "my nets")
    words = [
        *("--network_weights", "loras/one.safetensors", "my nets/two.safetensors", "--network_mul", "0.8"),
        *("--prompt", "a star --n -dull --s 2"),
    ]
    assert main([*GEN_IMG, *words]) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert Path(told["images"][0]).read_bytes() == expected and len(told["images"]) == 1
    assert "the same as: ti-studio generate 'a star <net:one:0.8> <net:two:1>'" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--from_file=x.txt"], '"a cat <net:NAME:0.8>" --networks FOLDER'),
        (["--prompt", "a star --am 0.5"], "--prompt: --am in it is not to be had here"),
        (["--prompt", "a star", "--network_weights", "a/one.pt", "b/one.pt"], "--network_weights b/one.pt"),
        (["--prompt", "a star", "--network_weights", "no.pt"], "there is no network 'no'"),
        ([], "--prompt is missing"),
    ],
)
def test_a_line_that_no_prompt_can_say_is_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in "ab":
        network(Path(folder, "one.pt"))
    assert main([*GEN_IMG, *words]) == 2
    assert said in capsys.readouterr().err
