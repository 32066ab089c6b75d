"""What a network file says of itself, to be read and changed."""

from __future__ import annotations

from typing import Any

import gradio as gr

from lib_ti.core.errors import BadInput, StudioError
from lib_ti.networks.prompt_files import NetworkFolders
from lib_ti.networks.prompt_metadata import metadata_text, save_metadata_text
from lib_ti.ui.view import error_html, said_html


class MetadataEditor:
    """Builds itself inside the gradio context that is open now, closed at first."""

    def __init__(self, folders: NetworkFolders) -> None:
        self._folders = folders
        with gr.Accordion("Metadata of a network file", open=False, elem_id="ti_studio_metadata"):
            with gr.Row():
                self.name = gr.Dropdown(
                    [*folders.files()], label="Network file", elem_id="ti_studio_metadata_file"
                )
                self.refresh = gr.Button("Refresh the list", elem_id="ti_studio_metadata_refresh")
            self.said = gr.HTML(elem_id="ti_studio_metadata_said")
            self.text = gr.Textbox(
                label="Metadata as JSON", lines=12, max_lines=30, elem_id="ti_studio_metadata_text"
            )
            self.save = gr.Button("Save into the file", elem_id="ti_studio_metadata_save")
        for control in (self.name, self.text):
            control.do_not_save_to_config = True
        self.refresh.click(lambda: gr.update(choices=[*folders.files()]), [], [self.name], queue=False)
        # By a person's hand only: the list that is read anew changes nothing.
        self.name.input(self._read, [self.name], [self.text, self.said], queue=False)
        self.save.click(self._save, [self.name, self.text], [self.text, self.said], queue=False)

    def _read(self, name: str | None) -> tuple[Any, str]:
        try:
            return metadata_text(self._folders.find(name or "")), ""
        except StudioError as error:
            return "", error_html(str(error))

    def _save(self, name: str | None, text: str) -> tuple[Any, str]:
        try:
            if not name:
                raise BadInput("no file is chosen; choose one first.")
            path = self._folders.find(name)
            save_metadata_text(path, text)
        except StudioError as error:
            return gr.update(), error_html(str(error))  # what was typed stays
        return metadata_text(path), said_html(f"Saved into {path}.")
