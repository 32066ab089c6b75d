from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lib_ti.core.errors import BadInput
from lib_ti.networks.algebra import truncated
from lib_ti.networks.files import read_network
from lib_ti.networks.tools.resize import Resizing, cut_dylora, resized
from lib_ti.networks.tools.saving import save_network
from tests.networks.tools.made import builtin, delta, lora, randn

CHECKPOINT = builtin()
NETWORK = lora(CHECKPOINT, 6, 3.0, seed=1)
SHAPES = {name: CHECKPOINT.shape(CHECKPOINT.layers[name]) for name in NETWORK.updates}


def test_each_layer_is_the_nearest_at_its_rank_and_keeps_its_scale() -> None:
    updates, kept = resized(NETWORK, Resizing(3, 2))
    for name, update in updates.items():
        rank = 2 if SHAPES[name][2:] == (3, 3) else 3
        assert update.rank == rank and update.scale == pytest.approx(0.5)
        matrix = delta(NETWORK, name, SHAPES[name]).flatten(1)
        s = torch.linalg.svdvals(matrix.double())
        error = (delta(updates, name, SHAPES[name]).flatten(1) - matrix).norm()
        assert float(error) == pytest.approx(float(s[rank:].norm()), rel=1e-4)
        assert kept[name] == pytest.approx(float(s[:rank].norm() / s.norm()), rel=1e-5)


def test_what_loses_nothing_keeps_its_factors() -> None:
    updates, kept = resized(NETWORK, Resizing(6, 6))
    assert all(updates[name] is NETWORK.updates[name] for name in updates)
    assert set(kept.values()) == {1.0}


@pytest.mark.parametrize("method", ["sv_ratio", "sv_fro", "sv_cumulative"])
def test_the_rank_follows_the_singular_values(method: str) -> None:
    parameter = {"sv_ratio": 1.5, "sv_fro": 0.9, "sv_cumulative": 0.7}[method]
    updates, _ = resized(NETWORK, Resizing(5, 5, method, parameter))
    for name, update in updates.items():
        s = torch.linalg.svdvals(delta(NETWORK, name, SHAPES[name]).flatten(1).double())[:6]

        def enough(rank: int, s: torch.Tensor = s) -> bool:
            if method == "sv_ratio":
                return rank == 6 or bool(s[rank] <= s[0] / parameter)
            power = 2 if method == "sv_fro" else 1
            sums = (s**power).sum() ** (1 / power)
            return bool((s[:rank] ** power).sum() ** (1 / power) >= parameter * sums)

        smallest = next(rank for rank in range(1, 7) if enough(rank))
        assert update.rank == min(5, smallest)


def test_a_dylora_is_cut_at_every_rank_the_top_one_too(tmp_path: Path) -> None:
    """An extracted file is what a prompt makes of the whole one at that rank, bit for bit."""
    x, module = randn(3, 64, seed=5), torch.nn.Linear(64, 64)
    name = next(name for name, shape in SHAPES.items() if shape == (64, 64))
    cuts = dict(cut_dylora(NETWORK, 4))
    assert list(cuts) == [4, 6]
    for rank in (1, 4, 5, 6):
        path = tmp_path / f"{rank}.safetensors"
        save_network(path, NETWORK.truncated(rank).updates, None, {})
        extracted = read_network(path)
        for layer, update in NETWORK.updates.items():
            called, weight = truncated(update, rank), torch.empty(SHAPES[layer])
            assert extracted.updates[layer].rank == rank
            assert torch.equal(extracted.updates[layer].delta(weight), called.delta(weight))
        called = truncated(NETWORK.updates[name], rank)
        assert torch.equal(extracted.updates[name].forward(x, module), called.forward(x, module))


def test_the_scale_of_a_cut_is_that_of_training() -> None:
    for rank, cut in cut_dylora(NETWORK, 2):
        assert {update.scale for update in cut.updates.values()} == {3.0 / rank}
    for unit in (0, 7):
        with pytest.raises(BadInput, match="expected 1 to 6"):
            list(cut_dylora(NETWORK, unit))
