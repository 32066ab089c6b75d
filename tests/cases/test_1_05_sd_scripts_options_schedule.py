"""An lr scheduler of a line of sd-scripts: the rate of every step is the one that it has there."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lib_ti.cli import build_parser, main
from lib_ti.commands.sd_scripts import translate, words_of
from lib_ti.commands.shared import given_settings
from lib_ti.core.errors import BadInput
from lib_ti.core.schedule import learning_rate_of
from lib_ti.core.train_settings import LearningSettings
from lib_ti.methods.kind import JobSettings
from lib_ti.methods.registry import read_settings

LINE = [
    *("train_textual_inversion.py", "--pretrained_model_name_or_path=builtin", "--token_string=zqx-word"),
    *("--train_data_dir=data", "--max_train_steps=20", "--learning_rate=0.01"),
]
STEPS, RATE = 20, 0.01


def settings_of(*options: str) -> JobSettings:
    words = words_of(translate([*LINE, *options], Path()).ours)
    return read_settings(given_settings(build_parser().parse_args(["train", *words])))


def rates(*options: str) -> list[float]:
    settings = settings_of(*options)
    return [learning_rate_of(settings).at(step) for step in range(1, STEPS + 1)]


def theirs(make: Callable[..., Any], **arguments: Any) -> list[float]:
    """What a scheduler of transformers, diffusers or PyTorch makes of the rate, step by step."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=RATE)
    scheduler, found = make(optimizer, **arguments), []
    for _ in range(STEPS):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(
    ("options", "maker", "arguments"),
    [
        ("linear --lr_warmup_steps=4", "linear_schedule_with_warmup",
         {"num_warmup_steps": 4, "num_training_steps": STEPS}),
        ("cosine --lr_warmup_steps=0.29", "cosine_schedule_with_warmup",
         {"num_warmup_steps": 5, "num_training_steps": STEPS}),
        ("cosine --lr_scheduler_args num_cycles=1.5", "cosine_schedule_with_warmup",
         {"num_warmup_steps": 0, "num_training_steps": STEPS, "num_cycles": 1.5}),
        ("cosine_with_restarts --lr_scheduler_num_cycles=3",
         "cosine_with_hard_restarts_schedule_with_warmup",
         {"num_warmup_steps": 0, "num_training_steps": STEPS, "num_cycles": 3}),
        ("polynomial --lr_scheduler_power=2 --lr_scheduler_args lr_end=0.002",
         "polynomial_decay_schedule_with_warmup",
         {"num_warmup_steps": 0, "num_training_steps": STEPS, "power": 2, "lr_end": 0.002}),
        ("polynomial --lr_warmup_steps=10%", "polynomial_decay_schedule_with_warmup",
         {"num_warmup_steps": 2, "num_training_steps": STEPS}),
        ("cosine_with_min_lr --lr_scheduler_min_lr_ratio=0.1 --lr_scheduler_num_cycles=3 --lr_warmup_steps=3",
         "cosine_with_min_lr_schedule_with_warmup",
         {"num_warmup_steps": 3, "num_training_steps": STEPS, "num_cycles": 1.5, "min_lr_rate": 0.1}),
        ("cosine_with_min_lr --lr_scheduler_args min_lr=0.004", "cosine_with_min_lr_schedule_with_warmup",
         {"num_warmup_steps": 0, "num_training_steps": STEPS, "min_lr": 0.004}),
        ("inverse_sqrt --lr_warmup_steps=4", "inverse_sqrt_schedule", {"num_warmup_steps": 4}),
        ("inverse_sqrt --lr_scheduler_timescale=50", "inverse_sqrt_schedule",
         {"num_warmup_steps": 0, "timescale": 50}),
        ("constant_with_warmup --lr_warmup_steps=5", "constant_schedule_with_warmup",
         {"num_warmup_steps": 5}),
        ("warmup_stable_decay --lr_warmup_steps=4 --lr_decay_steps=8 --lr_scheduler_min_lr_ratio=0.2",
         "wsd_schedule",
         {"num_warmup_steps": 4, "num_decay_steps": 8, "num_stable_steps": 8, "min_lr_ratio": 0.2}),
        ("warmup_stable_decay --lr_decay_steps=0.5 --lr_scheduler_args decay_type='1-sqrt'", "wsd_schedule",
         {"num_warmup_steps": 0, "num_decay_steps": 10, "num_stable_steps": 10, "decay_type": "1-sqrt"}),
        ("warmup_stable_decay --lr_warmup_steps=6 --lr_scheduler_args warmup_type=cosine", "wsd_schedule",
         {"num_warmup_steps": 6, "num_decay_steps": 0, "num_stable_steps": 14, "warmup_type": "cosine"}),
    ],
)  # fmt: skip
def test_named_schedulers_are_those_of_transformers(
    options: str, maker: str, arguments: dict[str, Any]
) -> None:
    make = getattr(importlib.import_module("transformers.optimization"), f"get_{maker}", None)
    if make is None:
        pytest.skip("this transformers has no such scheduler")
    assert rates("--lr_scheduler", *options.split()) == pytest.approx(theirs(make, **arguments), abs=1e-12)


