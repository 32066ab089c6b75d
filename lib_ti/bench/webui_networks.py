"""Networks that a prompt calls, by a real WebUI's own loader and by ours: a switch and the steps after it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import Any

import torch

from lib_ti.bench.lora import random_lora
from lib_ti.bench.webui import find_webui
from lib_ti.bench.webui_step import fresh_webui, install_script, write_model
from lib_ti.networks.tools.saving import save_network
from lib_ti.networks.tools.stored import open_checkpoint

log = logging.getLogger(__name__)

# Drawn in this order, again and again: the network before is always another one. "added": ours without second
# weights, so that every layer's change is added to its answer.
TURNS = {
    "plain": "a photo",
    "builtin": "a photo <lora:first:1>",
    "ours": "a photo <net:second:1>",
    "added": "a photo <net:first:1>",
}


def bench_networks(arch: str, size: int, steps: int, rounds: int, rank: int) -> dict[str, Any]:
    """Seconds of a whole picture of ``steps`` steps with a C3Lier of ``rank`` that was not in use before, by
    the built-in loader and by ours, in turn in one process; and of a call of the U-Net after the first.

    ``arch``: "sd15", random weights, or "tiny", the built-in model. Raises BadInput where no WebUI is
    installed, StudioError where it fails.
    """
    find_webui()  # before minutes go into a checkpoint
    with TemporaryDirectory(prefix="ti-studio-bench-") as folder:
        data = Path(folder)
        log.info("writing a checkpoint into %s", data)
        checkpoint = write_model(data, arch)
        install_script(data)
        networks = data / "models" / "Lora"
        networks.mkdir()
        for name in ("first", "second"):
            updates = random_lora(open_checkpoint(checkpoint), rank).updates
            save_network(networks / f"{name}.safetensors", updates, torch.float16, {"ss_output_name": name})
        with fresh_webui(data) as webui:
            asked = {"turns": TURNS, "size": size, "steps": steps, "rounds": rounds}
            drawn = webui.call("/bench/networks", asked)
            versions = webui.call("/bench")["versions"]
    told = {"arch": arch, "size": size, "steps": steps, "rounds": rounds, "rank": rank}
    return {**told, **compare(drawn), "versions": versions}


def compare(drawn: Sequence[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Medians over the rounds. ``drawn``: of each round, by turn, seconds of the picture and of each call of
    the U-Net."""

    def ratios(measure: str, turn: str, of: str) -> dict[str, Any]:
        values = [_seconds(one[turn], measure) / _seconds(one[of], measure) for one in drawn]
        quartiles = quantiles(values, n=4) if len(values) > 1 else []
        return {"ratio": round(median(values), 3), "quartiles": [round(q, 3) for q in quartiles]}

    return {
        "picture_seconds": {
            turn: round(median(one[turn]["seconds"] for one in drawn), 2) for turn in drawn[0]
        },
        "ours_to_builtin": ratios("seconds", "ours", "builtin"),
        "step_ours_to_plain": ratios("calls", "ours", "plain"),
        "step_added_to_plain": ratios("calls", "added", "plain"),
    }


def _seconds(picture: dict[str, Any], measure: str) -> float:
    """Of the whole picture, or a call of the U-Net: its median, without the first, which prepares."""
    return float(picture["seconds"]) if measure == "seconds" else float(median(picture["calls"][1:]))
