"""The caption editor: a data set's pictures one by one, each with the cut drawn, and its caption to write."""

from __future__ import annotations

from typing import Any

import gradio as gr

from lib_ti.core.errors import StudioError
from lib_ti.tools.tool import Answer
from lib_ti.ui.controls import dropdown
from lib_ti.ui.view import error_html, said_html, tags_html
from lib_ti.workshop import Workshop

_SIDE = 640  # pixels of the picture that is shown


class CaptionEditor:
    """Builds the editor inside the gradio context that is open now. It writes in data sets only, by their
    names and those of their pictures."""

    def __init__(self, workshop: Workshop) -> None:
        self.workshop = workshop
        common = {"label": "Data set to write captions for", "elem_id": "ti_studio_captions_of"}
        self.dataset = dropdown(self._datasets, {**common, "value": None, "interactive": True}, later=True)
        self.chooser = (self.dataset, "dataset")
        with gr.Row(equal_height=False):
            self.picture = gr.Image(
                interactive=False, show_label=False, height=420, elem_id="ti_studio_captions_picture"
            )
            with gr.Column():
                self._build_caption()
        self.tags = gr.HTML(elem_id="ti_studio_captions_tags")
        self.file = gr.State("")  # whose caption is in the box
        for control in (self.dataset, self.number, self.caption):
            control.do_not_save_to_config = True
        self._connect()

    def _datasets(self) -> list[str]:
        return self.workshop.files("dataset") or []

    def _build_caption(self) -> None:
        self.facts = gr.HTML(elem_id="ti_studio_captions_facts")
        self.caption = gr.Textbox(
            label="Caption of this picture", lines=5, interactive=True, elem_id="ti_studio_captions_text"
        )
        self.save = gr.Button("Save this caption", variant="primary", elem_id="ti_studio_captions_save")
        with gr.Row():
            self.back = gr.Button("Previous picture", elem_id="ti_studio_captions_back")
            self.number = gr.Number(
                1, label="Picture number", precision=0, interactive=True, elem_id="ti_studio_captions_number"
            )
            self.on = gr.Button("Next picture", elem_id="ti_studio_captions_on")
        self.said = gr.HTML(elem_id="ti_studio_captions_said")

    def _connect(self) -> None:
        shown = [self.picture, self.facts, self.caption, self.number, self.file, self.tags, self.said]
        place = [self.dataset, self.number]
        self.dataset.change(lambda name: self._show(name, 1), [self.dataset], shown, queue=False)
        self.number.submit(self._show, place, shown, queue=False)
        self.back.click(lambda name, number: self._show(name, number - 1), place, shown, queue=False)
        self.on.click(lambda name, number: self._show(name, number + 1), place, shown, queue=False)
        given = [self.dataset, self.number, self.file, self.caption]
        self.save.click(self._save, given, shown, queue=False)

    def _show(self, dataset: str | None, number: float | None, said: str = "") -> list[Any]:
        """The picture of that number; beyond the last one comes the first."""
        if not dataset:
            return [None, "", "", 1, "", "", ""]
        try:
            place = 1 if number is None else int(number)
            answer = self._look(dataset, place)
            count = answer.told["count"]
            if not 1 <= place <= count:
                place = 1 if place > 1 else count
                answer = self._look(dataset, place)
        except StudioError as error:
            return [None, "", "", 1, "", "", error_html(str(error))]
        (row,) = answer.told["pictures"]
        facts = said_html(f"{place} of {count}: {_facts(row)}")
        picture = answer.pictures[0][0] if answer.pictures else None
        tags = tags_html(answer.told["tags"])
        return [picture, facts, row["caption"], place, row["file"], tags, said]

    def _look(self, dataset: str, number: int) -> Answer:
        values = {"images": dataset, "first": max(1, number), "count": 1, "side": _SIDE, "duplicates": False}
        return self.workshop.use("images", "look", values)

    def _save(self, dataset: str | None, number: float | None, file: str, caption: str) -> list[Any]:
        """Of the picture that is shown, whatever number has been typed meanwhile."""
        try:
            values = {"images": dataset or "", "picture": file, "caption": caption}
            said = said_html(self.workshop.use("images", "write-caption", values).whole_sentence)
        except StudioError as error:
            return [gr.update() for _ in range(6)] + [error_html(str(error))]
        return self._show(dataset, number, said)


def _facts(row: dict[str, Any]) -> str:
    told = f"{row['file']}, {row['size']}, trained at {row['bucket']}, {row['lost']} cut off"
    return "; ".join([told, *row["warnings"]]) + "."
