from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lib_ti.networks.prompt import NetworkCall
from lib_ti.networks.prompt_files import NetworkFolders
from lib_ti.networks.prompt_pasted import HASHES, fill_slots_of_addnet, follow_renamed
from lib_ti.networks.prompt_slots import read_infotext

# As sd-webui-additional-networks writes it and the WebUI reads it.
ADDNET = {
    "AddNet Enabled": "True",
    "AddNet Module 1": "LoRA",
    "AddNet Model 1": "a cat(0123456789ab)",
    "AddNet Weight A 1": "0.8",
    "AddNet Weight B 1": "0.5",
    "AddNet Module 3": "LoRA",
    "AddNet Model 3": "dog (v2) (AABBCCDD)",
    "AddNet Weight A 3": "-1",
}


@pytest.fixture
def folders(tmp_path: Path) -> NetworkFolders:
    """With one network, which was called "cat" when its hash was told."""
    save_file(
        {"x": torch.zeros(1)}, tmp_path / "tiger.safetensors", {"sshs_model_hash": "0123456789ab" + "c" * 52}
    )
    return NetworkFolders([tmp_path])


def test_the_slots_of_another_extension_become_ours() -> None:
    told = dict(ADDNET)
    fill_slots_of_addnet(told)
    assert {slot: read_infotext(slot, told) for slot in (1, 2, 3)} == {
        1: NetworkCall("a cat", 0.8, 0.5),
        2: NetworkCall("None"),
        3: NetworkCall("dog (v2)", -1, -1),
    }
    assert told[HASHES] == "a cat: 0123456789ab, dog (v2): aabbccdd"


@pytest.mark.parametrize(
    "change",
    [
        {"AddNet Enabled": "False"},
        {"AddNet Module 1": "LyCORIS", "AddNet Module 3": "?"},
        {"AddNet Model 1": "None", "AddNet Model 3": "(12345678)"},
    ],
)
def test_what_was_off_or_is_no_network_stays_out(change: dict[str, str]) -> None:
    told = {**ADDNET, **change}
    fill_slots_of_addnet(told)
    assert told == {**ADDNET, **change}


def test_a_renamed_network_is_called_by_its_new_name(folders: NetworkFolders) -> None:
    told = {
        HASHES: "cat: 0123456789ab, tiger: 0123456789ab, fox: 111111111111, a cat, old: 0123456789ab",
        "Prompt": "cat <net:cat:0.5>, <net: Cat > <net:cats> <net:fox> <lora:cat:1>",
        "Negative prompt": "<net:cat:start=0.2>",
        "Net 1": "cat:0.8:te=0.5",
        "Net 2": "cat",
        "Net 3": "cats:1",
        "Net 4": "a cat, old:1",
    }
    follow_renamed(told, folders)
    assert told == {
        HASHES: told[HASHES],
        "Prompt": "cat <net:tiger:0.5>, <net: tiger > <net:cats> <net:fox> <lora:cat:1>",
        "Negative prompt": "<net:tiger:start=0.2>",
        "Net 1": "tiger:0.8:te=0.5",
        "Net 2": "tiger",
        "Net 3": "cats:1",
        "Net 4": "tiger:1",
    }
    follow_renamed(told, folders, ("net", "lora"))
    assert told["Prompt"].endswith("<lora:tiger:1>")


def test_a_network_that_is_there_is_the_one_that_was_meant(folders: NetworkFolders, tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "cat.safetensors")
    told = {HASHES: "cat: 0123456789ab", "Prompt": "<net:cat:1>"}
    follow_renamed(told, folders)
    assert told["Prompt"] == "<net:cat:1>"
    for hashes in ("", "cat", "cat: x", ": 0123456789ab"):
        follow_renamed({HASHES: hashes}, folders)


def test_a_strangers_text_does_not_take_long(folders: NetworkFolders) -> None:
    start = time.monotonic()
    for text in ("a: " * 100_000, "a: 0123456789, " * 20_000, " (" * 100_000):
        told = {HASHES: text, **ADDNET, "AddNet Model 1": f"a{text}b"}
        fill_slots_of_addnet(told)
        follow_renamed(told, folders)
    assert time.monotonic() - start < 20
