"""The tools on a page: a part for each group, a form for each tool, made from its settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from lib_ti.core.errors import StudioError
from lib_ti.core.settings import options_of
from lib_ti.tools.registry import GROUPS, tools_of
from lib_ti.tools.tool import Tool
from lib_ti.ui.cards import Cards
from lib_ti.ui.controls import make_control, values_of
from lib_ti.ui.view import error_html, said_html, told_html
from lib_ti.workshop import Workshop

# What a group has besides, above the forms.
PARTS: dict[str, Callable[[Workshop], Any]] = {"card": Cards}


class ToolsTab:
    """Builds a sub-tab for every group inside the gradio tabs that are open now."""

    def __init__(self, workshop: Workshop) -> None:
        self.workshop = workshop
        for group, title in GROUPS.items():
            with gr.Tab(title, elem_id=f"ti_studio_tools_{group}"):
                if group in PARTS:
                    PARTS[group](workshop)
                for tool in tools_of(group):
                    self._build(tool)

    def _build(self, tool: Tool) -> None:
        prefix = f"tool_{tool.group}_{tool.name}"
        title = tool.name.replace("-", " ").capitalize()
        with gr.Accordion(f"{title}: {tool.help}", open=False, elem_id=f"ti_studio_{prefix}"):
            controls = [
                make_control(
                    f"{prefix}_{name}",
                    field.default,
                    option,
                    plain,
                    label=f"{title}: {option.label or name.replace('_', ' ')}",
                    choices=self._choices(option.file),
                )
                for name, (field, option, plain) in options_of(tool.settings).items()
            ]
            button = gr.Button(title, elem_id=f"ti_studio_{prefix}_go")
            said = gr.HTML(elem_id=f"ti_studio_{prefix}_said")
            pictures = gr.Gallery(
                visible=False, show_label=False, columns=4, elem_id=f"ti_studio_{prefix}_pictures"
            )
        button.click(lambda *given: self._use(tool, given), controls, [said, pictures], queue=False)

    def _choices(self, kind: str) -> Callable[[], Sequence[str]] | None:
        """What is there of a kind of files; None where any name may be typed."""
        listed = self.workshop.files(kind)
        return None if listed is None else lambda: self.workshop.files(kind) or []

    def _use(self, tool: Tool, given: Sequence[Any]) -> tuple[str, Any]:
        try:
            typed = ["\n".join(value) if isinstance(value, list) else value for value in given]
            values = values_of(tool.settings, list(options_of(tool.settings)), typed)
            answer = self.workshop.use(tool.group, tool.name, values)
        except StudioError as error:
            return error_html(str(error)), gr.update(visible=False)
        shown = gr.update(value=list(answer.pictures), visible=bool(answer.pictures))
        return said_html(answer.sentence) + told_html(answer.told), shown
