"""Optimizers of torch and of packages: those that are not installed are skipped, their absence is tested."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lib_ti.core.errors import BadInput, JobFailed
from lib_ti.core.job import Job, TrainState
from lib_ti.core.optimizers import (
    KNOWN,
    MODULES,
    make_optimizer,
    parse_arguments,
    restore_state,
    result_of,
    set_rate,
    state_of,
)

# What each of them keeps differs: tensors beside the parameter, counts, numbers in the group, nothing.
RESUMED = [
    ("AdamW", ""),
    ("Adafactor", ""),
    ("Adafactor", "scale_parameter=true beta1=0.9"),
    ("Lion", ""),
    ("Prodigy", ""),
    ("Prodigy", "safeguard_warmup=True use_bias_correction=True"),
    ("AdamWScheduleFree", "warmup_steps=5"),
    ("schedulefree.SGDScheduleFree", ""),
    ("torch.optim.Adam", "amsgrad=True"),
    ("torch.optim.ASGD", ""),
    ("torch.optim.NAdam", ""),
    ("torch.optim.RAdam", ""),
    ("torch.optim.Rprop", ""),
    ("torch.optim.SGD", ""),
    ("torch.optim.SGD", "momentum=0.9"),
]


def parameters() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(2, width, generator=generator).requires_grad_()
        for name, width in (("l", 8), ("g", 5))
    }


def make(name: str, arguments: str, of: dict[str, torch.Tensor], share: float = 1.0) -> torch.optim.Optimizer:
    """``share``: of the rate, for the second parameter."""
    known = KNOWN.get(name)
    pytest.importorskip((known.module if known else name).partition(".")[0])
    return make_optimizer(name, arguments, of, 0.1, {"g": share})


def descend(optimizer: torch.optim.Optimizer, of: dict[str, torch.Tensor], steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        generator = torch.Generator().manual_seed(step)
        for p in of.values():
            ((p - torch.randn(p.shape, generator=generator)) ** 2).sum().backward()
        optimizer.step()


@pytest.mark.parametrize("share", [1.0, 0.25])
@pytest.mark.parametrize(("name", "arguments"), RESUMED)
def test_resumed_from_a_file_it_goes_on_to_the_bit(
    name: str, arguments: str, share: float, tmp_path: Path
) -> None:
    if name == "Prodigy" and share != 1:
        pytest.skip("it finds one rate for all parameters")
    whole = parameters()
    optimizer = make(name, arguments, whole, share)
    descend(optimizer, whole, range(7))
    job = Job(tmp_path)
    job.save_state(
        TrainState(7, {k: p.detach().clone() for k, p in whole.items()}, state_of(optimizer, whole))
    )
    descend(optimizer, whole, range(7, 20))

    saved = job.load_state()
    assert saved is not None
    resumed = {k: saved.parameters[k].clone().requires_grad_() for k in whole}
    second = make(name, arguments, resumed, share)
    restore_state(second, resumed, saved.optimizer)
    descend(second, resumed, range(7, 20))
    for name_ in whole:
        assert torch.equal(whole[name_], resumed[name_])
        assert torch.equal(result_of(optimizer, whole)[name_], result_of(second, resumed)[name_])


@pytest.mark.parametrize(("name", "arguments"), RESUMED)
def test_looking_at_the_result_changes_nothing(name: str, arguments: str) -> None:
    ends = []
    for looks in (False, True):
        of = parameters()
        optimizer = make(name, arguments, of)
        for step in range(12):
            descend(optimizer, of, range(step, step + 1))
            if looks:
                result_of(optimizer, of)
        ends.append(of)
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_schedule_free_gives_its_average() -> None:
    """Its x is y + (1 - 1 / beta1) (z - y), which is not where its gradients are taken."""
    of = parameters()
    optimizer = make("AdamWScheduleFree", "", of)
    descend(optimizer, of, range(12))
    for name, p in of.items():
        z = optimizer.state[p]["z"]
        torch.testing.assert_close(result_of(optimizer, of)[name], p + (1 - 1 / 0.9) * (z - p))
        assert not torch.equal(result_of(optimizer, of)[name], p)


def test_going_back_to_the_beginning_forgets_what_came_after() -> None:
    of = parameters()
    optimizer = make_optimizer("AdamW", "", of, 0.1)
    start = state_of(optimizer, of)
    descend(optimizer, of, range(3))
    restore_state(optimizer, of, start)
    assert not optimizer.state


def test_the_default_is_plain_adamw_without_decay() -> None:
    ours, theirs = parameters(), parameters()
    descend(make_optimizer("AdamW", "", ours, 0.1), ours, range(10))
    descend(torch.optim.AdamW(list(theirs.values()), lr=0.1, weight_decay=0.0), theirs, range(10))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_names_have_no_case_and_arguments_arrive() -> None:
    made = make_optimizer("adamw", "betas=(0.8, 0.99) eps=1e-6 weight_decay=0.01", parameters(), 0.1)
    assert isinstance(made, torch.optim.AdamW)
    assert {key: made.defaults[key] for key in ("betas", "eps", "weight_decay")} == {
        "betas": (0.8, 0.99),
        "eps": 1e-6,
        "weight_decay": 0.01,
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ('{"betas": [0.9, 0.99], "amsgrad": true}', {"betas": (0.9, 0.99), "amsgrad": True}),
        ("betas=(0.9, 0.99) amsgrad=true", {"betas": (0.9, 0.99), "amsgrad": True}),
        ("betas = [0.9,0.99],  eps=1e-6", {"betas": (0.9, 0.99), "eps": 1e-6}),
        ("clip_threshold=1 beta1=None", {"clip_threshold": 1, "beta1": None}),
    ],
)
def test_arguments_are_read_as_literals(text: str, expected: dict[str, Any]) -> None:
    assert parse_arguments(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "eps",
        "eps=",
        "eps=__import__('os').getpid()",
        "eps=2**8",
        "eps=os.sep",
        "{eps: 1}",
        '{"eps": 1',
        "betas=" + "(" * 5000,
        "betas=" + "-" * 100_000 + "1",
    ],
)
def test_arguments_are_never_code(text: str) -> None:
    with pytest.raises(BadInput, match="optimizer-args: cannot read"):
        parse_arguments(text)


@pytest.mark.parametrize("text", ["lr=1", '{"params": []}'])
def test_the_rate_is_not_an_argument(text: str) -> None:
    with pytest.raises(BadInput, match="is not an argument here"):
        parse_arguments(text)


@pytest.mark.parametrize("arguments", ["colour=1", "betas=(2, 0.9)", "betas=1", "eps=-1"])
def test_an_argument_the_optimizer_refuses_is_told_in_a_sentence(arguments: str) -> None:
    with pytest.raises(BadInput, match="optimizer AdamW refuses"):
        make_optimizer("AdamW", arguments, parameters(), 0.1)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Adam2",
        "os.system",
        "subprocess.Popen",
        "torch.hub.load",
        "torch.optim.swa_utils.AveragedModel",
        "torch.optim.lr_scheduler.StepLR",
        "torch.optim._functional.adam",
        "torch.optim.__loader__",
        "lib_ti.core.loop.Loop",
        "..torch.optim.Adam",
        "torch.optim",
    ],
)
def test_nothing_but_optimizers_of_known_packages_is_imported(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(module: str) -> None:
        raise AssertionError(f"imported {module}")

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(BadInput, match=r"optimizer: got .* expected one of AdamW, .* torch\.optim\.RAdam"):
        make_optimizer(name, "", parameters(), 0.1)


@pytest.mark.parametrize(
    "name", ["torch.optim.Nothing", "torch.optim.lr_scheduler", "transformers.optimization.AdamW8"]
)
def test_what_is_no_optimizer_is_refused(name: str) -> None:
    if name.startswith("transformers"):
        pytest.importorskip("transformers")
    with pytest.raises(BadInput, match="has no optimizer"):
        make_optimizer(name, "", parameters(), 0.1)


@pytest.mark.parametrize("name", ["torch.optim.LBFGS", "torch.optim.SparseAdam"])
def test_what_needs_another_loop_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match="does not fit one dense gradient a step"):
        make_optimizer(name, "", parameters(), 0.1)


def test_every_known_one_is_of_an_allowed_module() -> None:
    assert {known.module for known in KNOWN.values()} <= set(MODULES)


@pytest.mark.parametrize("name", [name for name, known in KNOWN.items() if known.module != "torch.optim"])
def test_a_missing_package_is_named_with_a_remedy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = KNOWN[name].module
    package = module.partition(".")[0]
    for part in {module, package}:
        monkeypatch.setitem(sys.modules, part, None)  # what makes Python say that there is none
    with pytest.raises(
        BadInput, match=rf"needs the package {package.replace('_', '-')}, which .*choose AdamW"
    ):
        make_optimizer(name, "", parameters(), 0.1)


def test_a_state_that_cannot_be_saved_stops_the_job() -> None:
    of = parameters()
    optimizer = make_optimizer("AdamW", "", of, 0.1)
    optimizer.state[of["l"]]["history"] = []
    with pytest.raises(JobFailed, match="AdamW keeps a list"):
        state_of(optimizer, of)


def test_every_parameter_learns_at_its_share_of_the_rate() -> None:
    """AdamW's first step moves every element by the rate."""
    of = parameters()
    first, second = of
    optimizer = make_optimizer("AdamW", "", of, 1.0, {second: 0.25})
    set_rate(optimizer, 0.1)
    before = {name: p.detach().clone() for name, p in of.items()}
    descend(optimizer, of, range(1, 2))
    for name, rate in ((first, 0.1), (second, 0.025)):
        moved = (of[name].detach() - before[name]).abs()
        torch.testing.assert_close(moved, torch.full_like(moved, rate), rtol=1e-4, atol=0)
