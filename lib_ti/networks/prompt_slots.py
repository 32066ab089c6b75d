"""Networks chosen by controls in the place of tags: five slots, each with two weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lib_ti.core.errors import BadInput
from lib_ti.networks.prompt import NetworkCall, format_tag, parse_tag

COUNT = 5
NOTHING = "None"


def read_slots(enabled: bool, values: Sequence[Any], sweep: Mapping[str, Any]) -> dict[int, NetworkCall]:
    """Slot, from 1, -> what it calls. ``values``: name, U-Net and text weight of each slot in turn.

    ``sweep``: fields of the first slot's call that something else sets, as a grid of pictures does, which
    also switches it on.
    """
    slots = {}
    for slot in range(1, COUNT + 1) if enabled or sweep else ():
        name, unet, text = values[3 * slot - 3 : 3 * slot]
        if enabled and name and name != NOTHING:
            slots[slot] = NetworkCall(name, float(unet), float(text))
    if sweep:
        first = replace(slots.pop(1, NetworkCall(NOTHING)), **sweep)
        if first.name != NOTHING:
            slots = {1: first, **slots}
    return slots


def write_infotext(slots: Mapping[int, NetworkCall]) -> dict[str, str]:
    """What a picture's text says of them."""
    return {_key(slot): format_tag(call) for slot, call in sorted(slots.items())}


def read_infotext(slot: int, told: Mapping[str, Any]) -> NetworkCall:
    """What a picture's text says of one slot; of one that it does not know, that nothing is called."""
    try:
        return parse_tag(str(told[_key(slot)]))
    except (KeyError, BadInput):
        return NetworkCall(NOTHING)


def _key(slot: int) -> str:
    return f"Net {slot}"
