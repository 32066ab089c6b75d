"""Row 1.5: optimizers, precision, attention and what stands before the script."""

from __future__ import annotations

import json
import shutil
from argparse import ArgumentParser
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lib_ti.cli import main
from lib_ti.commands.sd_scripts import translate
from lib_ti.commands.sd_scripts_accelerate import read_launch
from lib_ti.commands.sd_scripts_device import fitted
from lib_ti.core.errors import BadInput
from lib_ti.core.loop import Loop, Method, check_learning
from lib_ti.core.optimizers import make_optimizer
from lib_ti.job_memory import economy_of
from tests.cases.test_1_05_sd_scripts_meaning import NETWORK, TI, settings_of


class Nothing(Method):
    def parameters(self) -> dict[str, torch.Tensor]:
        return {"x": torch.zeros(1, 1, requires_grad=True)}


@pytest.mark.parametrize(
    ("line", "more", "decay"),
    [
        (TI, [], 0.01),
        (TI, ["--optimizer_type=AdamW8bit"], 0.01),
        (TI, ["--optimizer_type=adamw", "--optimizer_args", "weight_decay=0.1"], 0.1),
        (TI, ["--optimizer_type=AdamW", "--optimizer_args", "eps=1e-6"], 0.01),
        (NETWORK, [], 0.01),
        (NETWORK, ["--optimizer_type=torch.optim.AdamW"], 0.01),
        (NETWORK, ["--optimizer_type=RAdam"], 0.0),
        (NETWORK, ["--optimizer_type=Adafactor", "--optimizer_args", "relative_step=False"], 0.0),
    ],
)
def test_weights_decay_in_the_loop_as_there(line: list[str], more: list[str], decay: float) -> None:
    settings = settings_of([*line, *more])
    optimizer = Loop(Nothing(), check_learning(settings), None, settings).optimizer
    assert optimizer.param_groups[0]["weight_decay"] == decay


def test_our_own_jobs_have_no_decay() -> None:
    made = make_optimizer("AdamW", "", {"x": torch.zeros(1, 1)}, 0.1)
    assert made.param_groups[0]["weight_decay"] == 0


def test_nesterov_has_its_momentum() -> None:
    settings = settings_of([*TI, "--optimizer_type=SGDNesterov", "--optimizer_args", "momentum=0.8"])
    assert (settings.optimizer, settings.optimizer_args) == ("torch.optim.SGD", "nesterov=True momentum=0.8")


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--mixed_precision=bf16"], {"--precision": "bf16"}),
        (["--mixed_precision=fp16", "--full_fp16"], {"--precision": "fp16"}),
        (["--full_bf16"], {"--precision": "bf16"}),
        (["--mixed_precision=no"], {"--precision": None}),
        (["--xformers"], {"--attention": "xformers"}),
        (["--sdpa"], {"--attention": "sdpa"}),
        (["--mem_eff_attn", "--xformers"], {"--attention": "sliced"}),
        (["--optimizer_type=AdamW8bit"], {"--optimizer": "AdamW8bit"}),
        (["--use_8bit_adam"], {"--optimizer": "AdamW8bit"}),
        (["--optimizer_type=pagedlion8bit"], {"--optimizer": "bitsandbytes.optim.PagedLion8bit"}),
    ],
)
def test_the_machine_is_asked_for_what_the_line_asks_for(more: list[str], expected: dict[str, str]) -> None:
    ours = translate([*NETWORK, *more], Path()).ours
    assert {flag: ours.get(flag) for flag in expected} == expected


def test_precision_and_attention_reach_the_loop() -> None:
    settings = settings_of([*NETWORK, "--mixed_precision=bf16", "--optimizer_type=AdamW", "--mem_eff_attn"])
    assert Loop(Nothing(), check_learning(settings), None, settings).precision.dtype == torch.bfloat16
    assert economy_of(settings).attention == "sliced"


def test_a_few_vectors_need_no_eight_bits() -> None:
    translation = translate([*TI, "--optimizer_type=AdamW8bit"], Path())
    assert translation.ours["--optimizer"] == "AdamW"
    assert any("8 bits and pages save nothing" in said for said in translation.told)


def test_what_a_processor_has_not_is_told() -> None:
    asked = ["--mixed_precision=fp16", "--xformers", "--optimizer_type=PagedAdamW32bit"]
    ours, device, said = fitted(translate([*NETWORK, *asked], Path()).ours, "cpu")
    told = (ours["--precision"], ours["--attention"], ours["--optimizer"], ours["--optimizer-args"], device)
    assert told == ("model", "sdpa", "AdamW", "weight_decay=0.01", "cpu")
    assert [sentence.partition(" ")[0] for sentence in said] == [
        "fp16",
        "xformers",
        "bitsandbytes.optim.PagedAdamW32bit",
    ]
    kept, _, silent = fitted({"--precision": "bf16", "--attention": "sliced"}, "cpu")
    assert (kept, silent) == ({"--precision": "bf16", "--attention": "sliced"}, [])


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is one")
def test_a_card_that_is_not_there_is_told() -> None:
    line = ["accelerate", "launch", "--gpu_ids=0", *TI]
    _, device, said = fitted({}, translate(line, Path()).device)
    assert device == "" and said[0].startswith("cuda:0: there is no such device")


