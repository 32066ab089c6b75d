from __future__ import annotations

from collections import Counter
from itertools import permutations
from pathlib import Path

import pytest
import torch

from lib_ti.core.errors import BadInput
from lib_ti.data.captions import drop_tags, read_caption, shuffle_tags


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("name", "caption"),
    [
        ("000001-1-a man in suit.png", "a man in suit"),
        ("a man in suit.png", "a man in suit"),
        ("12 - red star.jpeg", "- red star"),
        ("--3 red star.webp", "red star"),
        ("0001.png", ""),
        ("1girl, 2 hats.png", "girl, 2 hats"),
        ("3-version 1.5 of it.png", "version 1.5 of it"),
    ],
)
def test_the_file_name_is_read_as_the_webui_reads_it(tmp_path: Path, name: str, caption: str) -> None:
    assert read_caption(tmp_path / name) == caption


@pytest.mark.parametrize(
    ("word_regex", "join", "caption"),
    [
        (r"[a-z]+", " ", "red star v"),
        (r"[a-z]+", ", ", "red, star, v"),
        (r"[a-z]+", "", "redstarv"),
        (r"(\w)\w*", "-", "r-s-v"),  # of a regex with groups the first one
        (r"x|(st)", "+", "st"),
        (r"nothing", " ", ""),
    ],
)
def test_words_are_picked_out_of_the_file_name(
    tmp_path: Path, word_regex: str, join: str, caption: str
) -> None:
    assert read_caption(tmp_path / "01-red star v2.png", word_regex=word_regex, join=join) == caption


def test_the_text_file_wins_whole_and_stripped(tmp_path: Path) -> None:
    image, text = tmp_path / "1 name.v2.png", tmp_path / "1 name.v2.txt"
    text.write_bytes(b"\xef\xbb\xbf \n12 a red star,\r\n caf\xc3\xa9 \n")
    assert read_caption(image, word_regex=r"\d") == "12 a red star,\n café"
    text.write_bytes(b"")
    assert read_caption(image) == ""


def test_bad_text_and_bad_regex_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(BadInput, match=r"a\.txt is not UTF-8 text \(byte 3\)"):
        read_caption(tmp_path / "a.png")
    with pytest.raises(BadInput, match=r"'\(a' is not a regular expression"):
        read_caption(tmp_path / "b.png", word_regex="(a")


def test_shuffling_gives_every_order_equally_often() -> None:
    generator = seeded()
    counts = Counter(shuffle_tags("a,  b, c,", generator) for _ in range(6000))
    assert set(counts) == {", ".join(order) for order in permutations("abc")}
    assert all(900 < count < 1100 for count in counts.values())


def test_each_tag_is_dropped_independently_at_the_rate() -> None:
    generator = seeded()
    draws = [drop_tags("a, b", 0.25, generator) for _ in range(8000)]
    counts = Counter(draws)
    for kept, share in {"a, b": 0.5625, "a": 0.1875, "b": 0.1875, "": 0.0625}.items():
        assert abs(counts[kept] / 8000 - share) < 0.015
    assert drop_tags("a, b", 0.0, generator) == "a, b"
    assert drop_tags("a, b", 1.0, generator) == ""


@pytest.mark.parametrize(
    "vary", [shuffle_tags, lambda caption, generator: drop_tags(caption, 0.5, generator)]
)
def test_the_generator_alone_settles_the_draw(vary) -> None:
    caption = ", ".join("abcdefghij")
    expected = vary(caption, seeded(3))
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert vary(caption, seeded(3)) == expected
    assert torch.equal(torch.get_rng_state(), before)
    assert vary(caption, seeded(4)) != expected
    assert vary("", seeded()) == ""


def test_another_separator() -> None:
    assert set(shuffle_tags("a, b; c", seeded(), ";").split("; ")) == {"a, b", "c"}
    assert drop_tags("a, b;c", 0.0, seeded(), ";") == "a, b; c"
