"""Command lines of sd-scripts' document on LoRA: translated as they stand, they train a network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from lib_ti.cli import build_parser, main
from lib_ti.commands.sd_scripts import translate
from lib_ti.commands.sd_scripts_network import NETWORK_OPTIONS
from lib_ti.commands.sd_scripts_options import Entry
from lib_ti.commands.shared import given_settings
from lib_ti.core.errors import BadInput
from lib_ti.formats.safetensors_file import read_tensors
from lib_ti.methods.network_args import read_network_args
from lib_ti.methods.registry import read_settings
from lib_ti.networks.files import read_network

# The document's line, at the built-in model.
LINE = [
    *("accelerate", "launch", "--num_cpu_threads_per_process", "1", "train_network.py"),
    *("--pretrained_model_name_or_path=builtin", "--dataset_config=data.toml"),
    *("--output_dir=out", "--output_name=my-lora", "--save_model_as=safetensors", "--prior_loss_weight=1.0"),
    *("--max_train_steps=400", "--learning_rate=1e-4", "--optimizer_type=AdamW8bit", "--xformers"),
    *("--mixed_precision=fp16", "--cache_latents", "--gradient_checkpointing", "--save_every_n_epochs=1"),
    "--network_module=networks.lora",
]
DYLORA = [word.replace("networks.lora", "networks.dylora") for word in LINE]
DOWN = "0.5,0.5,0.5,0.5,1.0,1.0,1.0,1.0,1.5,1.5,1.5,1.5"
UP = "1.5,1.5,1.5,1.5,1.0,1.0,1.0,1.0,0.5,0.5,0.5,0.5"
DIMS = "2,4,4,4,8,8,8,8,12,12,12,12,16,12,12,12,12,8,8,8,8,4,4,4,2"
CONV_DIMS = "2,2,2,2,4,4,4,4,6,6,6,6,8,6,6,6,6,4,4,4,4,2,2,2,2"


def settings_of(line: list[str]) -> Any:
    ours = translate(line, Path()).ours
    words = [word for pair in ours.items() for word in pair if word]
    return read_settings(given_settings(build_parser().parse_args(["train", *words])))


def test_the_documented_line_trains_a_lora_of_rank_4() -> None:
    translation, settings = translate(LINE, Path("here")), settings_of(LINE)
    assert translation.output == Path("out/my-lora.safetensors")
    told = {"method": "lora", "name": "my-lora", "rank": 4, "alpha": 1.0, "steps": 400, "text_rate": 1.0}
    told |= {"learning_rate": "1e-4", "optimizer": "AdamW", "train_parts": "both", "save_precision": "fp32"}
    told |= {"batch_size": 1, "accumulation": 1, "clip": "norm", "weighting": "none", "template": "captions"}
    expected = read_settings(told)
    assert {name: getattr(settings, name) for name in told if name != "method"} == {
        name: getattr(expected, name) for name in told if name != "method"
    }
    assert type(settings) is type(expected)
    sdxl = [word.replace("train_network", "sdxl_train_network") for word in LINE]
    assert settings_of(sdxl) == settings


@pytest.mark.parametrize(
    ("line", "more", "method", "expected"),
    [
        (LINE, ["--network_args", "conv_dim=4", "conv_alpha=1"], "c3lier", {"conv_rank": 4, "conv_alpha": 1}),
        (LINE, ["--network_args", "conv_dim=4"], "c3lier", {"conv_rank": 4, "conv_alpha": 1}),
        (DYLORA, ["--network_dim=16", "--network_args", "unit=4"], "dylora", {"rank": 16, "unit": 4}),
        (
            DYLORA,
            ["--network_dim=32", "--network_alpha=16", "--network_args", "unit=4"],
            "dylora",
            {"rank": 32, "alpha": 16, "unit": 4, "conv_rank": 0},
        ),
        (
            DYLORA,
            ["--network_dim=16", "--network_args", "conv_dim=16", "unit=4"],
            "dylora",
            {"conv_rank": 16, "unit": 4},
        ),
        (DYLORA, [], "dylora", {"unit": 1}),
        (
            LINE,
            ["--network_args", f"down_lr_weight={DOWN}", "mid_lr_weight=2.0", f"up_lr_weight={UP}"],
            "lora",
            {"down_lr_weight": DOWN, "mid_lr_weight": "2.0", "up_lr_weight": UP},
        ),
        (
            LINE,
            [
                *("--network_args", "block_lr_zero_threshold=0.1", "down_lr_weight=sine+.5"),
                *("mid_lr_weight=1.5", "up_lr_weight=cosine+.5"),
            ],
            "lora",
            {"block_lr_zero_threshold": 0.1, "down_lr_weight": "sine+.5", "up_lr_weight": "cosine+.5"},
        ),
        (LINE, ["--network_args", f"block_dims={DIMS}"], "lora", {"block_dims": DIMS}),
        (
            LINE,
            ["--network_args", f"block_dims={DIMS}", f"conv_block_dims={CONV_DIMS}"],
            "c3lier",
            {"block_dims": DIMS, "conv_block_dims": CONV_DIMS, "conv_alpha": 1},
        ),
        (
            LINE,
            ["--network_args", f"block_dims={DIMS}", f"block_alphas={CONV_DIMS}"],
            "lora",
            {"block_alphas": CONV_DIMS},
        ),
        (LINE, ["--network_train_unet_only"], "lora", {"train_parts": "unet"}),
        (LINE, ["--network_train_text_encoder_only"], "lora", {"train_parts": "text"}),
        (LINE, ["--unet_lr=2e-4", "--text_encoder_lr=5e-5"], "lora", {"unet_rate": 2, "text_rate": 0.5}),
        (
            LINE,
            ["--network_weights=old.safetensors", "--dim_from_weights", "--scale_weight_norms=1"],
            "lora",
            {"network_weights": "old.safetensors", "dim_from_weights": True, "max_norm": 1},
        ),
        (LINE, ["--network_args", "loraplus_lr_ratio=16"], "lora", {"up_rate": 16}),
        (LINE, ["--base_weights=base.safetensors"], "lora", {"base_weights": "base.safetensors"}),
    ],
)
def test_documented_options_become_ours(
    line: list[str], more: list[str], method: str, expected: dict[str, Any]
) -> None:
    settings = settings_of([*line, *more])
    assert {name: getattr(settings, name) for name in expected} == expected
    assert type(settings) is type(read_settings({"method": method}))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--network_module=networks.oft"], "--network_module=networks.oft is not to be had here"),
        (["--network_args", "algo=loha"], "network-args: got 'algo=loha'"),
        (["--network_args", "conv_dim"], "network-args: got 'conv_dim'"),
        (["--unet_lr=fast"], "--unet_lr=fast: expected a number"),
        (["--token_string=x"], "--token_string is not to be had here"),
        (["--save_model_as=ckpt"], "--save_model_as=ckpt is not to be had here"),
        (["--network_train_unet_only", "--network_train_text_encoder_only"], "leaves nothing"),
    ],
)
def test_what_there_is_not_is_refused_by_name(more: list[str], said: str) -> None:
    with pytest.raises(BadInput) as refused:
        translate([*LINE, *more], Path())
    assert said in str(refused.value)


def test_arguments_of_networks_are_settings_of_the_right_method() -> None:
    assert read_network_args(["algo=locon", "conv_dim=2", "conv_alpha=2"]) == {
        "method": "c3lier",
        "conv_rank": "2",
        "conv_alpha": "2",
    }
    assert read_network_args(["algo=dylora", "block_size=4"]) == {"method": "dylora", "unit": "4"}
    given = build_parser().parse_args(["train", "--network-args", "conv_dim=2", "dropout=.1", "--rank", "3"])
    settings = read_settings(given_settings(given))
    assert (settings.conv_rank, settings.dropout, settings.rank) == (2, 0.1, 3)
    with pytest.raises(BadInput, match="network-args: got 'two' for conv_rank"):
        given_settings(build_parser().parse_args(["train", "--network-args", "conv_dim=two"]))


def test_every_entry_names_options_that_train_has() -> None:
    commands = next(action for action in build_parser()._actions if action.dest == "command")
    known = commands.choices["train"]._option_string_actions  # type: ignore[index]

    def flags(entry: Entry) -> set[str]:
        below = {flag for choice in entry.choices.values() for flag in flags(choice)}
        return below if entry.instead else below | entry.ours("1").keys()

    assert {flag for entry in NETWORK_OPTIONS.values() for flag in flags(entry)} <= known.keys()


def test_a_line_puts_its_network_where_sd_scripts_does(
    pictures: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(pictures, tmp_path / "data" / "2_thing")
    (tmp_path / "data.toml").write_text(
        '[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nimage_dir = "data/2_thing"\n', encoding="utf-8"
    )
    short = [word.replace("=400", "=3") for word in DYLORA]
    assert main(["sd-scripts", "--json", *short, "--network_args", "unit=2", "conv_dim=4"]) == 0
    out, err = capsys.readouterr()
    told = json.loads(out.splitlines()[-1])
    assert Path(told["file"]) == Path("out/my-lora.safetensors") and "the same as: ti-studio train" in err
    assert Path(told["file"]).read_bytes() == Path(told["network"]).read_bytes()
    assert len(read_network(Path(told["file"])).updates) == 278 + 24
    assert read_tensors(Path(told["file"]))[1]["ss_network_module"] == "networks.dylora"
