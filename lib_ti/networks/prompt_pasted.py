"""What a picture's text says of networks, brought to what is here: slots of another extension, new names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from lib_ti.core.errors import BadInput
from lib_ti.networks.prompt import WORD
from lib_ti.networks.prompt_files import NetworkFolders
from lib_ti.networks.prompt_slots import SLOTS, key_of

HASHES = "Net hashes"  # of the networks that a picture was drawn with: "NAME: HASH, NAME: HASH"
# sd-webui-additional-networks' keys, before a slot's number: "LoRA"; "NAME(HASH)"; weights of the U-Net and
# of the text encoder.
ADDNET_MODULE, ADDNET_MODEL = "AddNet Module", "AddNet Model"
_ADDNET_WEIGHTS = ("AddNet Weight A", "AddNet Weight B")
_ADDNET_NAME = re.compile(r"(.+)\(([0-9a-fA-F]{8,64})\)")
_HASH = re.compile(r": ([0-9a-f]{8,64})(?:, |$)")  # after each name
_LOOKED_UP = 50  # networks at most: a stranger may have written the text
_PROMPTS = ("Prompt", "Negative prompt", "Hires prompt", "Hires negative prompt")


def fill_slots_of_addnet(told: dict[str, Any]) -> None:
    """Into our slots what sd-webui-additional-networks had in its own, where these are empty."""
    hashes = [told[HASHES]] if HASHES in told else []
    for slot in SLOTS if told.get("AddNet Enabled", "True") == "True" else ():
        named = _ADDNET_NAME.fullmatch(str(told.get(f"{ADDNET_MODEL} {slot}", "")).strip())
        if named is None or told.get(f"{ADDNET_MODULE} {slot}") != "LoRA":
            continue
        unet, text = (told.get(f"{key} {slot}") for key in _ADDNET_WEIGHTS)
        unet = unet or "1"
        name = named[1].strip()
        told.setdefault(key_of(slot), f"{name}:unet={unet}:te={text or unet}")
        hashes.append(f"{name}: {named[2].lower()}")
    if hashes:
        told[HASHES] = ", ".join(hashes)


def follow_renamed(told: dict[str, Any], folders: NetworkFolders, words: Sequence[str] = (WORD,)) -> None:
    """Tags and slots call a network that is gone by the name that a file with its hash has now."""
    names_and_hashes = _HASH.split(str(told.get(HASHES, "")), _LOOKED_UP)[:-1]
    for name, digits in zip(names_and_hashes[::2], names_and_hashes[1::2], strict=True):
        try:
            folders.find(name)
        except BadInput:
            if (now := folders.with_hash(digits)) is not None:
                _rename(told, name, now, words)


def _rename(told: dict[str, Any], name: str, now: str, words: Sequence[str]) -> None:
    tag = rf"<(?:{'|'.join(map(re.escape, words))}):\s*"
    for key, before in {**dict.fromkeys(_PROMPTS, tag), **dict.fromkeys(map(key_of, SLOTS), "^")}.items():
        if key in told:
            called = rf"({before}){re.escape(name)}(?=\s*(?:[:>]|$))"
            told[key] = re.sub(called, lambda match: match[1] + now, told[key], flags=re.IGNORECASE)
