"""The tools on a page: a part for each group, a form for each tool, made from its settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from lib_ti.core.errors import StudioError
from lib_ti.core.settings import Option, label_of, options_of
from lib_ti.tools.registry import GROUPS, tools_of
from lib_ti.tools.tool import Tool
from lib_ti.ui.cards import Cards
from lib_ti.ui.controls import make_control, values_of
from lib_ti.ui.file_lists import FileLists
from lib_ti.ui.metadata import MetadataEditor
from lib_ti.ui.pictures import CaptionEditor
from lib_ti.ui.view import error_html, said_html, told_html, works_html
from lib_ti.workshop import Workshop

# What a group has besides, above the forms.
PARTS: dict[str, Callable[[Workshop], Any]] = {"card": Cards}
# Tools that have a part of the page of their own in the place of a form; what it offers is its ``chooser``.
EDITORS: dict[tuple[str, str], type[CaptionEditor] | type[MetadataEditor]] = {
    ("images", "write-caption"): CaptionEditor,
    ("lora", "edit-metadata"): MetadataEditor,
}


class ToolsTab:
    """Builds a sub-tab for every group inside the gradio tabs that are open now."""

    def __init__(self, workshop: Workshop) -> None:
        self.workshop = workshop
        self._lists = FileLists(workshop)
        self._clicked: list[Any] = []
        groups = []
        for group, title in GROUPS.items():
            with gr.Tab(title, elem_id=f"ti_studio_tools_{group}") as tab:
                groups.append(tab)
                if group in PARTS:
                    PARTS[group](workshop)
                with gr.Tabs(elem_id=f"ti_studio_tools_of_{group}"):
                    for tool in tools_of(group):
                        with gr.Tab(_title(tool), elem_id=f"ti_studio_tab_{tool.group}_{tool.name}"):
                            if editor := EDITORS.get((tool.group, tool.name)):
                                self._lists.add(*editor(workshop).chooser)
                            else:
                                self._build(tool)
        self._build_works()
        # What was trained meanwhile, or one tool has written, the next one offers.
        for tab in groups:
            tab.select(self._lists.updates, [], self._lists.controls, queue=False)
        for event in self._clicked:
            event.then(self._lists.updates, [], self._lists.controls, queue=False)

    def _build_works(self) -> None:
        """How far tools are, below them all: whatever tab is open, and after the page was opened anew."""
        with gr.Row(visible=False, elem_id="ti_studio_works") as row:
            told = gr.HTML()
            stop = gr.Button("Stop", scale=0, elem_id="ti_studio_works_stop")
        poll = gr.Button(elem_id="ti_studio_works_poll", elem_classes="ti-studio-unseen")
        for button in (stop, poll):
            button.do_not_save_to_config = True
        poll.click(self._works, [], [row, told], queue=False)
        stop.click(self.workshop.works.stop, [], [], queue=False)

    def _works(self) -> tuple[Any, str]:
        works = self.workshop.works.now()
        return gr.update(visible=bool(works)), works_html(works)

    def _build(self, tool: Tool) -> None:
        """The form at the left, what it did at the right."""
        prefix = f"tool_{tool.group}_{tool.name}"
        with gr.Row(elem_id=f"ti_studio_{prefix}", elem_classes="ti-studio-tool", equal_height=False):
            with gr.Column(scale=4):
                gr.HTML(f"<p>{_sentence(tool.help)}</p>", elem_classes="ti-studio-heading")
                controls = [
                    self._control(f"{prefix}_{name}", name, field.default, option, plain)
                    for name, (field, option, plain) in options_of(tool.settings).items()
                ]
                button = gr.Button(_title(tool), elem_id=f"ti_studio_{prefix}_go", variant="primary")
                button.do_not_save_to_config = True  # a WebUI keeps whether it is seen, by its title
            with gr.Column(scale=5):
                said = gr.HTML(elem_id=f"ti_studio_{prefix}_said")
                pictures = gr.Gallery(
                    visible=False,
                    show_label=False,
                    columns=4,
                    object_fit="contain",
                    elem_id=f"ti_studio_{prefix}_pictures",
                )
                told = gr.HTML(elem_id=f"ti_studio_{prefix}_told")
        shown = [said, pictures, told]
        self._clicked.append(
            button.click(lambda *given: self._use(tool, given), controls, shown, queue=False)
        )

    def _control(self, element: str, name: str, default: Any, option: Option, plain: type) -> Any:
        may_be_empty = not (option.needed or option.several)
        choices = self._lists.choices(option.file, may_be_empty=may_be_empty)
        value = None if option.several and choices else default
        told = replace(option, help=_sentence(option.help))
        control = make_control(element, value, told, plain, choices, label=label_of(name, option), later=True)
        if choices is not None:
            self._lists.add(control, option.file, may_be_empty=may_be_empty)
        return control

    def _use(self, tool: Tool, given: Sequence[Any]) -> tuple[str, Any, str]:
        try:
            typed = ["\n".join(value) if isinstance(value, list) else value for value in given]
            values = values_of(tool.settings, list(options_of(tool.settings)), typed)
            answer = self.workshop.use(tool.group, tool.name, values)
        except StudioError as error:
            return error_html(str(error)), gr.update(visible=False), ""
        shown = gr.update(value=list(answer.pictures), visible=bool(answer.pictures))
        return said_html(answer.whole_sentence), shown, told_html(answer.told)


def _title(tool: Tool) -> str:
    return tool.name.replace("-", " ").capitalize()


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].removesuffix('.')}."