def test_piecewise_constant_is_that_of_diffusers() -> None:
    optimization = pytest.importorskip("diffusers.optimization")
    rules = "1:4,0.1:9,0.05"
    found = rates("--lr_scheduler=piecewise_constant", "--lr_scheduler_args", f"step_rules='{rules}'")
    make = optimization.get_piecewise_constant_schedule
    assert found == pytest.approx(theirs(make, step_rules=rules), abs=1e-12)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("CosineAnnealingLR", {"T_max": 10, "eta_min": 0.001}),
        ("torch.optim.lr_scheduler.CosineAnnealingWarmRestarts", {"T_0": 6}),
        ("torch.optim.lr_scheduler.OneCycleLR",
         {"max_lr": 0.02, "total_steps": 20, "cycle_momentum": False}),
        ("MultiStepLR", {"milestones": [3, 9], "gamma": 0.5}),
        ("transformers.get_linear_schedule_with_warmup", {"num_warmup_steps": 3, "num_training_steps": 30}),
    ],
)  # fmt: skip
def test_a_class_by_its_name_is_that_class(name: str, args: dict[str, Any]) -> None:
    module, _, kind = name.rpartition(".") if "." in name else ("torch.optim.lr_scheduler", "", name)
    make = getattr(importlib.import_module(module), kind)
    words = [f"{key}={str(value).replace(' ', '')}" for key, value in args.items()]
    options = (f"--lr_scheduler_type={name}", "--lr_scheduler_args", *words)
    assert rates(*options) == theirs(make, **args)


