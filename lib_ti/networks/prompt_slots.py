"""Networks chosen by controls in the place of tags: five slots, each with two weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, islice, repeat
from typing import Any

from lib_ti.core.errors import BadInput
from lib_ti.networks.prompt import NetworkCall, format_tag, parse_tag

TITLE = "Networks (TI Studio)"  # of the controls
COUNT = 5
SLOTS = range(1, COUNT + 1)
NOTHING = "None"
NAME = "name"  # in a sweep


def read_slots(
    values: Sequence[Any], sweep: Mapping[str, Any] = {}
) -> tuple[dict[int, NetworkCall], list[str]]:
    """Slot, from 1, -> what it calls; and sentences about those that are wrong, which call nothing.

    ``values``: whether the slots are on, then name, U-Net and text weight of each in turn; None, or nothing,
    where it is as on a new page. A name may go on as a tag does: ``NAME:rank=4``. ``sweep``: what something
    else sets of the first slot, as a grid of pictures does: its ``NAME``, or by a tag's words. It also
    switches the slot on.
    """
    slots: dict[int, NetworkCall] = {}
    wrong = []
    enabled, *filled = islice(chain(values, repeat(None)), 1 + 3 * COUNT)
    if enabled is not None and not isinstance(enabled, bool):
        wrong.append(f"Network slots: the first value is {enabled!r}; write true to use them, or false.")
        enabled = False
    for slot in SLOTS:
        name, unet, text = filled[3 * slot - 3 : 3 * slot] if enabled else [None] * 3
        words = {NAME: name, "unet": unet, "te": text, **(sweep if slot == 1 else {})}
        name = words.pop(NAME)
        if name in (None, "", NOTHING):
            continue
        told = [f"{key}={value}" for key, value in words.items() if value is not None]
        try:
            slots[slot] = parse_tag(":".join([str(name), *told]))
        except BadInput as error:
            wrong.append(f"Network slot {slot}: {error}")
    return slots, wrong


def write_infotext(slots: Mapping[int, NetworkCall]) -> dict[str, str]:
    """What a picture's text says of them."""
    return {key_of(slot): format_tag(call) for slot, call in sorted(slots.items())}


def read_infotext(slot: int, told: Mapping[str, Any]) -> NetworkCall:
    """What a picture's text says of one slot; of one that it does not know, that nothing is called."""
    try:
        return parse_tag(str(told[key_of(slot)]))
    except (KeyError, BadInput):
        return NetworkCall(NOTHING)


def key_of(slot: int) -> str:
    return f"Net {slot}"
