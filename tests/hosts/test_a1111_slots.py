"""The WebUI's slots and axes, and how our tags leave its negative prompts; the rest is in tests/host."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest

from lib_ti.hosts import a1111_slots
from lib_ti.hosts.a1111_networks import SLOTS, _take_negative
from lib_ti.networks.prompt import NetworkCall

VALUES = [True, "one", 0.8, 0.5, "None", 1.0, 1.0, "two", 0.4, 0.4, *["None", 1.0, 1.0] * 2]


class AxisOption:
    """As the grid's own holds what it is given."""

    def __init__(self, label: str, type: type, apply: Any, confirm: Any = None, choices: Any = None) -> None:
        self.label, self.type, self.apply, self.confirm, self.choices = label, type, apply, confirm, choices


def generation() -> SimpleNamespace:
    return SimpleNamespace(extra_generation_params={})


def test_slots_go_with_the_generation_and_into_its_text() -> None:
    p = generation()
    a1111_slots.use_slots(p, VALUES)
    assert getattr(p, SLOTS) == [NetworkCall("one", 0.8, 0.5), NetworkCall("two", 0.4, 0.4)]
    assert p.extra_generation_params == {"Net 1": "one:0.8:te=0.5", "Net 3": "two:0.4"}
    p = generation()
    a1111_slots.use_slots(p, [False, *VALUES[1:]])
    assert getattr(p, SLOTS) == [] and p.extra_generation_params == {}


def test_a_grid_moves_the_first_slot_of_each_picture_alone() -> None:
    network, both, unet, text = a1111_slots._axes(SimpleNamespace(AxisOption=AxisOption))
    assert [axis.label for axis in (network, both, unet, text)] == [
        "[TI Studio] network",
        "[TI Studio] network's weight",
        "[TI Studio] network's U-Net weight",
        "[TI Studio] network's text encoder weight",
    ]
    p, calls = generation(), []
    for axes in (
        [(both, 0.3)],
        [(unet, 0.1), (text, 0.2)],
        [(network, "three"), (both, 1.5)],
        [(network, "None")],
    ):
        picture = copy.copy(p)
        for axis, value in axes:
            axis.apply(picture, value, [])
        a1111_slots.use_slots(picture, VALUES)
        calls.append(getattr(picture, SLOTS)[:-1])  # without the other slot's
    assert calls == [
        [NetworkCall("one", 0.3, 0.3)],
        [NetworkCall("one", 0.1, 0.2)],
        [NetworkCall("three", 1.5, 1.5)],
        [],
    ]


@pytest.mark.parametrize("words", [("net",), ("net", "lora")])
def test_tags_leave_every_negative_prompt_and_the_first_ones_count(words: tuple[str, ...]) -> None:
    p = SimpleNamespace(
        negative_prompts=["dull<net:a:0.5> <lora:b:1>", "<net:c>grey"], hr_negative_prompts=None
    )
    host = "lora" in words
    assert _take_negative(p, words) == {"negative_prompts": ["a:0.5", "b:1"] if host else ["a:0.5"]}
    assert p.negative_prompts == ["dull " if host else "dull <lora:b:1>", "grey"]
    assert _take_negative(p, words) == {}  # a second time there is nothing to take
