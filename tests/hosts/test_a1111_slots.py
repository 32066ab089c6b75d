"""The WebUI's slots and axes, and how our tags leave its negative prompts; the rest is in tests/host."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest

from lib_ti.core.errors import BadInput
from lib_ti.hosts import a1111_slots
from lib_ti.hosts.a1111_networks import CALLS, _take_negative
from lib_ti.networks.prompt import NetworkCall
from lib_ti.networks.prompt_blocks import Blocks

VALUES = [True, "one", 0.8, 0.5, "None", 1.0, 1.0, "two", 0.4, 0.4, *["None", 1.0, 1.0] * 2]


class AxisOption:
    """As the grid's own holds what it is given."""

    def __init__(self, label: str, type: type, apply: Any, confirm: Any = None, choices: Any = None) -> None:
        self.label, self.type, self.apply, self.confirm, self.choices = label, type, apply, confirm, choices


class Script:
    """A script of the page: where its values stand among all, and the grid's options."""

    def __init__(self, start: int, stop: int, options: Any = ()) -> None:
        self.args_from, self.args_to, self.current_axis_options = start, stop, options


def axes() -> dict[str, Any]:
    """What stands behind our name, -> axis."""
    made = a1111_slots._axes(SimpleNamespace(AxisOption=AxisOption))
    return {axis.label.removeprefix("[TI Studio] ").removeprefix("network's "): axis for axis in made}


def generation(values: Any = VALUES, chosen: tuple[int | None, ...] = (0, None, 0)) -> SimpleNamespace:
    """With ``values`` in the slots, and those axes, as numbers, in the grid."""
    options = [SimpleNamespace(label="Nothing"), *axes().values()]
    grid = [value for number in chosen for value in (number, "", [])]
    scripts = {
        "Networks (TI Studio)": Script(1, 1 + len(VALUES)),
        "X/Y/Z plot": Script(1 + len(VALUES), 1 + len(VALUES) + len(grid), options),
    }
    comments: list[str] = []
    return SimpleNamespace(
        extra_generation_params={"Eta": 1, "Net 2": "of the picture before", "Net hashes": "so is this"},
        comments=comments,
        comment=comments.append,
        scripts=SimpleNamespace(script=scripts.get),
        script_args=(2, *values, *grid),
    )


def test_slots_go_with_the_generation_and_into_its_text() -> None:
    p = generation()
    before = p.extra_generation_params
    a1111_slots.use_slots(p, VALUES)
    assert getattr(p, CALLS) == [NetworkCall("one", 0.8, 0.5), NetworkCall("two", 0.4, 0.4)]
    assert p.extra_generation_params == {"Eta": 1, "Net 1": "one:0.8:te=0.5", "Net 3": "two:0.4"}
    assert len(before) == 3  # which another picture of a grid may have in hand
    p = generation()
    a1111_slots.use_slots(p, [False, *VALUES[1:]])
    assert getattr(p, CALLS) == [] and p.extra_generation_params == {"Eta": 1}
    assert p.comments == []


def test_wrong_values_are_told_under_the_picture() -> None:
    p = generation()
    a1111_slots.use_slots(p, [True, "one", "much", None, "two"])
    assert getattr(p, CALLS) == [NetworkCall("two")]
    (said,) = p.comments
    assert said.startswith("Network slot 1: ") and "'much', no number" in said


def test_a_grid_moves_the_first_slot_of_each_picture_alone() -> None:
    ours = axes()
    assert [*ours] == [
        "network",
        "weight",
        "U-Net weight",
        "text encoder weight",
        "rank",
        "blocks",
        "start",
        "stop",
    ]
    p, calls = generation(), []
    for chosen in (
        {"weight": 0.3},
        {"U-Net weight": 0.1, "text encoder weight": 0.2},
        {"network": "three", "weight": 1.5},
        {"rank": 4, "blocks": "OUTS"},
        {"start": 0.2, "stop": 0.8},
        {"network": "None", "weight": 1.5},
    ):
        picture = copy.copy(p)
        for axis, value in chosen.items():
            ours[axis].apply(picture, value, [])
        a1111_slots.use_slots(picture, VALUES)
        calls.append(getattr(picture, CALLS)[:-1])  # without the other slot's
    assert calls == [
        [NetworkCall("one", 0.3, 0.3)],
        [NetworkCall("one", 0.1, 0.2)],
        [NetworkCall("three", 1.5, 1.5)],
        [NetworkCall("one", 0.8, 0.5, rank=4, blocks=Blocks("OUTS"))],
        [NetworkCall("one", 0.8, 0.5, start=0.2, stop=0.8)],
        [],
    ]


EMPTY = [True, "None", 1, 1, *VALUES[4:]]


@pytest.mark.parametrize("axis", ["weight", "text encoder weight", "rank", "stop"])
def test_an_axis_that_would_move_nothing_is_refused(axis: str) -> None:
    ours = axes()
    for empty in (EMPTY, [False, *VALUES[1:]]):
        with pytest.raises(BadInput, match=rf"network's {axis} moves the first network slot, which is empty"):
            ours[axis].confirm(generation(empty), [1])
    ours[axis].confirm(generation(), [1])
    number = 1 + [*ours].index("network")
    ours[axis].confirm(generation(EMPTY, (3, 0, number)), [1])


@pytest.mark.parametrize(
    ("axis", "value", "sentence"),
    [
        ("rank", 0, "rank is '0'; it is a whole number from 1"),
        ("blocks", "OUTAL", "got 'OUTAL', expected"),
        ("start", 20.0, "start is 20.0; it is a share of sampling, from 0 to 1"),
        ("weight", float("nan"), "'nan', no number"),
    ],
)
def test_a_wrong_value_is_told_before_the_first_picture(axis: str, value: object, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        axes()[axis].confirm(generation(), [value])


@pytest.mark.parametrize("words", [("net",), ("net", "lora")])
def test_tags_leave_every_negative_prompt_and_the_first_ones_count(words: tuple[str, ...]) -> None:
    p = SimpleNamespace(
        negative_prompts=["dull<net:a:0.5> <lora:b:1>", "<net:c>grey"], hr_negative_prompts=None
    )
    host = "lora" in words
    assert _take_negative(p, words) == {"negative_prompts": ["a:0.5", "b:1"] if host else ["a:0.5"]}
    assert p.negative_prompts == ["dull " if host else "dull <lora:b:1>", "grey"]
    assert _take_negative(p, words) == {}  # a second time there is nothing to take
