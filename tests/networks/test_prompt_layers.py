"""Changes that come and go with the forward pass, against the same changes written into the weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import nn

from lib_ti.networks import prompt_layers
from lib_ti.networks.algebra import IA3, DoRA, Full, LoHa, LowRank, Product, Update
from lib_ti.networks.layers import Layer
from lib_ti.networks.prompt_layers import Change, HungLayers, Rows, SomeRows

RANK = 3


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))) / 3


def low_rank(*shape: int, **more: torch.Tensor) -> LowRank:
    ones = [1] * (len(shape) - 2)
    return LowRank(down=randn(RANK, *shape[1:]), up=randn(shape[0], RANK, *ones), alpha=1.5, **more)


def layer_of(module: nn.Module, **more: object) -> Layer:
    kind = {1: "norm", 2: "linear", 4: "conv"}[module.weight.ndim]
    return Layer("x", "unet", kind, "lierla", 0, module, **more)  # type: ignore[arg-type]


LINEAR, CONV = nn.Linear(8, 12), nn.Conv2d(8, 12, 3, stride=2, padding=1)
NORM = nn.GroupNorm(2, 8)
CASES: dict[str, tuple[nn.Module, tuple[int, ...], Update]] = {
    "linear": (LINEAR, (4, 5, 8), low_rank(12, 8)),
    "time embedding": (LINEAR, (4, 8), low_rank(12, 8)),
    "conv": (CONV, (4, 8, 6, 6), low_rank(12, 8, 3, 3)),
    "conv with bias": (CONV, (4, 8, 6, 6), low_rank(12, 8, 3, 3, bias=randn(12))),
    "tucker": (
        CONV,
        (4, 8, 6, 6),
        LowRank(down=randn(RANK, 8, 1, 1), up=randn(12, RANK, 1, 1), mid=randn(RANK, RANK, 3, 3)),
    ),
    "loha": (
        LINEAR,
        (4, 5, 8),
        LoHa(first=Product(a=randn(12, 2), b=randn(2, 8)), second=Product(a=randn(12, 3), b=randn(3, 8))),
    ),
    "ia3": (LINEAR, (4, 5, 8), IA3(factor=randn(8), on_input=True)),
    "dora": (LINEAR, (4, 5, 8), DoRA(direction=low_rank(12, 8), magnitude=randn(12, 1).abs() + 1)),
    "norm": (NORM, (4, 8, 6, 6), Full(diff=randn(8), bias=randn(8) * 2)),
}


def baked(module: nn.Module, changes: Sequence[tuple[Update, float]]) -> nn.Module:
    """A copy of the module with the changes in its weights."""
    other = copy.deepcopy(module)
    for hooks in (other._forward_hooks, other._forward_pre_hooks, other._forward_hooks_always_called):
        hooks.clear()
    with torch.no_grad():
        for update, weight in changes:
            other.weight += update.delta(module.weight) * weight
            if update.bias is not None:
                other.bias += update.bias * weight
    return other


@pytest.fixture(params=["added", "merged"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways for every case, whatever it costs."""
    monkeypatch.setattr(prompt_layers, "_DEAR", 0.0 if request.param == "merged" else 1e9)
    return request.param


@pytest.mark.parametrize("case", CASES)
def test_a_change_acts_as_if_it_were_in_the_weight(case: str, way: str) -> None:
    module, shape, update = CASES[case]
    x, rows = randn(*shape), [True]
    untouched, before = {k: v.clone() for k, v in module.state_dict().items()}, module(x)
    hung = HungLayers({layer_of(module): [Change(0, update, -0.7)]}, rows, lambda module: None)
    with torch.no_grad():
        torch.testing.assert_close(module(x), baked(module, [(update, -0.7)])(x))
    torch.testing.assert_close(module(x), baked(module, [(update, -0.7)])(x))  # with gradient enabled
    rows[0] = False
    assert torch.equal(module(x), before)
    hung.remove()
    assert "weight" not in vars(module) and not module._forward_hooks and not module._forward_pre_hooks
    assert all(torch.equal(module.state_dict()[k], v) for k, v in untouched.items())


