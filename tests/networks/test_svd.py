from __future__ import annotations

import pytest
import torch

from lib_ti.core.errors import BadInput
from lib_ti.networks.svd import Svd, check_method, clamped, rank_for, svd_of, svd_of_product


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def whole(svd: Svd) -> torch.Tensor:
    return svd.u * svd.s @ svd.vh


@pytest.mark.parametrize("shape", [(12, 12), (5, 40), (40, 5), (1, 7)])
def test_the_decomposition_is_that_of_the_library(shape: tuple[int, int]) -> None:
    matrix = randn(*shape)
    svd, expected = svd_of(matrix), torch.linalg.svdvals(matrix.double())
    assert torch.allclose(svd.s, expected, rtol=1e-7)
    assert torch.allclose(whole(svd), matrix.double(), atol=1e-7)
    eye = torch.eye(min(shape), dtype=torch.float64)
    assert torch.allclose(svd.u.T @ svd.u, eye, atol=1e-6)
    assert torch.allclose(svd.vh @ svd.vh.T, eye, atol=1e-6)


def test_it_is_more_exact_than_one_in_single_precision() -> None:
    """Singular values over five orders of magnitude, as differences of models have them."""
    s = torch.logspace(0, -5, 96, dtype=torch.float64)
    u, v = (torch.linalg.qr(randn(96, 96, seed=seed).double())[0] for seed in (1, 2))
    matrix = u * s @ v.T
    single = torch.linalg.svdvals(matrix.float()).double()
    assert (svd_of(matrix).s - s).abs().max() < 1e-9 < (single - s).abs().max()


def test_a_product_is_decomposed_without_being_formed() -> None:
    for out, rank, wide in ((9, 3, 20), (4, 6, 30), (30, 6, 4)):
        up, down = randn(out, rank), randn(rank, wide, seed=1)
        svd = svd_of_product(up, down)
        assert len(svd.s) == min(out, rank, wide)
        assert torch.allclose(whole(svd), (up @ down).double(), atol=1e-6)
        assert torch.allclose(svd.s, torch.linalg.svdvals((up @ down).double())[: len(svd.s)], atol=1e-6)


def test_what_has_less_rank_and_what_is_zero() -> None:
    matrix = randn(20, 3) @ randn(3, 30, seed=1)
    up, down = svd_of(matrix).factors(3)
    assert (up @ down - matrix).abs().max() < 1e-5
    up, down = svd_of(matrix).factors(8)
    assert (up @ down - matrix).abs().max() < 1e-5
    assert torch.equal(whole(svd_of(torch.zeros(4, 6))), torch.zeros(4, 6, dtype=torch.float64))


def test_the_clamp_is_the_quantile() -> None:
    up, down = randn(50, 4), randn(4, 70, seed=1)
    most = torch.quantile(torch.cat([up.flatten(), down.flatten()]), 0.9)
    cut = clamped(up, down, 0.9)
    assert torch.allclose(cut[0], up.clamp(-most, most)) and torch.allclose(cut[1], down.clamp(-most, most))
    same = clamped(up, down, 1.0)
    assert same[0] is up and same[1] is down


S = torch.tensor([8.0, 4.0, 2.0, 1.0, 1.0])


@pytest.mark.parametrize(
    ("method", "parameter", "kept"),
    [
        ("fixed", None, 4),
        ("sv_ratio", 2.0, 1),  # above 4
        ("sv_ratio", 2.1, 2),
        ("sv_ratio", 100.0, 4),  # no more than asked for
        ("sv_cumulative", 0.5, 1),  # 8 of 16
        ("sv_cumulative", 0.51, 2),
        ("sv_cumulative", 0.875, 3),
        ("sv_fro", 0.95, 2),  # sqrt(80 / 86) = 0.9645
        ("sv_fro", 0.97, 3),
    ],
)
def test_the_rank(method: str, parameter: float, kept: int) -> None:
    check_method(method, parameter)
    assert rank_for(S, 4, method, parameter) == kept
    assert rank_for(torch.zeros(5), 4, method, parameter) == (4 if method == "fixed" else 1)


def test_parameters_out_of_range_are_refused() -> None:
    for method, parameter in (("sv_ratio", 1.0), ("sv_fro", 0.0), ("sv_cumulative", 1.1), ("sv_fro", None)):
        with pytest.raises(BadInput, match=method):
            check_method(method, parameter)
