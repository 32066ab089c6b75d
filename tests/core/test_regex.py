from __future__ import annotations

import re
import time

import pytest

from lib_ti.core import regex
from lib_ti.core.errors import BadInput
from lib_ti.core.regex import find_words, replace_all


@pytest.mark.parametrize(
    ("pattern", "replacement"), [(r"(\w+) cat", r"\1 dög"), ("x*", "-"), (r"\\\(", "("), (r"^|$", '"\n')]
)
def test_it_is_re_sub(pattern: str, replacement: str) -> None:
    texts = ["a red cat, a blue cat", "猫 cat xx", "", r"a \(b\)"]
    assert replace_all(pattern, replacement, texts) == [re.sub(pattern, replacement, text) for text in texts]


def test_what_it_finds_is_what_re_finds() -> None:
    assert find_words(r"[a-z]+", ["a red 2", "", "\ud800x"]) == [["a", "red"], [], ["x"]]
    assert find_words(r"x|(st)", ["xst"]) == [["", "st"]]
    with pytest.raises(BadInput, match="at most 1000 characters"):
        find_words("a" * 1001, ["a"])


def test_a_pattern_that_takes_a_lifetime_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regex, "SECONDS", 1)
    started = time.monotonic()
    with pytest.raises(BadInput, match="takes more than 1 seconds"):
        replace_all("(a+)+$", "", ["a" * 50 + "b"])
    assert time.monotonic() - started < 30  # on a busy machine


@pytest.mark.parametrize(
    ("pattern", "replacement", "texts", "said"),
    [
        ("(", "", ["a"], "is not a regular expression"),
        ("(" * 900, "", ["a"], "is not a regular expression"),
        ("a", r"\3", ["a"], "invalid group reference"),
        ("a" * 1001, "", ["a"], "at most 1000 characters"),
        ("a", "", ["a" * 20_001], "at most 20000"),
        ("", "x" * 1000, ["a" * 19_999], "too long"),
    ],
)
def test_bad_patterns_are_a_sentence(pattern: str, replacement: str, texts: list[str], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        replace_all(pattern, replacement, texts)


def test_nothing_of_a_pattern_is_run() -> None:
    for text in ("__import__('os').abort()", "%(x)s {0} $(id) `id`"):
        assert replace_all(re.escape(text), text.replace("\\", ""), [f"a {text}"]) == [f"a {text}"]