@pytest.mark.parametrize("case", CASES)
def test_networks_on_one_layer_add_up_each_on_its_rows(case: str, way: str) -> None:
    module, shape, update = CASES[case]
    x, other = randn(*shape), copy.deepcopy(update)
    rows: list[Rows] = [True, SomeRows((1, 2), 4)]
    changes = [Change(0, update, 0.5), Change(1, other, 2.0)]
    hung = HungLayers({layer_of(module): changes}, rows, lambda module: None)
    both, one = baked(module, [(update, 0.5), (other, 2.0)]), baked(module, [(update, 0.5)])
    with torch.no_grad():
        torch.testing.assert_close(module(x)[1:3], both(x)[1:3])
        torch.testing.assert_close(module(x)[[0, 3]], one(x)[[0, 3]])
        rows[1] = True
        torch.testing.assert_close(module(x), both(x))
        rows[0] = False
        torch.testing.assert_close(module(x), baked(module, [(other, 2.0)])(x))
    hung.remove()


def test_of_a_picture_in_tiles_every_tile_is_meant() -> None:
    module, update = LINEAR, low_rank(12, 8)
    hung = HungLayers({layer_of(module): [Change(0, update, 1.0)]}, [SomeRows((1,), 2)], lambda module: None)
    x = randn(6, 5, 8)  # two pictures of three tiles
    with torch.no_grad():
        changed = module(x)
    hung.remove()
    torch.testing.assert_close(changed[:3], module(x)[:3])
    torch.testing.assert_close(changed[3:], baked(module, [(update, 1.0)])(x)[3:])


def test_a_weight_that_somebody_else_changes_is_seen(way: str) -> None:
    module, update, x = copy.deepcopy(LINEAR), low_rank(12, 8), randn(4, 8)
    wanted = nn.Parameter(randn(12, 8))

    def refresh(given: nn.Module) -> None:
        assert given is module and "weight" not in vars(module)
        if not torch.equal(module.weight, wanted):
            module.weight.copy_(wanted)

    hung = HungLayers({layer_of(module): [Change(0, update, 1.0)]}, [True], refresh)
    with torch.no_grad():
        for _ in range(2):
            if way == "added":
                refresh(module)  # the other one's own doing
            result = module(x)
            torch.testing.assert_close(result, x @ (wanted + update.delta(wanted)).T + module.bias)
            wanted.add_(1)
    hung.remove()


def test_an_error_in_a_layer_leaves_nothing_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_layers, "_DEAR", 0.0)
    hung = HungLayers({layer_of(LINEAR): [Change(0, low_rank(12, 8), 1.0)]}, [True], lambda module: None)
    with pytest.raises(RuntimeError):
        LINEAR(randn(4, 9))
    assert "weight" not in vars(LINEAR)
    hung.remove()


@pytest.mark.parametrize("call", [lambda a, x: a(x, x, x)[0], lambda a, x: a(x, x, x, need_weights=False)[0]])
def test_fused_projections_of_an_attention(
    call: Callable[[nn.Module, torch.Tensor], torch.Tensor],
) -> None:
    attention, x = nn.MultiheadAttention(8, 2, batch_first=True).eval(), randn(2, 5, 8)
    updates = [low_rank(8, 8), LowRank(down=randn(2, 8), up=randn(8, 2))]
    query = Layer("q", "te", "linear", "lierla", None, attention, "in_proj_weight", slice(0, 8), attention)
    value = Layer("v", "te", "linear", "lierla", None, attention, "in_proj_weight", slice(16, 24), attention)
    out = Layer("o", "te", "linear", "lierla", None, attention.out_proj, attention=attention)
    changes = {
        query: [Change(0, updates[0], 0.5)],
        value: [Change(0, updates[1], 0.5)],
        out: [Change(0, updates[0], 0.5)],
    }
    with torch.no_grad():
        before, reference = call(attention, x), copy.deepcopy(attention)
        reference.in_proj_weight[:8] += updates[0].delta(reference.in_proj_weight[:8]) * 0.5
        reference.in_proj_weight[16:] += updates[1].delta(reference.in_proj_weight[16:]) * 0.5
        reference.out_proj.weight += updates[0].delta(reference.out_proj.weight) * 0.5
        rows = [True]
        hung = HungLayers(changes, rows, lambda module: None)
        torch.testing.assert_close(call(attention, x), call(reference, x))
        assert (call(attention, x) - before).abs().max() > 0.01
        rows[0] = False
        assert torch.equal(call(attention, x), before)
        hung.remove()
