from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest
import torch

from lib_ti.core.errors import BadInput
from lib_ti.data.captions import CaptionRules, captions_by_name, plain_caption, read_caption, vary_caption


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
    assert captions_by_name([tmp_path / "01-red star v2.png"], word_regex, join) == [caption]


def test_the_text_file_wins_whole_and_stripped(tmp_path: Path) -> None:
    image, text = tmp_path / "1 name.v2.png", tmp_path / "1 name.v2.txt"
    text.write_bytes(b"\xef\xbb\xbf \n12 a red star,\r\n caf\xc3\xa9 \n")
    assert read_caption(image) == "12 a red star,\n café"
    text.write_bytes(b"")
    assert read_caption(image) == ""


def test_bad_text_and_bad_regex_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(BadInput, match=r"a\.txt is not UTF-8 text \(byte 3\)"):
        read_caption(tmp_path / "a.png")
    with pytest.raises(BadInput, match=r"'\(a' is not a regular expression"):
        captions_by_name([tmp_path / "b.png"], "(a")


def shuffle_tags(caption: str, generator: torch.Generator, **rules: object) -> str:
    return vary_caption(caption, CaptionRules(shuffle=True, **rules), generator)


def drop_tags(caption: str, rate: float, generator: torch.Generator, **rules: object) -> str:
    return vary_caption(caption, CaptionRules(drop_tags=rate, **rules), generator)


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
    assert set(shuffle_tags("a, b; c", seeded(), separator=";").split("; ")) == {"a, b", "c"}
    assert drop_tags("a, b; c", 1e-9, seeded(), separator=";") == "a, b; c"


def test_without_rules_a_caption_stays_as_it_is() -> None:
    caption = " a,b ,, {x|y}\n c ||| "
    assert vary_caption(caption, CaptionRules(), seeded()) == caption


def test_a_caption_is_dropped_whole_at_the_rate() -> None:
    generator, rules = seeded(), CaptionRules(drop_caption=0.2)
    counts = Counter(vary_caption("a, b", rules, generator) for _ in range(5000))
    assert set(counts) == {"a, b", ""}
    assert abs(counts[""] / 5000 - 0.2) < 0.02


def test_each_wildcard_and_line_is_chosen_equally_often() -> None:
    generator, rules = seeded(), CaptionRules(wildcards=True)
    counts = Counter(vary_caption("a {b|c|} {d}\n\n e {{f|g}}", rules, generator) for _ in range(6000))
    assert set(counts) == {"a b d", "a c d", "a  d", "e {f|g}"}
    assert abs(counts["e {f|g}"] / 6000 - 1 / 2) < 0.03
    assert all(abs(counts[text] / 6000 - 1 / 6) < 0.03 for text in ("a b d", "a c d", "a  d"))
    assert vary_caption(" \n", rules, generator) == ""


@pytest.mark.parametrize(
    ("caption", "rules", "front", "back"),
    [
        ("a, b, c, d, e", CaptionRules(shuffle=True, keep_tags=2), ["a", "b"], []),
        ("a, b ||| c, d, e", CaptionRules(shuffle=True, keep_separator="|||", keep_tags=4), ["a", "b"], []),
        ("a ||| b, c, d ||| e", CaptionRules(shuffle=True, keep_separator="|||"), ["a"], ["e"]),
        ("a, b, c, d, e", CaptionRules(shuffle=True, keep_separator="|||", keep_tags=1), ["a"], []),
    ],
)
def test_kept_tags_stay_in_their_places(
    caption: str, rules: CaptionRules, front: list[str], back: list[str]
) -> None:
    generator = seeded()
    drawn = {vary_caption(caption, rules, generator) for _ in range(200)}
    middle = 5 - len(front) - len(back)
    assert len(drawn) == {2: 2, 3: 6, 4: 24}[middle]
    for text in drawn:
        tags = text.split(", ")
        assert sorted(tags) == list("abcde")
        assert tags[: len(front)] == front and tags[5 - len(back) :] == back
    # They are not left out either.
    dropped = vary_caption(caption, replace(rules, drop_tags=1.0), generator)
    assert dropped == ", ".join([*front, *back])


def test_parts_that_belong_together_stay_together() -> None:
    rules = CaptionRules(shuffle=True, second_separator=";")
    drawn = {vary_caption("red hair; blue eyes, hat", rules, seeded(i)) for i in range(20)}
    assert drawn == {"red hair, blue eyes, hat", "hat, red hair, blue eyes"}


def test_a_plain_caption_leaves_nothing_to_chance() -> None:
    rules = CaptionRules(1.0, True, 1, "|||", True, 1.0, ",", ";")
    assert (
        plain_caption("zqx ||| {red|blue} hair; eyes, hat\nanother line", rules) == "zqx, red hair, eyes, hat"
    )
    assert plain_caption("a,b\nc", CaptionRules(shuffle=True, drop_tags=0.5)) == "a,b\nc"


def test_in_every_so_many_th_epoch_captions_are_left_out() -> None:
    rules = CaptionRules(drop_every=3)
    said = [vary_caption("a, b", rules, torch.Generator(), epoch) for epoch in range(1, 8)]
    assert said == ["a, b", "a, b", "", "a, b", "a, b", "", "a, b"]
