"""The slots for networks beside a prompt: closed, and off until they are switched on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import gradio as gr

from lib_ti.networks.prompt import format_without_weights
from lib_ti.networks.prompt_pasted import ADDNET_MODULE
from lib_ti.networks.prompt_slots import NOTHING, SLOTS, TITLE, read_infotext

_LOW, _HIGH, _STEP = -1.0, 2.0, 0.05  # of a weight; a tag in the prompt takes any

Reader: TypeAlias = Callable[[Mapping[str, Any]], Any]


@dataclass(frozen=True)
class Slots:
    """``controls``: the switch, then name, U-Net and text weight of each slot; ``pasted``: for each control
    what it is after a picture's text was pasted, by the same objects ``READERS`` on every page that draws;
    and fields of other extensions that are read here."""

    controls: list[Any]
    pasted: list[tuple[Any, Reader | str]]


def build_slots(names: Callable[[], list[str]], tab: str) -> Slots:
    """In the gradio context that is open now. ``names``: of the networks there are; ``tab``: for ids."""

    def element(name: str) -> str:
        return f"ti_studio_{tab}_{name}"

    controls: list[Any] = []
    choices = [NOTHING, *names()]
    with gr.Accordion(TITLE, open=False, elem_id=element("networks")):
        with gr.Row():
            enabled = gr.Checkbox(False, label="Use these networks", elem_id=element("networks_on"))
            refresh = gr.Button("Refresh the list", elem_id=element("networks_refresh"))
        controls.append(enabled)
        for slot in SLOTS:
            with gr.Row():
                controls += [
                    gr.Dropdown(
                        choices,
                        value=NOTHING,
                        allow_custom_value=True,  # NAME:rank=4; and one that came after the page was made
                        label=f"Network {slot}",
                        elem_id=element(f"net_{slot}"),
                    ),
                    _weight(f"U-Net weight {slot}", element(f"unet_{slot}")),
                    _weight(f"Text encoder weight {slot}", element(f"text_{slot}")),
                ]
    for control in controls:
        control.do_not_save_to_config = True  # it is off when the page is opened
    dropdowns = controls[1::3]
    refresh.click(
        lambda: [gr.update(choices=[NOTHING, *names()]) for _ in dropdowns], [], dropdowns, queue=False
    )
    # Nobody sees it: by a field of this name the WebUI's own Lora knows that it need not read the others.
    addnet = gr.Textbox(visible=False, elem_id=element("addnet"))
    return Slots(controls, [*zip(controls, READERS, strict=True), (addnet, f"{ADDNET_MODULE} 1")])


def _weight(label: str, element: str) -> Any:
    return gr.Slider(_LOW, _HIGH, value=1.0, step=_STEP, label=label, elem_id=element)


def _are_called(told: Mapping[str, Any]) -> bool:
    return any(read_infotext(slot, told).name != NOTHING for slot in SLOTS)


def _readers(slot: int) -> tuple[Reader, ...]:
    return (
        lambda told: format_without_weights(read_infotext(slot, told)),
        lambda told: read_infotext(slot, told).unet,
        lambda told: read_infotext(slot, told).text,
    )


# Made once: by them the WebUI tells which control of txt2img is which of img2img when it sends a picture.
READERS: tuple[Reader, ...] = (_are_called, *(reader for slot in SLOTS for reader in _readers(slot)))
