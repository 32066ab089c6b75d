"""Cards on the page: drop a picture, hear what it is, own its word; and one's own cards, to drag out."""

from __future__ import annotations

from typing import Any

import gradio as gr

from lib_ti.core.errors import StudioError
from lib_ti.ui.view import error_html, said_html, told_html, words_html
from lib_ti.workshop import Workshop

# The page's script reads the file that is dropped here and hands it over as text: gradio's own inputs would
# open it before us, or let a stranger name a path.
_DROP = (
    '<label class="ti-studio-drop"><input type="file" accept="image/png" /><img alt="" hidden />'
    "<b>Drop a card here</b><span>or click to choose one. Nothing is added before you say so.</span></label>"
)


class Cards:
    """Builds itself inside the gradio context that is open now."""

    def __init__(self, workshop: Workshop) -> None:
        self.workshop = workshop
        gr.HTML(_DROP)
        hidden = {"elem_classes": "ti-studio-unseen"}
        self.dropped = gr.Textbox(label="Card: file", elem_id="ti_studio_card_dropped", **hidden)
        self.look = gr.Button("Look at the card", elem_id="ti_studio_card_look", **hidden)
        self.said = gr.HTML(elem_id="ti_studio_card_said")
        with gr.Row(visible=False) as self.ask:
            self.name = gr.Textbox(
                label="Card: what to call the word", max_lines=1, elem_id="ti_studio_card_name"
            )
            self.add = gr.Button("Add this word", variant="primary", elem_id="ti_studio_card_add")
        with gr.Accordion("My cards: drag one out to share it", elem_id="ti_studio_cards"):
            self.gallery = gr.Gallery(
                self._cards,
                show_label=False,
                columns=4,
                object_fit="contain",
                height="auto",
                elem_id="ti_studio_cards_gallery",
            )
            self.again = gr.Button("List them again", elem_id="ti_studio_cards_again")
        for control in (self.dropped, self.name, self.gallery):
            control.do_not_save_to_config = True
        self.look.click(self._look, [self.dropped], [self.said, self.ask, self.name], queue=False)
        self.add.click(self._add, [self.dropped, self.name], [self.said, self.ask], queue=False)
        self.again.click(self._cards, [], [self.gallery], queue=False)

    def _look(self, card: str) -> tuple[str, Any, Any]:
        try:
            answer = self.workshop.use("card", "look", {"card": card})
        except StudioError as error:
            return error_html(str(error)), gr.update(visible=False), gr.update()
        told = {name.replace("_", " "): value for name, value in answer.told.items()}
        suggested = told.pop("suggested name")
        return said_html(answer.whole_sentence) + told_html(told), gr.update(visible=True), suggested

    def _add(self, card: str, name: str) -> tuple[str, Any]:
        try:
            answer = self.workshop.use("card", "import", {"card": card, "name": name.strip()})
        except StudioError as error:
            return error_html(str(error)), gr.update()
        words = words_html(self.workshop.find_words(answer.told["words"][0]))
        return said_html(answer.whole_sentence) + words, gr.update(visible=False)

    def _cards(self) -> list[tuple[str, str]]:
        """The files themselves, so that what is dragged out is the card to the byte."""
        return [(str(path), path.stem) for path in self.workshop.cards()]
