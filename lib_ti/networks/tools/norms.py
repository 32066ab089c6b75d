"""How much a network changes a layer: Frobenius norms, from factors that a stranger may have written.

Nothing is formed that is larger than the factors, but for a few rows at a time.
"""

from __future__ import annotations

import math

import torch

from lib_ti.networks.algebra import Full, LoHa, LoKr, LowRank, Product, Update

_AT_ONCE = 1 << 20  # numbers of a product


def norm_of(update: Update) -> float | None:
    """The Frobenius norm of the change, without a bias; None where it depends on the weight."""
    if isinstance(update, LowRank):
        product = _norm_of_product(update.up.flatten(1), update.down.flatten(1), update.mid)
        return product * abs(update.scale)
    if isinstance(update, LoHa):
        return _norm_of_hadamard(update.first, update.second) * abs(update.scale)
    if isinstance(update, LoKr):
        return _norm(update.first) * _norm(update.second) * abs(update.scale)
    return float(update.diff.double().norm()) if isinstance(update, Full) else None


def _norm(product: Product) -> float:
    if product.b is None:
        return float(product.a.double().norm())
    left = product.a if product.core is None else product.a.T
    return _norm_of_product(left, product.b, product.core)


def _norm_of_product(left: torch.Tensor, right: torch.Tensor, core: torch.Tensor | None) -> float:
    """Of ``left`` (p, r) @ ``right`` (s, q), or of the Tucker form with ``core`` (r, s, k, k) between."""
    left, right = left.double(), right.double()
    if core is None:
        one = other = right
    else:
        one = other = core.double().flatten(2)
        one, other = _multiplied(one, other, right.T, 1)
    one, other = _multiplied(one, other, left, 0)
    return math.sqrt(max(0.0, float((one * other).sum())))


def _multiplied(
    one: torch.Tensor, other: torch.Tensor, factor: torch.Tensor, dim: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two whose inner product is that of both after ``factor`` (n, r) on dimension ``dim``, of r numbers: by
    the factor itself where that makes them smaller, else by its Gram matrix on one of them."""
    if len(factor) < factor.shape[1]:
        return _along(one, factor, dim), _along(other, factor, dim)
    return one, _along(other, factor.T @ factor, dim)


def _along(tensor: torch.Tensor, matrix: torch.Tensor, dim: int) -> torch.Tensor:
    return torch.tensordot(matrix, tensor, dims=([1], [dim])).movedim(0, dim)


def _norm_of_hadamard(first: Product, second: Product) -> float:
    """Of the products' product, number by number."""
    rows, columns = first.rows, first.columns
    if first.core is None and second.core is None and first.b is not None and second.b is not None:
        ranks = len(first.b), len(second.b)
        rank = math.prod(ranks)
        if (rows + columns) * rank**2 < rows * columns * sum(ranks):
            # (a b) * (c d) is a product of rank r s: of all columns of a times all of c, row by row.
            left = torch.einsum("pr,ps->prs", first.a.double(), second.a.double())
            right = torch.einsum("rq,sq->rsq", first.b.double(), second.b.double())
            return _norm_of_product(left.flatten(1), right.flatten(0, 1), None)
    step, square = max(1, _AT_ONCE // columns), 0.0
    for start in range(0, rows, step):
        part = slice(start, start + step)
        square += float((first.value(part) * second.value(part)).double().square().sum())
    return math.sqrt(square)
