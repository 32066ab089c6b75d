from __future__ import annotations

import pytest

from lib_ti.networks.prompt import NetworkCall
from lib_ti.networks.prompt_slots import COUNT, NAME, NOTHING, read_infotext, read_slots, write_infotext

EMPTY = [NOTHING, 1.0, 1.0]
TWO = [*EMPTY, "a cat", 0.8, 0.5, *EMPTY, *EMPTY, "dog", -1, -1]


def test_slots_are_read_only_when_they_are_on() -> None:
    assert read_slots([False, *TWO]) == read_slots([True, *EMPTY * COUNT]) == ({}, [])
    both = {2: NetworkCall("a cat", 0.8, 0.5), 5: NetworkCall("dog", -1, -1)}
    assert read_slots([True, *TWO]) == (both, [])


@pytest.mark.parametrize(
    ("values", "first"),
    [
        ([], None),
        ([None], None),
        ([True], None),
        ([True, "cat"], NetworkCall("cat")),
        ([True, "cat", None, 0.5], NetworkCall("cat", 1.0, 0.5)),
        ([True, None, 0.5, 0.5], None),
        ([True, "cat:rank=4:start=0.2", 0.5, 1], NetworkCall("cat", 0.5, 1.0, rank=4, start=0.2)),
    ],
)
def test_what_is_missing_is_as_on_a_new_page(values: list[object], first: NetworkCall | None) -> None:
    slots, wrong = read_slots(values)
    assert slots.get(1) == first and wrong == []


def test_what_is_wrong_calls_nothing_and_is_told() -> None:
    slots, wrong = read_slots([True, "cat", "much", 1, "dog", 1, [2], "fox:strat=1", 1, 1, "owl", True])
    assert slots == {}
    much, two, strat, true = wrong
    assert much.startswith("Network slot 1: ") and "unet is 'much', no number; write one such as" in much
    assert "slot 2" in two and "te is '[2]'" in two
    assert "slot 3" in strat and "perhaps 'start' is meant" in strat
    assert "slot 4" in true and "unet is 'True'" in true
    slots, wrong = read_slots(["cat", 0.8, 0.5])
    assert slots == {} and wrong == [
        "Network slots: the first value is 'cat'; write true to use them, or false."
    ]


@pytest.mark.parametrize(
    ("sweep", "first"),
    [
        ({NAME: "fox"}, NetworkCall("fox")),
        ({NAME: "fox:rank=4", "unet": 0.3, "te": 0.3}, NetworkCall("fox", 0.3, 0.3, rank=4)),
        ({NAME: NOTHING}, None),
        ({"unet": 0.3}, None),
    ],
)
def test_a_grid_sets_the_first_slot_also_where_the_slots_are_off(
    sweep: dict[str, object], first: NetworkCall | None
) -> None:
    assert read_slots([False, *TWO], sweep)[0].get(1) == first
    chosen = [True, "own", 0.8, 0.5, *TWO[3:]]
    assert read_slots(chosen, {"unet": 0.3})[0][1] == NetworkCall("own", 0.3, 0.5)
    assert read_slots(chosen, {"rank": 4, "stop": 0.5})[0][1] == NetworkCall(
        "own", 0.8, 0.5, rank=4, stop=0.5
    )
    assert read_slots(chosen, {NAME: NOTHING})[0].keys() == {2, 5}


def test_a_pictures_text_brings_the_slots_back() -> None:
    slots = {2: NetworkCall("cat", 0.8, 0.5), 5: NetworkCall("dog", -1, -1)}
    told = write_infotext(slots)
    assert told == {"Net 2": "cat:0.8:te=0.5", "Net 5": "dog:-1"}
    assert {slot: read_infotext(slot, told) for slot in slots} == slots
    assert read_infotext(1, told) == read_infotext(1, {"Net 1": "cat:wrong"}) == NetworkCall(NOTHING)
