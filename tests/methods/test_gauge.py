from __future__ import annotations

import pytest
import torch

from lib_ti.hosts.standalone import StandaloneHost
from lib_ti.methods.gauge import VectorReport, measure, told


def test_lengths_are_measured_by_the_vocabulary(host: StandaloneHost) -> None:
    norms = host.token_vectors("clip_l").norm(dim=1)
    usual, longest = float(norms.median()), float(norms.max())
    direction = torch.nn.functional.normalize(torch.ones(64), dim=0)
    start = torch.stack([direction, -direction]) * usual
    result = torch.stack([direction * 3, direction]) * usual
    first, second = measure(
        host, {"clip_l": result}, {"clip_l": start}, {"clip_l": torch.tensor([0.25, 0.5])}
    )
    assert (first.name, first.vector, second.vector) == ("clip_l", 1, 2)
    assert (first.moved, first.length, first.gradient) == pytest.approx((2, 3, 0.25))
    assert (second.moved, second.length, second.gradient) == pytest.approx((2, 1, 0.5))
    assert first.longest_word == pytest.approx(longest / usual)


def report(vector: int, moved: float, length: float) -> VectorReport:
    return VectorReport("clip_l", vector, moved, length, 1.5, 0.1)


def test_what_is_said() -> None:
    [said] = told([report(1, 0.25, 0.9), report(2, 0.5, 1.4)])
    assert said == (
        "vectors moved 0.25 to 0.5 of a word's usual length and are now 0.9 to 1.4 of it (words: up to 1.5)"
    )


def test_vectors_beyond_every_word_and_those_that_stayed_are_named() -> None:
    _, long, still = told([report(1, 2, 4), report(2, 0.001, 1), report(3, 3, 1.6)])
    assert long.startswith("vector 1 of clip_l, 3 of clip_l is longer than any word")
    assert still.startswith("warning: vector 2 of clip_l hardly moved")
