"""What a job's panel says, in HTML."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from lib_ti.methods.kind import Words
from lib_ti.runs import Status
from lib_ti.ui.view import ASKING, duration, error_html, status_html, told_html, words_html

LOSSES = [(step, 1 / step, 0.01) for step in range(1, 1001)]


def status(state: str = "training", **more: object) -> Status:
    settings = {"name": "my-cat", "steps": 600}
    return Status(job="20260101-000000-my-cat", status=state, settings=settings, steps=600, **more)  # type: ignore[arg-type]


NETWORK = status("done", network="/l/my-cat.safetensors")
BUNDLE = status(
    "done", embedding="/e/zqx.pt", network="/l/my-cat.safetensors", bundle="/l/my-cat-bundle.safetensors"
)
PAIR = status("done", embedding="/e/my-cat.pt", negative_embedding="/e/my-cat-neg.pt")


def text_of(html: str) -> str:
    """What is read on the screen; fails where a tag is not closed."""
    found: list[str] = []
    opened: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attributes: object) -> None:
            opened.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert opened.pop() == tag

        def handle_startendtag(self, tag: str, attributes: object) -> None:
            pass

        def handle_data(self, data: str) -> None:
            found.append(data)

    Reader().feed(html)
    assert opened == []
    return " ".join(" ".join(found).split())


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        (status("waiting"), "Waiting: the model is in use"),
        (status("preparing"), "Preparing"),
        (status(step=60, seconds_per_step=0.5, seconds_left=270.0), "0.50 s a step · 4 min 30 s left"),
        (status("done", embedding="/e/my-cat.pt"), "in a prompt. It lies in /e/my-cat"),
        (PAIR, "Write my-cat in the prompt and my-cat-neg in the negative prompt. They lie in"),
        (NETWORK, "Write <lora:my-cat:1> in a prompt. It lies in /l/my-cat.safetensors."),
        (BUNDLE, "Write zqx , <lora:my-cat:1> in a prompt. They lie in /e/zqx.pt and /l/my-cat"),
        (status("stopped", step=60), "Resume goes on"),
        (status("stopped", step=60, embedding="/e/x"), "What it had learned is saved"),
        (status("failed", error="there is not enough memory"), "Failed: my-cat"),
        (status("failed", error="there is not enough memory"), "there is not enough memory"),
        (status("broken off", step=60), "The program ended while it trained"),
    ],
)  # fmt: skip
def test_every_state_says_what_it_is_and_what_can_be_done(shown: Status, words: str) -> None:
    html = status_html(shown, LOSSES, published=3)
    assert words in text_of(html)
    assert 'data-published="3"' in html
    assert f'data-ask="{int(shown.running)}"' in html


def test_a_page_asks_until_it_was_told_and_then_rests() -> None:
    assert 'data-ask="1"' in ASKING
    nothing = status_html(None, [], published=0)
    assert "data-ask" not in nothing and "press Train" in text_of(nothing)


def test_nobodys_text_becomes_html() -> None:
    evil = "<script>\"&'</script>"
    shown = status("failed", error=evil, messages=[evil], embedding=evil)
    pair = status("done", embedding=evil, negative_embedding=evil)
    shown.settings["name"] = evil
    for html in (
        status_html(shown, LOSSES, 0),
        error_html(evil),
        status_html(status("done", embedding=evil), [], 0),
        status_html(pair, [], 0),
    ):
        assert "<script" not in html and evil in text_of(html)


def test_the_curve_stays_in_its_frame_and_falls_where_the_loss_falls() -> None:
    html = status_html(status(step=1000), LOSSES, 0)
    (points,) = re.findall(r'points="([^"]+)"', html)
    xs, ys = zip(*(map(float, point.split(",")) for point in points.split()), strict=True)
    assert min(xs) == 0 and 590 < max(xs) <= 600 and list(xs) == sorted(xs)
    assert min(ys) >= 0 and max(ys) <= 160 and ys[0] < ys[-1]  # down is larger in SVG
    assert len(xs) <= 400
    assert "<svg" not in status_html(status(step=29), LOSSES[:29], 0)
    flat = [(step, 0.5, 0.01) for step in range(1, 40)]
    assert "nan" not in status_html(status(), flat, 0)


def buttons_of(html: str) -> list[tuple[str, str, str]]:
    """Page, word for the prompt and word for the negative one of each button that writes them."""
    pattern = r'data-ti-studio-write="(\w+)" data-prompt="([^"]*)" data-negative="([^"]*)"'
    return re.findall(pattern, html)


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        (status("done", embedding="/e/my-cat.pt"), ("my-cat", "")),
        (PAIR, ("my-cat", "my-cat-neg")),
        (status("stopped", embedding="/e/my-cat.pt"), ("my-cat", "")),
    ],
)
def test_words_that_are_ready_can_be_written_into_the_programs_pages(
    shown: Status, words: tuple[str, str]
) -> None:
    assert buttons_of(status_html(shown, [], 0)) == [("txt2img", *words), ("img2img", *words)]


def test_all_of_several_words_are_written() -> None:
    several = status("done", embedding="/e/a.pt", other_embeddings=["/e/b.pt", "/e/c.pt"])
    html = status_html(several, [], 0)
    assert "Write <b>a</b>, <b>b</b>, <b>c</b> in a prompt. They lie in" in html
    assert "/e/a.pt and /e/b.pt and /e/c.pt" in text_of(html)
    assert buttons_of(html)[0] == ("txt2img", "a, b, c", "")


def test_words_that_are_not_ready_cannot() -> None:
    for state in ("training", "stopped", "failed"):
        assert buttons_of(status_html(status(state, error="x"), [], 0)) == []


def test_a_word_for_the_negative_prompt_is_called_one() -> None:
    html = words_html(Words("", "bad"))
    assert "Write bad in the negative prompt." in text_of(html)
    assert buttons_of(html)[0] == ("txt2img", "", "bad")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (3599.7, "1 h 0 min"), (7325, "2 h 2 min")],
)
def test_durations_as_people_say_them(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_the_fixed_batchs_curve_takes_the_place_of_the_noisy_one() -> None:
    shown = status(step=300, evaluations=[(100, 0.5), (200, 0.3), (300, 0.4)])
    html = status_html(shown, LOSSES, 0)
    assert "best at step 200" in html and html.count("<svg") == 1
    (points,) = re.findall(r'points="([^"]+)"', html)
    assert len(points.split()) == 3


def test_what_a_tool_found_is_a_table_of_its_kind() -> None:
    evil = "<script>\"&'</script>"
    told = {
        "name": evil,
        "good": True,
        "nothing": None,
        "numbers": [1, 2],
        "rows": [{"vector": 1, "norm": 0.5}, {"vector": 2, evil: "x"}],
        "metadata": {f"key {i}": evil for i in range(20)},
        "few": {"clip_l": 768, "clip_g": evil},
        "inside": [{"rows": [{"x": 1}], **{str(i): i for i in range(20)}}],
        "long": "y" * 5000,
    }
    html = told_html(told)
    assert "<script" not in html
    text = text_of(html)
    assert "vector norm" in text and "1 0.5" in text and "20 entries" in text
    assert (
        "clip_l: 768, clip_g: " in text
        and "good yes" in text
        and "nothing" not in text
        and "numbers 1, 2" in text
    )
    assert html.count("<details>") == 2 and html.count('class="ti-studio-rows"') == 2
    assert told_html({}) == ""