@pytest.mark.parametrize(
    ("before", "says_half", "device"),
    [
        (["accelerate", "launch", "--mixed_precision=bf16", "--num_processes", "1"], True, ""),
        (["accelerate", "launch", "--mixed-precision", "bf16", "--cpu"], True, "cpu"),
        (["C:\\venv\\Scripts\\accelerate.exe", "launch", "--gpu_ids", "1", "--quiet"], False, "cuda:1"),
        (["accelerate-launch", "--num_cpu_threads_per_process=1"], False, ""),
        (["python", "-m", "accelerate.commands.launch", "--dynamo_backend=no"], False, ""),
        (["python3.11", "-u"], False, ""),
        ([], False, ""),
    ],
)
def test_what_stands_before_the_script_applies(before: list[str], says_half: bool, device: str) -> None:
    """sd-scripts hands its own --mixed_precision to accelerate, "no" where it is told none."""
    translation = translate([*before, *TI], Path())
    assert (translation.ours.get("--precision"), translation.device) == (None, device)
    told = [word for word in translation.told if word.startswith("accelerate's --mixed_precision")]
    assert len(told) == says_half
    own = translate([*before, *TI, "--mixed_precision=fp16"], Path())
    assert own.ours["--precision"] == "fp16"


@pytest.mark.parametrize(
    ("before", "said"),
    [
        (
            ["accelerate", "launch", "--num_processes=2"],
            "--num_processes=2 is not to be had here: one device",
        ),
        (["accelerate", "launch", "--multi_gpu"], "--multi_gpu is not to be had here"),
        (["accelerate", "launch", "--gpu_ids=0,1"], "--gpu_ids=0,1 is not to be had here"),
        (
            ["accelerate", "launch", "--mixed_precision=fp8"],
            "--mixed_precision=fp8 is not to be had here: use no",
        ),
        (["accelerate", "launch", "--zero_stage=2"], "--zero_stage before the script is not to be had here"),
        (["accelerate", "launch", "--config_file=x.yaml"], "its settings are not read; write those you need"),
        (["python", "-c"], "python -c is not to be had here"),
        (["accelerate", "config"], "expected train_textual_inversion.py"),
    ],
)
def test_what_cannot_stand_there_is_refused_by_name(before: list[str], said: str) -> None:
    with pytest.raises(BadInput) as refused:
        translate([*before, *TI], Path())
    assert said in str(refused.value)


def test_a_line_that_accelerate_launches_computes_in_half(
    pictures: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The loop of the job computes in bf16, and the answer says what was not done."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(pictures, tmp_path / "data" / "1_zqx")
    line = ["accelerate", "launch", "--mixed_precision=fp16", "--num_cpu_threads_per_process=1", *TI]
    line += [
        "--mixed_precision=bf16",
        "--resolution=64",
        "--max_train_steps=1",
        "--use_object_template",
        "--xformers",
    ]
    assert main(["sd-scripts", "--json", "--device", "cpu", *line]) == 0
    result = json.loads(capsys.readouterr().out)
    told = [message.partition(":")[0] for message in result["messages"]]
    assert "accelerate's --mixed_precision=fp16" in told
    assert any(sentence.startswith("xformers is not to be had") for sentence in told)
    settings = json.loads(next(Path(".ti-studio/jobs").glob("*/settings.json")).read_text())["settings"]
    assert (settings["precision"], settings["attention"]) == ("bf16", "sdpa")
    assert settings["optimizer_args"] == "weight_decay=0.01"


def test_a_tool_that_is_launched_says_what_nothing_comes_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, made = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    down, up = torch.ones(2, 8), torch.ones(8, 2)
    name = "lora_unet_down_blocks_0_attentions_0_proj_in"
    save_file({f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}, file)
    line = [
        "networks/resize_lora.py",
        "--model",
        str(file),
        "--save_to",
        str(made),
        "--new_rank=1",
        "--verbose",
    ]
    before = ["accelerate", "launch", "--cpu", "--mixed_precision=fp16", "--num_cpu_threads_per_process=1"]
    assert main(["sd-scripts", "--json", *before, *line]) == 0
    notes = json.loads(capsys.readouterr().out)["notes"]
    told = {
        "accelerate's --num_cpu_threads_per_process=1",
        "accelerate's --mixed_precision=fp16",
        "--verbose",
    }
    assert {note.partition(":")[0] for note in notes[:3]} == told
    with pytest.raises(BadInput, match="--num_processes=4 is not to be had here"):
        read_launch(["accelerate", "launch", "--num_processes=4"], ArgumentParser)
    assert main(["sd-scripts", "bash", *line]) == 2
    assert "bash before resize_lora.py is not to be had here" in capsys.readouterr().err
