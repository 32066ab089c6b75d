"""Embeddings put together, and expressions that can do nothing else."""

from __future__ import annotations

import random

import pytest
import torch

from lib_ti.core import limits
from lib_ti.methods.mixing import Rows, Short, Sources, concatenated, mixed, weighted_sum

CAT, DOG, FUR, LONG, WIDE = (
    torch.randn(n, d, generator=torch.Generator().manual_seed(n * d))
    for n, d in ((2, 8), (2, 8), (2, 8), (5, 8), (2, 9))
)
KNOWN = {"cat": CAT, "dog": DOG + 1, "my-dog": DOG, "two words": DOG, "long": LONG, "wide": WIDE, "v1.5": CAT}


def sources(short: Short = "refuse") -> Sources:
    def embedding(name: str) -> Rows:
        if name not in KNOWN:
            raise ValueError(f"no {name}")
        return Rows(name, {"clip_l": KNOWN[name]}, short)

    return Sources(embedding, lambda text: Rows(f'"{text}"', {"clip_l": FUR}, short))


def mix(text: str, short: Short = "refuse") -> torch.Tensor:
    return mixed(text, sources(short)).vectors["clip_l"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cat", CAT),
        ('0.5*cat + 0.5*my-dog - "fur"', 0.5 * CAT + 0.5 * DOG - FUR),
        ("(cat + my-dog) / 2", (CAT + DOG) / 2),
        ("cat - dog", CAT - DOG - 1),
        ("-cat*2e0", -CAT * 2),
        ("2*3*cat - 1/2*cat", 5.5 * CAT),
        ("'two words' + v1.5", DOG + CAT),
        ("cat, my-dog", torch.cat([CAT, DOG])),
        ('2*(cat, "fur")', torch.cat([2 * CAT, 2 * FUR])),
        ("1-0.5-0.5+1.*1 * cat", None),
        ("0.5-0.5", None),
    ],
)
def test_expressions(text: str, expected: torch.Tensor | None) -> None:
    if expected is None:
        with pytest.raises(ValueError, match="number"):
            mix(text)
    else:
        assert torch.allclose(mix(text), expected, atol=1e-6)


def test_different_numbers_of_vectors_go_on_as_told() -> None:
    with pytest.raises(ValueError, match=r"cat has 2 vectors and long 5; choose"):
        mix("cat + long")
    zeros = torch.cat([CAT, torch.zeros(3, 8)])
    again = CAT[[0, 1, 0, 1, 0]]
    assert torch.equal(mix("cat + long", "zeros"), zeros + LONG)
    assert torch.equal(mix("long - cat", "repeat"), LONG - again)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "ends too early"),
        ("cat +", "ends too early"),
        ("cat dog", "'dog' cannot stand there"),
        ("cat + 1", "the number 1 cannot be put together"),
        ("1 + cat", "the number 1 cannot be put together"),
        ("1, cat", "cannot stand in a list"),
        ("cat * dog", "one must be a number"),
        ("cat / dog", "only by a number"),
        ("2 / cat", "only by a number"),
        ("cat / 0", "zero"),
        ("2 * 3", "no embedding is in it"),
        ("(cat", r"'\)' is missing"),
        ("cat)", r"'\)' cannot stand there"),
        ("cat + wide", r"cat is for clip_l \(8 numbers\) and wide for clip_l \(9 numbers\)"),
        ("__import__('os')", "cannot stand there"),
        ("cat.__class__", "no cat.__class__"),
        ("cat; dog", "';' is no part"),
        ("open", "no open"),
        ('"fur', "is no part"),
        ("long," * 15 + "cat", "77 vectors"),
        ("(" * 40 + "cat" + ")" * 40, "inside one another"),
        ("-" * 400 + "cat", "inside one another"),
        ("+".join(["cat"] * 400), f"at most {limits.MIXTURE}"),
    ],
)
def test_what_says_nothing_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises((ValueError, ArithmeticError), match=why):
        mix(text)


def test_no_text_breaks_out() -> None:
    letters = random.Random(0)
    for _ in range(3000):
        text = "".join(letters.choices(["cat", "dog", "2", ".5", "e", '"', "'", *"+-*/(),. _x["], k=12))
        try:
            found = mix(text)
        except (ValueError, ArithmeticError):
            continue
        assert found.ndim == 2


def test_parts_of_two_text_encoders_stay_apart() -> None:
    one = Rows("one", {"clip_l": CAT, "clip_g": WIDE})
    other = Rows("other", {"clip_l": DOG, "clip_g": -WIDE})
    both = concatenated([one, other])
    assert torch.equal(both.vectors["clip_g"], torch.cat([WIDE, -WIDE]))
    total = weighted_sum([one, other], [2, 0.5])
    assert torch.allclose(total.vectors["clip_l"], 2 * CAT + 0.5 * DOG)
    assert torch.allclose(total.vectors["clip_g"], 1.5 * WIDE)
    with pytest.raises(ValueError, match="same kind of model"):
        one.then(Rows("cat", {"clip_l": CAT}))
    with pytest.raises(ValueError, match="same kind of model"):
        Rows("cat", {"clip_l": CAT}).then(one)
