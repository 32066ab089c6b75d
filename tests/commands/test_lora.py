"""``ti-studio lora`` and sd-scripts' tools, as a person and as a program use them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from lib_ti.cli import main
from lib_ti.commands.sd_scripts_tools import find_tool, translate_tool
from lib_ti.networks.files import read_network, tensors_of, write_network
from lib_ti.networks.tools.saving import save_network
from tests.networks.tools.made import BUILTIN, builtin, delta, in_float, lora

CHECKPOINT = builtin()
ONE, OTHER = lora(CHECKPOINT, seed=1, name="one"), lora(CHECKPOINT, seed=999, conv=False, name="other")
LINEAR = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
SHAPE = CHECKPOINT.shape(CHECKPOINT.layers[LINEAR])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present folder, with two LoRAs."""
    monkeypatch.chdir(tmp_path)
    said = {"ss_clip_skip": "2", "ss_base_model_version": "sd_v1"}
    for network in (ONE, OTHER):
        save_network(tmp_path / f"{network.name}.safetensors", network.updates, None, said)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def change(path: str) -> torch.Tensor:
    return delta(read_network(Path(path)), LINEAR, SHAPE)


def metadata(path: str) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def test_merge(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--ratios", "0.8, -0.5"]
    both = ["lora", "merge", "one.safetensors", "other.safetensors"]
    told = run(capsys, *both, "sum", *words, "--shuffle")
    assert (told["modules"], told["written"]) == (len(ONE.updates), ["sum.safetensors"])
    wanted = 0.8 * delta(ONE, LINEAR, SHAPE) - 0.5 * delta(OTHER, LINEAR, SHAPE)
    assert torch.allclose(change("sum.safetensors"), wanted, atol=1e-6)
    said = metadata("sum.safetensors")
    assert said["modelspec.merged_from"] == "one, other"
    assert (said["ss_clip_skip"], said["ss_network_dim"]) == ("2", "Dynamic")
    assert len(said["sshs_model_hash"]) == 64

    words += ["--how", "nearest", "--rank", "8", "--conv-rank", "4", "--save-precision", "fp16"]
    run(capsys, *both, "rank.pt", *words)
    assert torch.allclose(change("rank.pt"), wanted, atol=1e-2)
    assert read_network(Path("rank.pt")).updates[LINEAR].up.dtype == torch.float16


def test_merge_into_a_checkpoint(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["lora", "merge-into-checkpoint", str(BUILTIN), "one.safetensors", "new.safetensors"]
    assert main(words) == 0
    assert f"one: applied {len(ONE.updates)} of {len(ONE.updates)} modules" in capsys.readouterr().err
    assert Path("new.yaml").read_bytes() == BUILTIN.with_suffix(".yaml").read_bytes()
    assert main(words) == 2
    assert "new.safetensors exists" in capsys.readouterr().err
    told = run(capsys, *words, "--overwrite")
    assert told["networks"]["one"] == {
        "applied": len(ONE.updates),
        "modules": len(ONE.updates),
        "left_out": {},
    }


def test_an_old_description_does_not_stay_beside_a_new_checkpoint(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Path("base.safetensors")
    source.write_bytes(BUILTIN.read_bytes())
    Path("new.yaml").write_text("of another one")
    words = ["lora", "merge-into-checkpoint", str(source), "one.safetensors", "new"]
    assert main(words) == 2
    assert "new.yaml exists" in capsys.readouterr().err and not Path("new.safetensors").exists()
    assert main([*words, "--overwrite"]) == 0
    assert Path("new.safetensors").exists() and not Path("new.yaml").exists()


def test_extract_resize_and_inspect(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = in_float(folder)
    run(capsys, "lora", "merge-into-checkpoint", str(base), "one.safetensors", "tuned.safetensors")
    words = ["lora", "extract", str(base), "tuned.safetensors", "back.safetensors"]
    told = run(capsys, *words, "--rank", "4", "--conv-rank", "4", "--layers")
    assert (told["modules"], told["equal"], told["with text encoder"]) == (len(ONE.updates), 0, True)
    assert max(row["missed"] for row in told["layers"]) < 1e-4
    assert torch.allclose(change("back.safetensors"), delta(ONE, LINEAR, SHAPE), atol=1e-5)
    said = metadata("back.safetensors")
    assert (said["ss_base_model_version"], said["ss_network_dim"]) == ("sd_v1", "4")
    assert json.loads(said["ss_network_args"]) == {"conv_dim": "4", "conv_alpha": "4.0"}

    words = ["lora", "resize", "back.safetensors", "small.safetensors", "--rank", "2", "--layers"]
    told = run(capsys, *words, "--method", "sv_fro", "--parameter", "0.9")
    assert set(told["ranks"]) <= {"1", "2"} and all(0 < row["kept"] < 1 for row in told["layers"])
    assert metadata("small.safetensors")["ss_training_comment"].startswith("resized from back, sv_fro 0.9")

    told = run(capsys, "lora", "inspect", "back.safetensors", "--layers")
    assert (told["family"], told["ranks"]) == ("sd1", {"4": len(ONE.updates)})
    norms = {row["layer"]: row["norm"] for row in told["layers"]}
    assert norms[LINEAR] == pytest.approx(float(delta(ONE, LINEAR, SHAPE).norm()), rel=1e-4)
    assert "layers" not in run(capsys, "lora", "inspect", "back.safetensors")


def test_split(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = run(capsys, "lora", "split", "one.safetensors", "cut.safetensors", "--unit", "3")
    assert told["written"] == ["cut-0003.safetensors", "cut-0004.safetensors"]
    assert torch.equal(change("cut-0003.safetensors"), delta(ONE.truncated(3), LINEAR, SHAPE))
    assert metadata("cut-0003.safetensors")["ss_network_dim"] == "3"
    Path("cut-0003.safetensors").unlink()
    assert main(["lora", "split", "one.safetensors", "cut.safetensors", "--unit", "3"]) == 2
    assert not Path("cut-0003.safetensors").exists()  # not even a part where one file exists


def test_a_dylora_is_split_by_the_unit_that_it_tells(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_network(Path("dy.safetensors"), tensors_of(ONE.updates), {"ss_network_args": '{"unit": "2"}'})
    told = run(capsys, "lora", "split", "dy.safetensors", "cut")
    assert told["written"] == ["cut-0002.safetensors", "cut-0004.safetensors"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("merge one.safetensors other.safetensors x --ratios 1", "got 1 for 2 files"),
        ("merge one.safetensors other.safetensors x --ratios 1,much", "got '1,much', expected numbers"),
        ("merge one.safetensors other.safetensors x --ratios nan,1", "got 'nan,1', expected numbers"),
        ("merge one.safetensors x.png", "expected a name ending in .safetensors"),
        ("merge one.safetensors other.safetensors", "other.safetensors exists"),
        ("merge-into-checkpoint one.safetensors other.safetensors x", "one.safetensors is no checkpoint"),
        ("merge one.safetensors x --rank -1", "rank: got -1"),
        ("merge one.safetensors x --how nearest --clamp 0", "clamp: got 0"),
        ("merge one.safetensors x --conv-rank 2", "belong to the nearest one"),
        ("merge one.safetensors x --how nearest --shuffle", "mixed already"),
        ("merge one.safetensors x --how nearest --device cuda", "device cuda cannot be used"),
        ("resize one.safetensors x --method sv_ratio", "sv_ratio got the parameter 0"),
        ("resize one.safetensors x --rank 0", "rank: got 0"),
        ("split one.safetensors x --unit 9", "expected 1 to 4"),
        ("extract one.safetensors one.safetensors x", "no checkpoint"),
        ("edit-metadata one.safetensors --metadata [1]", "expected one JSON object"),
        ("inspect nowhere.safetensors", "nowhere.safetensors"),
    ],
)
def test_bad_input_is_one_sentence(
    words: str, said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(folder.iterdir())
    assert main(["lora", *words.split()]) == 2
    err = capsys.readouterr().err
    assert said in err and "Traceback" not in err
    assert sorted(folder.iterdir()) == before


def test_other_families_are_not_merged(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = {"lora_te2_x.lora_down.weight": torch.ones(1, 3), "lora_te2_x.lora_up.weight": torch.ones(3, 1)}
    write_network(Path("xl.safetensors"), tensors, {"ss_base_model_version": "sdxl_base_v1-0"})
    assert main(["lora", "merge", "one.safetensors", "xl.safetensors", "x"]) == 2
    assert "different families: sd1, sdxl" in capsys.readouterr().err


def test_one_that_does_not_say_its_family_is_of_the_others(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    down, up = torch.ones(1, 3, 3, 3), torch.ones(3, 1, 1, 1)
    name = "lora_unet_input_blocks_1_0_in_layers_2"
    tensors = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
    write_network(Path("xl.safetensors"), tensors, {"ss_base_model_version": "sdxl_base_v1-0"})
    key = "unet.down_blocks.0.resnets.0.conv1"
    write_network(Path("a.safetensors"), {f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up}, {})
    run(capsys, "lora", "merge", "a.safetensors", "xl.safetensors", "c")
    (update,) = read_network(Path("c.safetensors"), "sdxl").updates.values()
    torch.testing.assert_close(update.delta(torch.zeros(3, 3, 3, 3)), torch.full((3, 3, 3, 3), 2.0))


# The command lines of sd-scripts' document on LoRA, with names of files that are here.
DOCUMENTED = [
    (
        r"python networks\merge_lora.py --sd_model base.safetensors "
        "--save_to out/model-char1-merged.safetensors --models one.safetensors --ratios 0.8"
    ),
    (
        r"python networks\merge_lora.py --sd_model base.safetensors --save_to out/merged.ckpt "
        "--models one.safetensors other.safetensors --ratios 0.8 0.5"
    ),
    (
        r"python networks\merge_lora.py --save_precision bf16 --save_to out/char1-style1-merged.safetensors "
        "--models one.safetensors other.safetensors --ratios 1.0 -1.0 --concat --shuffle"
    ),
    (
        r"python networks\svd_merge_lora.py --save_to out/svd-merged.safetensors "
        "--models one.safetensors other.safetensors --ratios 0.6 0.4 --new_rank 32 --device cpu"
    ),
    (
        r"python networks\extract_lora_from_models.py --model_org base.safetensors "
        "--model_tuned out/model-char1-merged.safetensors --save_to lora-weights.safetensors --dim 4"
    ),
    (
        r"python networks\extract_lora_from_dylora.py --model one.safetensors "
        "--save_to out/dylora-model-split.safetensors --unit 4"
    ),
    (
        "python networks/resize_lora.py --model one.safetensors --save_to out/small.safetensors --new_rank 2 "
        "--dynamic_method sv_ratio --dynamic_param 2 --verbose"
    ),
    (
        "python networks/sdxl_merge_lora.py --save_to out/plain.safetensors "
        "--models one.safetensors other.safetensors --ratios 0.5 0.5 --precision fp16"
    ),
]


def test_the_documented_lines_run_as_they_stand(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    in_float(folder)
    written = []
    for line in DOCUMENTED:
        assert main(["sd-scripts", "--json", *line.split(" ")]) == 0
        out, err = capsys.readouterr()
        assert "the same as: ti-studio lora " in err
        written += json.loads(out)["written"]
    assert written == [
        *("out/model-char1-merged.safetensors", "out/merged.ckpt", "out/char1-style1-merged.safetensors"),
        *(
            "out/svd-merged.safetensors",
            "lora-weights.safetensors",
            "out/dylora-model-split-0004.safetensors",
        ),
        *("out/small.safetensors", "out/plain.safetensors"),
    ]
    difference = delta(ONE, LINEAR, SHAPE) - delta(OTHER, LINEAR, SHAPE)
    assert torch.allclose(change(written[2]), difference, atol=1e-2)  # bf16
    mean = (delta(ONE, LINEAR, SHAPE) + delta(OTHER, LINEAR, SHAPE)) / 2
    rank4 = torch.linalg.svdvals(mean.double())[4:].norm()
    assert float((change(written[7]) - mean).norm()) == pytest.approx(float(rank4), rel=1e-2)  # fp16


def test_the_documented_line_for_pictures() -> None:
    line = (
        r"python tools\resize_images_to_resolution.py --max_resolution 512x512,384x384,256x256 --save_as_png "
        "--copy_associated_files in out"
    )
    words, told = translate_tool(find_tool(line.split(" ")))
    assert told == []
    assert words == [
        *("images", "resize", "in", "out", "--overwrite", "--sizes", "512x512,384x384,256x256"),
        *("--png", "--together"),
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("merge_lora.py --models a b", "--save_to is missing"),
        ("svd_merge_lora.py --save_to x --models a --lbws 1,1", "--lbws is not to be had here"),
        ("resize_lora.py --model a --save_to b --magic 3", "--magic"),
        ("python networks/other.py", "other.py cannot be run here"),
    ],
)
def test_what_cannot_be_run_is_said(
    line: str, said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sd-scripts", *line.split()]) == 2
    assert said in capsys.readouterr().err
