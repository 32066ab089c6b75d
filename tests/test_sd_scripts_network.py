"""Command lines of sd-scripts' document on LoRA: translated as they stand, they train a network."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lib_ti.cli import build_parser, main
from lib_ti.commands.options import add_train_options
from lib_ti.commands.parser import Parser
from lib_ti.commands.sd_scripts import translate, words_of
from lib_ti.commands.sd_scripts_entry import Entry
from lib_ti.commands.sd_scripts_network import NETWORK_OPTIONS
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


TABLES = (
    "[prompt]\nwidth = 96\nheight = 64\nseed = 7\nsample_steps = 9\nscale = 4.5\n"
    '[[prompt.subset]]\nprompt = "a cat, zqx"\nnegative_prompt = "blurry, low"\n'
)


def settings_of(line: list[str]) -> Any:
    ours = translate(line, Path()).ours
    words = words_of(ours)
    return read_settings(given_settings(build_parser().parse_args(["train", *words])))


def test_the_documented_line_trains_a_lora_of_rank_4() -> None:
    translation, settings = translate(LINE, Path("here")), settings_of(LINE)
    assert translation.output == Path("out/my-lora.safetensors")
    told = {"method": "lora", "name": "my-lora", "rank": 4, "alpha": 1.0, "steps": 400, "text_rate": 1.0}
    told |= {
        "learning_rate": "1e-4",
        "optimizer": "AdamW8bit",
        "train_parts": "both",
        "save_precision": "fp32",
    }
    told |= {"batch_size": 1, "accumulation": 1, "clip": "norm", "weighting": "none", "template": "captions"}
    expected = read_settings(told)
    assert {name: getattr(settings, name) for name in told if name != "method"} == {
        name: getattr(expected, name) for name in told if name != "method"
    }
    assert type(settings) is type(expected)
    sdxl = [word.replace("train_network", "sdxl_train_network") for word in LINE]
    assert settings_of(sdxl) == replace(settings, size_conditioning="sd-scripts")


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
        (
            LINE,
            ["--network_args", "loraplus_unet_lr_ratio=8", "loraplus_text_encoder_lr_ratio=4"],
            "lora",
            {"unet_up_rate": 8, "text_up_rate": 4, "up_rate": 1},
        ),
        (LINE, ["--base_weights=base.safetensors"], "lora", {"base_weights": "base.safetensors:1"}),
        (
            LINE,
            ["--base_weights", "my a.safetensors", "b.safetensors", "--base_weights_multiplier", "0.5"],
            "lora",
            {"base_weights": "my a.safetensors:0.5\nb.safetensors:1"},
        ),
        (LINE, ["--text_encoder_lr=0", "--unet_lr=2e-4"], "lora", {"train_parts": "unet", "unet_rate": 2}),
        (LINE, ["--unet_lr=0"], "lora", {"train_parts": "text", "text_rate": 1}),
        (
            LINE,
            ["--learning_rate=0", "--unet_lr=3e-4"],
            "lora",
            {"train_parts": "unet", "learning_rate": "0.0003", "unet_rate": 1},
        ),
        (
            LINE,
            ["--text_encoder_lr", "5e-5", "2e-5"],
            "lora",
            {"text_rate": 0.5, "second_text_rate": 0.2, "train_parts": "both"},
        ),
        (LINE, ["--text_encoder_lr", "0", "0"], "lora", {"train_parts": "unet"}),
        (
            [word for word in LINE if "learning_rate" not in word],
            ["--unet_lr=5e-3"],
            "lora",
            {"learning_rate": "2e-6", "unet_rate": 2500},
        ),
        (
            LINE,
            ["--training_comment=for my cat", "--no_metadata", "--cpu_offload_checkpointing"],
            "lora",
            {"training_comment": "for my cat", "picture_metadata": False},
        ),
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
        (["--network_args", "algo=loha"], "--network_args: got 'algo=loha'"),
        (["--network_args", "conv_dim"], "--network_args: got 'conv_dim'"),
        (["--network_args", "conv_dim=4096"], "--network_args conv_dim=4096: expected a whole number of"),
        (["--network_args", "unit=2"], "--network_args: got 'unit=2', which is DyLoRA's"),
        (
            ["--network_dim=4096"],
            "--network_dim=4096: expected a whole number of at least 1 and of at most",
        ),
        (["--max_train_steps=0"], "--max_train_steps=0: expected a whole number of at least 1"),
        (["--huber_schedule=wave"], "--huber_schedule=wave: expected one of constant, "),
        (["--unet_lr=-1"], "--unet_lr=-1: expected a number of at least 0"),
        (["--unet_lr=200"], "--unet_lr=200 is 2e+06 times the 0.0001 of --learning_rate"),
        (["--learning_rate=1e-3:9,1e-4", "--unet_lr=1e-4"], "--learning_rate=1e-3:9,1e-4: expected a number"),
        (["--unet_lr=0", "--text_encoder_lr=0"], "--unet_lr and --text_encoder_lr leave nothing to train"),
        (["--unet_lr=0", "--network_train_unet_only"], "leave nothing to train"),
        (["--text_encoder_lr", "0", "1e-5"], "--text_encoder_lr 0 1e-5: expected one rate, or two"),
        (
            ["--base_weights=a.safetensors", "--base_weights_multiplier=much"],
            "--base_weights_multiplier much: expected a number",
        ),
        (["--unet_lr=fast"], "--unet_lr=fast: expected a number"),
        (["--token_string=x"], "--token_string belongs to train_textual_inversion.py"),
        (["--save_model_as=diffusers"], "--save_model_as=diffusers is not to be had here"),
        (["--network_train_unet_only", "--network_train_text_encoder_only"], "leaves nothing"),
    ],
)
def test_what_there_is_not_is_refused_by_name(more: list[str], said: str) -> None:
    with pytest.raises(BadInput) as refused:
        translate([*LINE, *more], Path())
    assert said in str(refused.value)


def test_a_file_gives_what_the_command_line_does_not(tmp_path: Path) -> None:
    file = tmp_path / "options.toml"
    file.write_text(
        'network_module = "networks.lora"\nlearning_rate = 1e-3\n'
        f'[network]\nnetwork_args = [ "down_lr_weight={DOWN}", "mid_lr_weight=2.0", "up_lr_weight={UP}",]\n'
        "network_dim = 16\nnetwork_train_unet_only = true\nfull_bf16 = false\nvae = ''\n"
        '[saving]\noutput_name = "other"\n',
        encoding="utf-8",
    )
    line = [word for word in LINE if "network_module" not in word]
    for name in (file, file.with_suffix("")):  # as there, the ending may be left out
        settings = settings_of([*line, f"--config_file={name}"])
        assert (settings.rank, settings.train_parts, settings.name) == (16, "unet", "my-lora")
        assert (settings.down_lr_weight, settings.mid_lr_weight, settings.up_lr_weight) == (DOWN, "2.0", UP)
        assert settings.learning_rate == "1e-4"
    for text, said in (
        ("no_such = 1", "--no_such is no option of this script"),
        ("network_dim = true", "network_dim: got True, expected text or a number"),
        ("cache_latents = 3", "cache_latents: got 3, expected true or false"),
        ("network_dim = [1, 2]", "network_dim: got [1, 2]"),
        ("network_dim =", "cannot be read"),
        ("network_dim = 4096", "--network_dim=4096: expected"),
    ):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(BadInput) as refused:
            translate([*LINE, f"--config_file={file}"], Path())
        assert said in str(refused.value)


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        (".txt", "# mine\n\na cat, zqx --n blurry, low --w 96 --h 64 --d 7 --s 9 --l 4.5 --ss ddim\na dog"),
        (
            ".toml",
            TABLES,
        ),
    ],
)
def test_previews_are_drawn_of_the_first_sample_prompt(tmp_path: Path, suffix: str, text: str) -> None:
    file = tmp_path / f"prompts{suffix}"
    file.write_text(text, encoding="utf-8")
    settings = settings_of([*LINE, "--sample_every_n_steps=10", f"--sample_prompts={file}"])
    assert (settings.preview_prompt, settings.preview_negative) == ("a cat, zqx", "blurry, low")
    assert (settings.preview_width, settings.preview_height, settings.preview_seed) == (96, 64, 7)
    assert (settings.preview_steps, settings.preview_cfg, settings.preview_every) == (9, 4.5, 10)
    file.write_text("# nothing", encoding="utf-8")
    with pytest.raises(BadInput, match="holds no prompt"):
        settings_of([*LINE, f"--sample_prompts={file}"])


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
    with pytest.raises(BadInput, match="network-args conv_dim=two: expected a whole number"):
        given_settings(build_parser().parse_args(["train", "--network-args", "conv_dim=two"]))


def test_lycoris_has_convolutions_of_the_same_rank() -> None:
    line = [word if word != "networks.lora" else "lycoris.kohya" for word in LINE]
    line = [word.replace("=networks.lora", "=lycoris.kohya") for word in line]
    settings = settings_of(line)
    assert type(settings) is type(read_settings({"method": "c3lier"}))
    assert (settings.conv_rank, settings.conv_alpha) == (settings.rank, settings.alpha)
    assert settings_of([*line, "--network_args", "conv_dim=2"]).conv_rank == 2


def test_an_option_of_another_method_is_said_to_be_so() -> None:
    with pytest.raises(BadInput, match="unit belongs to the method dylora, and this is lora"):
        read_settings({"method": "lora", "unit": 4})
    with pytest.raises(BadInput, match="unknown setting"):
        read_settings({"method": "lora", "units": 4})


def test_every_entry_names_options_that_train_has() -> None:
    train = Parser(options=add_train_options)
    train.fill()
    known = train._option_string_actions

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