def test_adafactor_takes_its_own_rate_and_the_bits_are_its_own() -> None:
    optimization = pytest.importorskip("transformers.optimization")
    for arg in ("relative_step=True", "warmup_init=True"):
        settings = settings_of("--optimizer_type=Adafactor", "--optimizer_args", arg)
        assert settings.optimizer_args == "scale_parameter=True"
        rate = learning_rate_of(replace(settings, steps=30_000))
        weight = torch.nn.Parameter(torch.zeros(3, 2))
        own = optimization.Adafactor([weight], lr=None, warmup_init=arg == "warmup_init=True")
        group = {**own.param_groups[0], "scale_parameter": False}
        for step in (1, 2, 9_999, 10_000, 10_001, 25_000):
            assert rate.at(step) == pytest.approx(own._get_lr(group, {"step": step, "RMS": 1}), rel=1e-12)
    fixed = settings_of("--optimizer_type=adafactor", "--optimizer_args", "relative_step=False")
    assert (fixed.decay, fixed.learning_rate, fixed.optimizer_args) == (
        "constant",
        "0.01",
        "scale_parameter=True",
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--lr_scheduler=consine", "perhaps 'cosine' is meant"),
        ("--lr_scheduler=reduce_lr_on_plateau", "fails there too, .* --stop-rule plateau"),
        ("--lr_scheduler=cosine_warmup_with_min_lr", "fails there too; use cosine_with_min_lr"),
        ("--lr_scheduler=adafactor:0.001", "--optimizer_type=Adafactor"),
        ("--lr_scheduler=cosine_with_min_lr", "expected --lr_scheduler_min_lr_ratio"),
        ("--lr_scheduler=cosine --lr_scheduler_args lr_end=0", "takes num_cycles"),
        ("--lr_scheduler=polynomial --learning_rate=1e-8", "below the 1e-08"),
        ("--lr_scheduler=warmup_stable_decay --lr_scheduler_args decay_type=x", "1-sqrt"),
        ("--lr_scheduler=piecewise_constant", "step_rules"),
        ("--lr_scheduler_type=StepLR --lr_warmup_steps=5", "beside --lr_scheduler_type fails there too"),
        ("--lr_scheduler_args linear", "expected name=value"),
        ("--lr_warmup_steps=1.5", "a number of steps"),
    ],
)  # fmt: skip
def test_what_fails_there_or_is_not_to_be_had_is_refused(options: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        translate([*LINE, *options.split()], Path())


@pytest.mark.parametrize(
    ("name", "args", "said"),
    [
        ("os.system", "", "expected a class by its full name"),
        ("torch.optim.lr_scheduler.os", "", "has no lr scheduler os"),
        ("torch.optim.lr_scheduler.LambdaLR", "lr_lambda='x'", "refuses its arguments"),
        ("StepLR", "step_size=0", "refuses its arguments"),
        ("StepLR", "optimizer=3", "optimizer is not an argument"),
        ("StepLR", "step_size=1 gamma=1e300", "step 3 a learning rate of inf"),
        ("CyclicLR", "base_lr=0.1 max_lr=0.2", "cycle_momentum=False"),
        ("OneCycleLR", "max_lr=0.1 total_steps=5 cycle_momentum=False", "in a job of 20 steps"),
        ("ReduceLROnPlateau", "", "waits for losses"),
        ("LRScheduler", "", "refuses its arguments"),
    ],
)  # fmt: skip
def test_a_class_that_does_not_do_is_refused_before_the_start(name: str, args: str, said: str) -> None:
    settings = LearningSettings(steps=STEPS, learning_rate="0.1", scheduler=name, scheduler_args=args)
    with pytest.raises(BadInput, match=said):
        learning_rate_of(settings)


def test_what_a_scheduler_ignores_is_told() -> None:
    told = translate([*LINE, "--optimizer_type=AdamWScheduleFree", "--lr_scheduler=cosine"], Path()).told
    assert any("a schedule-free optimizer has no scheduler" in sentence for sentence in told)
    told = translate([*LINE, "--lr_scheduler_type=StepLR", "--lr_scheduler=cosine"], Path()).told
    assert any("--lr_scheduler_type takes its place" in sentence for sentence in told)


def test_the_rates_reach_the_loop(
    pictures: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step's rate, as it was written beside its loss."""
    monkeypatch.chdir(tmp_path)
    line = [*LINE, f"--train_data_dir={pictures}", "--use_object_template", "--resolution=64"]
    line += ["--lr_scheduler_type=CosineAnnealingLR", "--lr_scheduler_args", "T_max=20", "eta_min=0.001"]
    assert main(["sd-scripts", "--json", "--device", "cpu", *line]) == 0
    job = json.loads(capsys.readouterr().out)["job"]
    written = (tmp_path / ".ti-studio/jobs" / job / "loss.csv").read_text().splitlines()[1:]
    expected = theirs(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=20, eta_min=0.001)
    assert [float(row.split(",")[2]) for row in written] == pytest.approx(expected, rel=1e-5)
