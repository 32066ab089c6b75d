"""Aspect-ratio buckets: the sizes that pictures are brought to, and what each picture loses by it.

Sizes and choice are those of sd-scripts, so that a data set falls into the same buckets there and here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from lib_ti.core.errors import BadInput

Size = tuple[int, int]  # width, height in pixels


def bucket_sizes(width: int, height: int, low: int, high: int, step: int) -> list[Size]:
    """Sizes of at most ``width`` x ``height`` pixels, both sides multiples of ``step`` in low..high, and
    the square; sorted."""
    area = width * height
    side = math.isqrt(area) // step * step
    sizes = {(side, side)}
    for one in range(low, high + 1, step):
        other = min(high, area // one // step * step)
        if other >= low:
            sizes |= {(one, other), (other, one)}
    return sorted(sizes)


def nearest_size(size: Size, sizes: Sequence[Size]) -> Size:
    """``size`` itself where it is among ``sizes``, else the one of the nearest width / height."""
    if size in sizes:
        return size
    ratio = size[0] / size[1]
    return min(sizes, key=lambda bucket: abs(bucket[0] / bucket[1] - ratio))


def size_without_enlarging(size: Size, area: int, step: int) -> Size:
    """A picture's own size, shrunk to ``area`` pixels if it has more, with both sides cut to multiples of
    ``step`` (one at least)."""
    width, height = size
    if width * height > area:
        ratio = width / height
        ideal = math.sqrt(area * ratio)
        by_width = _floor(ideal, step)
        by_height = _floor(area / ideal, step)
        # One side is settled, the other follows; whichever keeps the proportions better.
        wide = (by_width, _floor(by_width / ratio, step))
        tall = (_floor(by_height * ratio, step), by_height)
        error_wide, error_tall = (abs(w / h - ratio) for w, h in (wide, tall))
        if error_wide < error_tall:
            width, height = by_width, int(by_width / ratio + 0.5)
        else:
            width, height = int(by_height * ratio + 0.5), by_height
    return _floor(width, step), _floor(height, step)


def _floor(side: float, step: int) -> int:
    return max(step, int(side + 0.5) // step * step)


@dataclass(frozen=True)
class Bucketing:
    """How the size of a picture is settled; what is 0 follows from the model, see ``settled``."""

    width: int = 0
    height: int = 0
    enabled: bool = True
    enlarge: bool = True  # a picture smaller than its bucket is scaled up
    low: int = 0
    high: int = 0
    step: int = 0

    def settled(self, native: int, grain: int) -> Bucketing:
        """With every length known. ``native``: the model's side; ``grain``: pixels a latent.

        Bucket sides are half to double the picture's, in steps of 64: at 512 the 17 sizes that
        everybody uses. The step is smaller where 64 does not divide the side, or is more than an eighth
        of it, so that a square picture is trained at exactly the size asked for.
        Raises BadInput where the buckets leave no place for that size.
        """
        width, height = self.width or native, self.height or native
        short, long = sorted((width, height))
        step = self.step or 64
        while not self.step and step > grain and (8 * step > short or short % step or long % step):
            step //= 2
        if self.enabled and step % grain:
            raise BadInput(f"bucket-step: got {step} pixels, expected a multiple of {grain}.")
        # Down and up to multiples, as the sizes are.
        low = max(step, (self.low or short // 2) // step * step)
        high = -(-(self.high or 2 * long) // step) * step
        if self.enabled and self.enlarge and not (low <= short and long <= high):
            raise BadInput(
                f"buckets with sides of {low} to {high} pixels leave no place for {width}x{height}, the size "
                "pictures are trained at; expected bucket-min and bucket-max on either side of it."
            )
        return replace(self, width=width, height=height, low=low, high=high, step=step)

    @cached_property
    def _sizes(self) -> list[Size]:
        return bucket_sizes(self.width, self.height, self.low, self.high, self.step)

    def size_of(self, size: Size) -> Size:
        """The size that a picture of ``size`` is trained at, once everything is settled."""
        if not self.enabled:
            return self.width, self.height
        if not self.enlarge:
            return size_without_enlarging(size, self.width * self.height, self.step)
        return nearest_size(size, self._sizes)


def lost_share(size: Size, target: Size) -> float:
    """The share of a picture's pixels that is cut off when it is scaled to cover ``target``."""
    ratio, wanted = size[0] / size[1], target[0] / target[1]
    return 1 - min(ratio, wanted) / max(ratio, wanted)


def enlargement(size: Size, target: Size) -> float:
    """The factor by which a picture is scaled to cover ``target``."""
    return max(target[0] / size[0], target[1] / size[1])


@dataclass
class _Row:
    losses: list[float] = field(default_factory=list)
    factors: list[float] = field(default_factory=list)


def bucket_table(sizes: Sequence[Size], targets: Sequence[Size]) -> list[str]:
    """A sentence a bucket: how many pictures, how much of them is cut off, how much they are enlarged.

    ``sizes``, ``targets``: of every picture, before and after.
    """
    rows: dict[Size, _Row] = {}
    for size, target in zip(sizes, targets, strict=True):
        row = rows.setdefault(target, _Row())
        row.losses.append(lost_share(size, target))
        row.factors.append(enlargement(size, target))
    told = []
    for (width, height), row in sorted(rows.items()):
        count, lost = len(row.losses), sum(row.losses) / len(row.losses)
        noun = "picture" if count == 1 else "pictures"
        sentence = f"bucket {width}x{height}: {count} {noun}, {lost:.1%} of the pixels cut off"
        enlarged = sum(factor > 1 for factor in row.factors)
        if enlarged:
            sentence += f"; {enlarged} enlarged, up to {max(row.factors):.2g} times"
        told.append(sentence)
    return told
