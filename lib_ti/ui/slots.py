"""The slots for networks beside a prompt: closed, and off until they are switched on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr

from lib_ti.networks.prompt_slots import COUNT, NOTHING, read_infotext

_LOW, _HIGH, _STEP = -1.0, 2.0, 0.05  # of a weight; a tag in the prompt takes any


@dataclass(frozen=True)
class Slots:
    """``controls``: the switch, then name, U-Net and text weight of each slot; ``pasted``: for each control
    what it is after a picture's text was pasted."""

    controls: list[Any]
    pasted: list[tuple[Any, Callable[[Mapping[str, Any]], Any]]]


def build_slots(names: Callable[[], list[str]], tab: str) -> Slots:
    """In the gradio context that is open now. ``names``: of the networks there are; ``tab``: for ids."""

    def element(name: str) -> str:
        return f"ti_studio_{tab}_{name}"

    controls: list[Any] = []
    pasted: list[tuple[Any, Callable[[Mapping[str, Any]], Any]]] = []
    choices = [NOTHING, *names()]
    with gr.Accordion("Networks (TI Studio)", open=False, elem_id=element("networks")):
        with gr.Row():
            enabled = gr.Checkbox(False, label="Use these networks", elem_id=element("networks_on"))
            refresh = gr.Button("Refresh the list", elem_id=element("networks_refresh"))
        controls.append(enabled)
        pasted.append((enabled, lambda told: any(_is_called(slot, told) for slot in _SLOTS)))
        for slot in _SLOTS:
            with gr.Row():
                row = [
                    gr.Dropdown(
                        choices, value=NOTHING, label=f"Network {slot}", elem_id=element(f"net_{slot}")
                    ),
                    _weight(f"U-Net weight {slot}", element(f"unet_{slot}")),
                    _weight(f"Text encoder weight {slot}", element(f"text_{slot}")),
                ]
            controls += row
            pasted += zip(row, _readers(slot), strict=True)
    for control in controls:
        control.do_not_save_to_config = True  # it is off when the page is opened
    dropdowns = controls[1::3]
    refresh.click(
        lambda: [gr.update(choices=[NOTHING, *names()]) for _ in dropdowns], [], dropdowns, queue=False
    )
    return Slots(controls, pasted)


_SLOTS = range(1, COUNT + 1)


def _weight(label: str, element: str) -> Any:
    return gr.Slider(_LOW, _HIGH, value=1.0, step=_STEP, label=label, elem_id=element)


def _is_called(slot: int, told: Mapping[str, Any]) -> bool:
    return read_infotext(slot, told).name != NOTHING


def _readers(slot: int) -> tuple[Callable[[Mapping[str, Any]], Any], ...]:
    return (
        lambda told: read_infotext(slot, told).name,
        lambda told: read_infotext(slot, told).unet,
        lambda told: read_infotext(slot, told).text,
    )
