"""Scales as people write them, and arithmetic that no text can break out of."""

from __future__ import annotations

import math
import random

import pytest
import torch

from lib_ti.core import limits
from lib_ti.core.errors import BadInput
from lib_ti.methods.expression import CONSTANTS, FUNCTIONS, parse_expression
from lib_ti.methods.guidance import is_plain, parse_guidance

RATES = [i / 999 for i in range(1000)]


def scales(text: str) -> list[float]:
    return parse_guidance(text).tolist()


@pytest.mark.parametrize("text", ["3", " 3.0 ", "3-3", "3e0", "3-3:cos", "3-3:rate**2"])
def test_one_scale(text: str) -> None:
    assert scales(text) == [3.0] * 1000


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("1.5-3", lambda r: r),
        ("1.5-3.0 : cos", lambda r: math.sin(r * math.pi / 2)),
        ("1.5-3.0:cos2", lambda r: 1 - math.cos(r * math.pi / 2)),
        ("1.5-3:sqrt(rate)", math.sqrt),
        ("15e-1-3:(1 - rate) ** 2 / 2", lambda r: (1 - r) ** 2 / 2),
        ("1.5-3:max(0.5, min(rate, .75))", lambda r: max(0.5, min(r, 0.75))),
        ("1.5-3:-rate**2 + 1", lambda r: 1 - r**2),
        ("1.5-3:2**-rate", lambda r: 2**-r),
        ("1.5-3:sin(pi * rate / 2)", lambda r: math.sin(math.pi * r / 2)),
        ("1.5-3:exp(rate) / e", lambda r: math.exp(r - 1)),
        ("1.5-3:8 / 4 / 2 * rate - 1 + 1", lambda r: r),
    ],
)
def test_ranges_and_curves(text: str, rate) -> None:
    expected = [1.5 + 1.5 * rate(r) for r in RATES]
    assert scales(text) == pytest.approx(expected, rel=1e-6)


def test_a_range_goes_from_the_cleanest_timestep_to_the_noisiest() -> None:
    for curve in ("", ":cos", ":cos2"):
        table = parse_guidance(f"1.5-3{curve}")
        assert table.dtype == torch.float32
        assert (float(table[0]), float(table[-1])) == (1.5, 3.0)
        assert bool((table.diff() >= 0).all())


def test_the_rules_of_arithmetic() -> None:
    """Every text beside Python's own reading of it."""
    for text, value in {
        "1+2*3": 1 + 2 * 3,
        "(1+2)*3": (1 + 2) * 3,
        "2**3**2": 2**3**2,
        "-2**2": -(2**2),
        "8/4/2": 8 / 4 / 2,
        "1-2-3": 1 - 2 - 3,
        "--1": 1,
        "2*-3": 2 * -3,
        "2**-1": 2**-1,
        "+1-+1": 0,
        " ( rate ) ": 0.5,
    }.items():
        assert parse_expression(text, "rate")(0.5) == value, text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "cannot be read"),
        ("fast", "cannot be read"),
        ("-3", "cannot be read"),
        ("3:cos", "cannot be read"),
        ("1-2-3", "cannot be read"),
        ("1-3:", None),
        ("1-3:rat", "'rat' is not known; there are rate, pi"),
        ("1-3:__import__('os')", "'_' is no part"),
        ("1-3:rate.real", "'.' is no part"),
        ("1-3:rate[0]", "'\\[' is no part"),
        ("1-3:lambda", "'lambda' is not known"),
        ("1-3:(rate", "a '\\)' is missing"),
        ("1-3:rate)", "'\\)' cannot stand there"),
        ("1-3:rate rate", "'rate' cannot stand there"),
        ("1-3:2*", "ends too early"),
        ("1-3:sqrt", "a '\\(' is missing"),
        ("1-3:min(1)", "min takes 2 arguments, not 1"),
        ("1-3:sqrt(rate - 1)", "guidance"),
        ("1-3:log(rate)", "guidance"),
        ("1-3:(-1)**0.5", "guidance"),
        ("1-3:1/rate", "guidance"),
        ("1-3:9**9**9", "guidance"),
        ("1-3:exp(1000)", "guidance"),
        ("1-3:1e999 - 1e999", "a scale of nan"),
        ("1-3:-rate", "a scale of -"),
        ("101", "a scale of 101 is not between 0 and 100"),
        ("1-3:" + "(" * (limits.EXPRESSION + 1), "at most 100 are read"),
        ("1-3:" + "-" * limits.EXPRESSION, "ends too early"),
        ("1-3:" + "(" * limits.EXPRESSION, "ends too early"),
        ("٣", "cannot be read"),
    ],
)
def test_anything_else_is_refused_in_a_sentence(text: str, why: str | None) -> None:
    if why is None:
        assert scales(text) == scales("1-3")
        return
    with pytest.raises(BadInput, match=why):
        parse_guidance(text)


def test_no_text_does_more_than_arithmetic() -> None:
    """Whatever is typed gives a table of numbers in range, or one sentence."""
    parts = ["rate", "1", "0", ".5", "1e9", "+", "-", "*", "/", "**", "(", ")", ",", " ", ":", "_", "'", "é"]
    parts += [*CONSTANTS, *FUNCTIONS, "__class__", "\n", "\0", "1e", "import"]
    choose, read = random.Random(1), 0
    for _ in range(3000):
        text = "1-3:" + "".join(choose.choices(parts, k=choose.randint(1, 12)))
        try:
            table = parse_guidance(text, timesteps=5)
        except BadInput:
            continue
        read += 1
        assert table.shape == (5,) and bool(((table >= 0) & (table <= 100)).all())
    assert read > 30


def test_only_a_scale_of_one_everywhere_is_no_guidance() -> None:
    assert is_plain(parse_guidance("1")) and is_plain(parse_guidance("1-1:cos"))
    assert not is_plain(parse_guidance("1-1.5")) and not is_plain(parse_guidance("3"))
