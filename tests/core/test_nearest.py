"""The name that was probably meant."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from lib_ti.commands.sd_scripts import translate
from lib_ti.core.errors import BadInput
from lib_ti.core.names import find_named
from lib_ti.core.nearest import nearest, perhaps
from lib_ti.data.templates import find_template
from lib_ti.methods.registry import read_settings
from lib_ti.tools.registry import find_tool

KNOWN = ("steps", "epochs", "learning_rate")
LINE = ["train_network.py", "--pretrained_model_name_or_path=builtin", "--network_module=networks.lora"]


def test_nearest() -> None:
    assert nearest("stesp", KNOWN) == "; perhaps 'steps' is meant"
    assert nearest("zzz", KNOWN) == "; choose one of epochs, learning_rate, steps"
    assert nearest("zzz", map(str, range(20))).endswith("and 8 more")
    assert nearest("zzz", ()) == ""
    assert perhaps("STEPS", KNOWN) == "; perhaps 'steps' is meant" and perhaps("zzz", KNOWN) == ""


def test_what_a_stranger_sends_costs_no_time() -> None:
    start = time.process_time()
    assert perhaps("a" * 1_000_000, ["b" * 100] * 50) == ""
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    ("values", "meant"),
    [
        ({"stepps": 3}, "'steps'"),
        ({"method": "dreamartst"}, "'dreamartist'"),
        ({"weighting": "minsnr"}, "'min-snr'"),
        ({"method": "lora", "train_parts": "unett"}, "'unet'"),
        ({"method": "dreamartist", "preset": "Styles"}, "'style'"),
        ({"method": "lora", "trigerword": "x"}, "'trigger_word'"),
    ],
)
def test_settings_of_every_door(values: dict[str, object], meant: str) -> None:
    """Of jobs, presets, pages, HTTP and command lines alike, which all are read here."""
    with pytest.raises(BadInput, match=f"perhaps {meant} is meant"):
        read_settings(values)


def test_names_of_other_things() -> None:
    for wrong, meant in (
        (lambda: find_tool("embedding", "inspct"), "embedding inspect"),
        (lambda: find_template("subjetc"), "subject"),
        (lambda: find_named("my-cta", {"my-cat.pt": Path("x")}, "embeddings"), "my-cat.pt"),
        (lambda: translate([*LINE, "--train_data_dir=x", "--network_dimm=4"], Path()), "--network_dim"),
        (lambda: translate(["train_netwrok.py"], Path()), "train_network.py"),
    ):
        with pytest.raises(BadInput, match=f"perhaps '{meant}' is meant"):
            wrong()
