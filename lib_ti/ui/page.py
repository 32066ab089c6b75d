"""The studio's page: training, and the tools around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from lib_ti.ui.tab import Tab
from lib_ti.ui.tools import ToolsTab
from lib_ti.workshop import Workshop


def build_page(workshop: Workshop, txt2img: Sequence[Any] = ()) -> None:
    """Into the gradio context that is open now. ``txt2img``: see ``Tab``."""
    with gr.Tabs(elem_id="ti_studio"):
        with gr.Tab("Train", elem_id="ti_studio_train_tab"):
            Tab(workshop, txt2img)
        ToolsTab(workshop)
