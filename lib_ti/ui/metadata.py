"""What a network file says of itself, to be read and changed."""

from __future__ import annotations

import json
from typing import Any

import gradio as gr

from lib_ti.core.errors import BadInput, StudioError
from lib_ti.tools.tool import Answer
from lib_ti.ui.controls import dropdown
from lib_ti.ui.view import error_html, said_html
from lib_ti.workshop import Workshop


class MetadataEditor:
    """Builds itself inside the gradio context that is open now."""

    def __init__(self, workshop: Workshop) -> None:
        self.workshop = workshop
        common = {"label": "Network file", "elem_id": "ti_studio_metadata_file"}
        self.name = dropdown(self._networks, {**common, "value": None, "interactive": True}, later=True)
        self.chooser = (self.name, "network")
        self.said = gr.HTML(elem_id="ti_studio_metadata_said")
        self.text = gr.Textbox(
            label="Metadata as JSON", lines=12, max_lines=30, elem_id="ti_studio_metadata_text"
        )
        self.save = gr.Button("Save into the file", variant="primary", elem_id="ti_studio_metadata_save")
        for control in (self.name, self.text):
            control.do_not_save_to_config = True
        # By a person's hand only: the list that is read anew changes nothing.
        self.name.input(self._read, [self.name], [self.text, self.said], queue=False)
        self.save.click(self._save, [self.name, self.text], [self.text, self.said], queue=False)

    def _networks(self) -> list[str]:
        return self.workshop.files("network") or []

    def _read(self, name: str | None) -> tuple[Any, str]:
        try:
            return _text(self._use(name)), ""
        except StudioError as error:
            return "", error_html(str(error))

    def _save(self, name: str | None, text: str) -> tuple[Any, str]:
        try:
            if not name:
                raise BadInput("no file is chosen; choose one first.")
            answer = self._use(name, text or "{}")
        except StudioError as error:
            return gr.update(), error_html(str(error))  # what was typed stays
        return _text(answer), said_html(answer.whole_sentence)

    def _use(self, name: str | None, metadata: str = "") -> Answer:
        return self.workshop.use("lora", "edit-metadata", {"file": name or "", "metadata": metadata})


def _text(answer: Answer) -> str:
    return json.dumps(answer.told["metadata"], indent=2, ensure_ascii=False)
