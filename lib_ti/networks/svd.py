"""The best approximation of a matrix by one of low rank (Eckart and Young, 1936), and which rank to take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from lib_ti.core.errors import BadInput


@dataclass(frozen=True)
class Svd:
    """``u`` (out, r), ``s`` (r,) falling, ``vh`` (r, in): the matrix is u @ diag(s) @ vh."""

    u: torch.Tensor
    s: torch.Tensor
    vh: torch.Tensor

    def factors(self, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
        """up (out, rank) and down (rank, in), float32, whose product is nearest to the matrix."""
        up = self.u[:, :rank] * self.s[:rank]
        return up.float().contiguous(), self.vh[:rank].float().contiguous()


def svd_of(matrix: torch.Tensor) -> Svd:
    """By the eigenvectors of the smaller Gram matrix in float64, on the device of ``matrix``.

    Singular values below 1e-8 of the largest are lost; to an SVD in float32 those below 1e-7 are, and it
    takes several times as long.
    """
    if len(matrix) > matrix.shape[1]:
        other = svd_of(matrix.T)
        return Svd(other.vh.T, other.s, other.u.T)
    matrix = _in_double(matrix)
    squares, vectors = torch.linalg.eigh(matrix @ matrix.T)
    u, s = vectors.flip(1), squares.flip(0).clamp_min(0).sqrt()
    # The numbers that rounding leaves of a zero have no direction.
    inverse = torch.where(s > 1e-8 * s[0], 1 / s, 0)
    return Svd(u, s, inverse[:, None] * (u.T @ matrix))


def svd_of_product(up: torch.Tensor, down: torch.Tensor) -> Svd:
    """Of ``up`` (out, r) @ ``down`` (r, in), exactly and at the cost of the ranks alone."""
    left, left_core = torch.linalg.qr(_in_double(up))
    right, right_core = torch.linalg.qr(_in_double(down).T)
    u, s, vh = torch.linalg.svd(left_core @ right_core.T)
    kept = min(len(u), len(vh))
    return Svd(left @ u[:, :kept], s, vh[:kept] @ right.T)


def _in_double(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.cpu().double() if tensor.device.type == "mps" else tensor.double()


def clamped(up: torch.Tensor, down: torch.Tensor, quantile: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Both with their outliers cut to the ``quantile`` of all their numbers; 1 leaves them as they are.

    Source: cloneofsimo/lora, discussion 56.
    """
    if quantile >= 1:
        return up, down
    numbers = torch.cat([up.flatten(), down.flatten()])
    # As torch.quantile, which takes no more than 2**24 numbers.
    place = quantile * (len(numbers) - 1)
    low = numbers.kthvalue(int(place) + 1).values
    high = numbers.kthvalue(min(int(place) + 2, len(numbers))).values
    most = torch.lerp(low, high, place - int(place))
    return up.clamp(-most, most), down.clamp(-most, most)


# Which singular values to keep -> how many: s (r,) falling, and the parameter.
METHODS: Mapping[str, Callable[[torch.Tensor, float], int]] = {
    "fixed": lambda s, _: len(s),
    "sv_ratio": lambda s, least: int((s > s[0] / least).sum()),
    "sv_cumulative": lambda s, share: _first_reaching(s.cumsum(0), share),
    "sv_fro": lambda s, share: _first_reaching(s.square().cumsum(0).sqrt(), share),
}
_RANGES = {"sv_ratio": (1.0, float("inf")), "sv_cumulative": (0.0, 1.0), "sv_fro": (0.0, 1.0)}


def _first_reaching(sums: torch.Tensor, share: float) -> int:
    return int((sums < share * sums[-1]).sum()) + 1


def check_method(method: str, parameter: float | None) -> None:
    """Raises BadInput where ``parameter`` is not what ``method`` needs."""
    low, high = _RANGES.get(method, (None, None))
    if low is None or high is None:
        return
    if parameter is None or not low < parameter <= high:
        expected = "a number above 1" if high == float("inf") else "a share above 0 and up to 1"
        raise BadInput(f"{method} got the parameter {parameter}; expected {expected}.")


def rank_for(s: torch.Tensor, most: int, method: str = "fixed", parameter: float = 1.0) -> int:
    """How many of the singular values ``s`` to keep: 1 to ``most``.

    ``sv_ratio``: those above the largest one divided by the parameter. ``sv_cumulative``: as few as sum to
    that share of all. ``sv_fro``: as few as hold that share of the Frobenius norm.
    """
    return max(1, min(most, METHODS[method](s, parameter)))
