from __future__ import annotations

import pytest
import torch

from lib_ti.core.errors import BadInput
from lib_ti.networks.algebra import LoHa, LowRank, Product
from lib_ti.networks.files import Network
from lib_ti.networks.tools.combine import Term, add, add_at_rank
from tests.networks.tools.made import builtin, delta, lora, randn

CHECKPOINT = builtin()
ONE = lora(CHECKPOINT, 4, 1.0, seed=1, name="one")
OTHER = lora(CHECKPOINT, 3, 6.0, seed=1000, conv=False, name="other")
SHAPES = {name: CHECKPOINT.shape(CHECKPOINT.layers[name]) for name in ONE.updates}


def expected(name: str, ratios: tuple[float, float]) -> torch.Tensor:
    parts = [
        delta(network, name, SHAPES[name]) * ratio
        for network, ratio in zip((ONE, OTHER), ratios, strict=True)
        if name in network.updates
    ]
    return torch.stack(parts).sum(0)


@pytest.mark.parametrize("ratios", [(1.0, 1.0), (0.8, 0.5), (1.0, -1.0), (0.0, -2.0)])
@pytest.mark.parametrize("shuffled", [False, True])
def test_the_sum_is_exact_and_ranks_add_up(ratios: tuple[float, float], shuffled: bool) -> None:
    """Linear layers and convolutions, of networks that differ in rank, alpha and layers."""
    terms = [Term(network, ratio) for network, ratio in zip((ONE, OTHER), ratios, strict=True)]
    updates = add(terms, torch.Generator().manual_seed(0) if shuffled else None)
    assert updates.keys() == ONE.updates.keys()
    for name, update in updates.items():
        wanted = expected(name, ratios)
        assert torch.allclose(delta(updates, name, SHAPES[name]), wanted, rtol=1e-5, atol=1e-6)
        assert update.rank == (7 if name in OTHER.updates else 4)
        assert update.fits(SHAPES[name])


def test_shuffled_rows_cannot_be_cut_out_again() -> None:
    name = next(iter(OTHER.updates))
    terms = [Term(ONE, 1.0), Term(OTHER, 1.0)]
    plain, shuffled = add(terms)[name], add(terms, torch.Generator().manual_seed(0))[name]
    assert not torch.allclose(plain.truncated(4).delta(torch.empty(SHAPES[name])),
                              shuffled.truncated(4).delta(torch.empty(SHAPES[name])), atol=1e-3)  # fmt: skip
    assert sorted(plain.down[:, 0].tolist()) == sorted(shuffled.down[:, 0].tolist())


def test_at_a_rank_that_holds_the_sum_nothing_is_lost() -> None:
    updates = add_at_rank([Term(ONE, 0.8), Term(OTHER, -0.5)], 7)
    for name in updates:
        wanted = expected(name, (0.8, -0.5))
        assert torch.allclose(delta(updates, name, SHAPES[name]), wanted, rtol=1e-4, atol=1e-5)


def test_below_it_is_the_nearest_of_that_rank() -> None:
    updates = add_at_rank([Term(ONE, 1.0), Term(OTHER, 1.0)], 2, 1)
    for name, update in updates.items():
        matrix = expected(name, (1.0, 1.0)).flatten(1)
        rank = 1 if SHAPES[name][2:] == (3, 3) else 2
        assert update.rank == rank and update.alpha == rank and update.fits(SHAPES[name])
        least = torch.linalg.svdvals(matrix.double())[rank:].norm()
        error = (delta(updates, name, SHAPES[name]).flatten(1) - matrix).norm()
        assert float(error) == pytest.approx(float(least), rel=1e-4)


def test_without_a_rank_each_layer_keeps_its_largest() -> None:
    updates = add_at_rank([Term(ONE, 1.0), Term(OTHER, 1.0)], None)
    assert {update.rank for update in updates.values()} == {4}


def test_biases_are_added() -> None:
    up, down, bias = randn(6, 2, seed=0), randn(2, 5, seed=1), randn(6, seed=2)
    one = Network("a", "sd1", {"x": LowRank(up=up, down=down, bias=bias)})
    two = Network("b", "sd1", {"x": LowRank(up=up, down=down)})
    for updates in (add([Term(one, 0.5), Term(two, 1.0)]), add_at_rank([Term(one, 0.5), Term(two, 1.0)], 2)):
        assert torch.allclose(updates["x"].bias, bias * 0.5)
        assert torch.allclose(updates["x"].delta(torch.empty(6, 5)), up @ down * 1.5, atol=1e-5)


def test_a_tucker_core_is_multiplied_in() -> None:
    update = LowRank(
        up=randn(6, 3, 1, 1, seed=0), down=randn(3, 5, 1, 1, seed=1), mid=randn(3, 3, 3, 3, seed=2), alpha=1.5
    )
    updates = add([Term(Network("a", "sd1", {"x": update}), 2.0)])
    weight = torch.empty(6, 5, 3, 3)
    assert updates["x"].mid is None
    assert torch.allclose(updates["x"].delta(weight), update.delta(weight) * 2, atol=1e-5)


def test_what_cannot_be_added_is_refused_by_name() -> None:
    factors = Product(a=randn(6, 2, seed=0), b=randn(2, 5, seed=1))
    loha = Network("soft", "sd1", {"x": LoHa(first=factors, second=factors)})
    with pytest.raises(BadInput, match="soft changes x by LoHa"):
        add([Term(loha, 1.0)])
    small = Network("a", "sd1", {"x": LowRank(up=randn(6, 2, seed=0), down=randn(2, 5, seed=1))})
    large = Network("b", "sd1", {"x": LowRank(up=randn(6, 2, seed=0), down=randn(2, 8, seed=1))})
    with pytest.raises(BadInput, match="different families: x is 6 x 5 and 6 x 8"):
        add([Term(small, 1.0), Term(large, 1.0)])
