"""The slots for networks in AUTOMATIC1111's WebUI, and the X/Y/Z grid's axes for the first of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lib_ti.hosts.a1111_networks import SLOTS, network_folders
from lib_ti.networks.prompt_slots import NOTHING, read_slots, write_infotext

_SWEEP = "ti_studio_sweep"  # attribute of a generation: fields of the first slot's call
_PREFIX = "[TI Studio] "
_WEIGHTS = {"weight": ("unet", "text"), "U-Net weight": ("unet",), "text encoder weight": ("text",)}


def use_slots(p: Any, values: Sequence[Any]) -> None:
    """At the start of the generation ``p``; ``values``: of ``ui.slots.Slots.controls``."""
    enabled, *weights = values or (False,)  # scripts that draw for themselves may give none
    slots = read_slots(bool(enabled), weights, getattr(p, _SWEEP, {}))
    setattr(p, SLOTS, list(slots.values()))
    p.extra_generation_params.update(write_infotext(slots))


def add_axes() -> None:
    """To the grid's own list; once, however often the page is made."""
    from modules import scripts

    for data in scripts.scripts_data:
        if data.script_class.__module__ != "xyz_grid.py":
            continue
        grid = data.module
        known = {option.label for option in grid.axis_options}
        grid.axis_options += [option for option in _axes(grid) if option.label not in known]


def _axes(grid: Any) -> list[Any]:
    network = grid.AxisOption(
        f"{_PREFIX}network",
        str,
        lambda p, value, _values: _sweep(p, ("name",), value),
        confirm=_confirm,
        choices=lambda: [NOTHING, *network_folders().files()],
    )
    return [
        network,
        *(
            grid.AxisOption(
                f"{_PREFIX}network's {what}",
                float,
                lambda p, value, _values, fields=fields: _sweep(p, fields, value),
            )
            for what, fields in _WEIGHTS.items()
        ),
    ]


def _sweep(p: Any, fields: Sequence[str], value: Any) -> None:
    # A new object, since the grid's pictures begin as copies of one generation and would share it.
    setattr(p, _SWEEP, {**getattr(p, _SWEEP, {}), **dict.fromkeys(fields, value)})


def _confirm(_p: Any, names: Sequence[str]) -> None:
    """Raises BadInput before the first picture for a network that is not there."""
    for name in names:
        if name != NOTHING:
            network_folders().find(name)
