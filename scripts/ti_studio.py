"""The WebUI's way in: a few callbacks, each of which imports what it needs when it is called.

Nothing is patched, downloaded or started here. This file runs again at "Reload UI", the package does
not: its workshop, with the job that may be running, lives on.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import gradio as gr
from modules import script_callbacks, scripts

import lib_ti.webui  # found now, while the WebUI has this folder on its path, or never

# Forge and reForge hold the model in their own ways, which no adapter of ours answers yet.
IS_FORGE = find_spec("modules_forge") is not None
NOT_YET = (
    "TI Studio trains in AUTOMATIC1111's WebUI and on the command line. In this program, which holds the "
    "model in another way, nothing can be trained yet; embeddings made elsewhere work here as usual."
)


def train_tab(params: Any) -> None:
    with gr.Tab(label="TI Studio", id="ti_studio"):
        lib_ti.webui.build_tab(params.txt2img_preview_params)


def own_tab() -> list[tuple[gr.Blocks, str, str]]:
    with gr.Blocks(analytics_enabled=False) as page:
        gr.HTML(f"<p>{NOT_YET}</p>", elem_id="ti_studio_not_yet")
    return [(page, "TI Studio", "ti_studio")]


class NetworkSlots(scripts.Script):
    """The slots for networks below the prompts of txt2img and img2img."""

    def title(self) -> str:
        return "Networks (TI Studio)"

    def show(self, _is_img2img: bool) -> Any:
        return not IS_FORGE and scripts.AlwaysVisible

    def ui(self, is_img2img: bool) -> list[Any]:
        slots = lib_ti.webui.build_slots("img2img" if is_img2img else "txt2img")
        self.infotext_fields = slots.pasted
        self.paste_field_names = [read for _, read in slots.pasted if callable(read)]
        return slots.controls

    def process(self, p: Any, *values: Any) -> None:
        lib_ti.webui.use_slots(p, values)


if IS_FORGE:
    script_callbacks.on_ui_tabs(own_tab)
else:
    script_callbacks.on_before_ui(lib_ti.webui.before_page)
    script_callbacks.on_ui_settings(lib_ti.webui.add_options)
    script_callbacks.on_cfg_denoiser(lib_ti.webui.before_denoising)
    script_callbacks.on_infotext_pasted(lib_ti.webui.text_pasted)
    script_callbacks.on_ui_train_tabs(train_tab)
    script_callbacks.on_app_started(lib_ti.webui.add_routes)
