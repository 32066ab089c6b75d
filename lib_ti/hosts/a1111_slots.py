"""The slots for networks in AUTOMATIC1111's WebUI, and the X/Y/Z grid's axes for the first of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lib_ti.core.errors import BadInput
from lib_ti.hosts.a1111_networks import CALLS, network_folders, tell, words
from lib_ti.networks.prompt import parse_tag
from lib_ti.networks.prompt_blocks import PRESETS
from lib_ti.networks.prompt_pasted import ADDNET_MODEL, HASHES, fill_slots_of_addnet, follow_renamed
from lib_ti.networks.prompt_slots import (
    NAME,
    NOTHING,
    SLOTS,
    TITLE,
    key_of,
    read_slots,
    write_infotext,
)

_GRID = "X/Y/Z plot"
_SWEEP = "ti_studio_sweep"  # attribute of a generation: what a grid sets of the first slot
_PREFIX = "[TI Studio] "
_NETWORK = f"{_PREFIX}network"
# Axis -> type of its values, and the words of a tag that they are given to.
_AXES: Mapping[str, tuple[type[Any], tuple[str, ...]]] = {
    "weight": (float, ("unet", "te")),
    "U-Net weight": (float, ("unet",)),
    "text encoder weight": (float, ("te",)),
    "rank": (int, ("rank",)),
    "blocks": (str, ("blocks",)),
    "start": (float, ("start",)),
    "stop": (float, ("stop",)),
}


def use_slots(p: Any, values: Sequence[Any]) -> None:
    """At the start of the generation ``p``; ``values``: of ``ui.slots.Slots.controls``."""
    slots, wrong = read_slots(values, getattr(p, _SWEEP, {}))
    setattr(p, CALLS, list(slots.values()))
    for sentence in wrong:
        tell(p, sentence)
    # A new one, since the grid's pictures begin as copies of one generation and would share it.
    ours = {HASHES, *map(key_of, SLOTS)}
    others = {key: value for key, value in p.extra_generation_params.items() if key not in ours}
    p.extra_generation_params = {**others, **write_infotext(slots)}


def pasted(told: dict[str, Any]) -> None:
    """Before the page's controls read what a picture's text has told."""
    from modules import scripts

    fields = [name for _, name in scripts.scripts_txt2img.infotext_fields]
    if f"{ADDNET_MODEL} 1" not in fields:  # or that extension is here, and has slots of its own
        fill_slots_of_addnet(told)
    follow_renamed(told, network_folders(), words())


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
        _NETWORK,
        str,
        lambda p, value, _values: _sweep(p, (NAME,), value),
        confirm=_confirm_names,
        choices=lambda: [NOTHING, *network_folders().files()],
    )
    return [network, *(_axis(grid, what, *told) for what, told in _AXES.items())]


def _axis(grid: Any, what: str, kind: type[Any], words: Sequence[str]) -> Any:
    def confirm(p: Any, values: Sequence[Any]) -> None:
        """Raises BadInput before the first picture."""
        for value in values:
            parse_tag(f"NAME:{words[0]}={value}")
        if not _is_chosen(p):
            raise BadInput(
                f"the axis {_PREFIX}network's {what} moves the first network slot, which is empty; choose a "
                f"network there, under {TITLE}, or take {_NETWORK} as another axis."
            )

    return grid.AxisOption(
        f"{_PREFIX}network's {what}",
        kind,
        lambda p, value, _values: _sweep(p, words, value),
        confirm=confirm,
        choices=(lambda: list(PRESETS)) if what == "blocks" else None,
    )


def _sweep(p: Any, words: Sequence[str], value: Any) -> None:
    # A new object, for the same reason.
    setattr(p, _SWEEP, {**getattr(p, _SWEEP, {}), **dict.fromkeys(words, value)})


def _confirm_names(_p: Any, names: Sequence[str]) -> None:
    """Raises BadInput before the first picture for a network that is not there."""
    for name in names:
        if name != NOTHING:
            network_folders().find(parse_tag(name).name)


def _is_chosen(p: Any) -> bool:
    """Whether the first slot will call something: what the page gives it, or an axis of the grid."""
    slots, grid = (p.scripts.script(title) for title in (TITLE, _GRID))
    values = p.script_args[slots.args_from : slots.args_to]
    numbers = p.script_args[grid.args_from : grid.args_to][:9:3]  # of each axis: number, text, choices
    axes = {grid.current_axis_options[number or 0].label for number in numbers}
    return 1 in read_slots(values)[0] or _NETWORK in axes
