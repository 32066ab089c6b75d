"""Vectors that stay."""

from __future__ import annotations

import pytest
import torch

from lib_ti.methods.pruning import most_important, parse_rows


@pytest.mark.parametrize(
    ("text", "rows"), [("1", [0]), ("3,1", [2, 0]), ("2-4,1", [1, 2, 3, 0]), (" 4-2 ", [3, 2, 1])]
)
def test_rows_as_people_write_them(text: str, rows: list[int]) -> None:
    assert parse_rows(text, 4) == rows


@pytest.mark.parametrize(
    "text", ["", "0", "5", "1,", "a", "1-", "-1", "1-9", "1,1", "1-3,2", "9" * 5000, "²"]
)
def test_rows_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"none of the vectors 1 to 4|twice"):
        parse_rows(text, 4)


VECTORS = torch.tensor([[3.0, 0, 0], [0, 1, 0], [0.1, 2, 0], [0, 0, 0.5]])


def test_the_shortest_go_first() -> None:
    assert most_important({"clip_l": VECTORS}, 1, "shortest") == [0, 1, 2]
    assert most_important({"clip_l": VECTORS}, 2, "shortest") == [0, 2]


def test_of_two_alike_the_shorter_goes() -> None:
    assert most_important({"clip_l": VECTORS}, 1, "alike") == [0, 2, 3]
    assert most_important({"clip_l": VECTORS}, 3, "alike") == [0]


def test_both_text_encoders_count() -> None:
    other = torch.tensor([[0.0], [5], [0], [5]])
    assert most_important({"clip_l": VECTORS, "clip_g": other}, 1, "shortest") == [0, 1, 3]
