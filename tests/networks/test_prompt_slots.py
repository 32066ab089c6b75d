from __future__ import annotations

import pytest

from lib_ti.networks.prompt import NetworkCall
from lib_ti.networks.prompt_slots import COUNT, NOTHING, read_infotext, read_slots, write_infotext

EMPTY = [NOTHING, 1.0, 1.0]
TWO = [*EMPTY, "a cat", 0.8, 0.5, *EMPTY, *EMPTY, "dog", -1, -1]


def test_slots_are_read_only_when_they_are_on() -> None:
    assert read_slots(False, TWO, {}) == {}
    assert read_slots(True, EMPTY * COUNT, {}) == {}
    assert read_slots(True, TWO, {}) == {2: NetworkCall("a cat", 0.8, 0.5), 5: NetworkCall("dog", -1, -1)}


@pytest.mark.parametrize(
    ("sweep", "first"),
    [
        ({"name": "fox"}, NetworkCall("fox")),
        ({"name": "fox", "unet": 0.3, "text": 0.3}, NetworkCall("fox", 0.3, 0.3)),
        ({"name": NOTHING}, None),
        ({"unet": 0.3}, None),
    ],
)
def test_a_grid_sets_the_first_slot_also_where_the_slots_are_off(
    sweep: dict[str, object], first: NetworkCall | None
) -> None:
    assert read_slots(False, TWO, sweep).get(1) == first
    chosen = ["own", 0.8, 0.5, *TWO[3:]]
    assert read_slots(True, chosen, {"unet": 0.3})[1] == NetworkCall("own", 0.3, 0.5)
    assert read_slots(True, chosen, {"name": NOTHING}).keys() == {2, 5}


def test_a_pictures_text_brings_the_slots_back() -> None:
    slots = {2: NetworkCall("cat", 0.8, 0.5), 5: NetworkCall("dog", -1, -1)}
    told = write_infotext(slots)
    assert told == {"Net 2": "cat:0.8:te=0.5", "Net 5": "dog:-1"}
    assert {slot: read_infotext(slot, told) for slot in slots} == slots
    assert read_infotext(1, told) == read_infotext(1, {"Net 1": "cat:wrong"}) == NetworkCall(NOTHING)
