"""The studio's tab: controls on the left, what happens on the right; it only talks to the workshop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from lib_ti.core.errors import StudioError
from lib_ti.core.settings import options_of
from lib_ti.methods.registry import KINDS
from lib_ti.runs import Status
from lib_ti.ui.controls import (
    depending_settings,
    dropdown,
    groups_of,
    make_controls,
    make_method_choice,
    updates_for,
    values_of,
)
from lib_ti.ui.view import ASKING, error_html, said_html, status_html, words_html
from lib_ti.workshop import Workshop

# Settings that the program's own txt2img page can give, in the order in which it hands its controls over.
FROM_TXT2IMG = (
    "preview_prompt",
    "preview_negative",
    "preview_steps",
    "preview_sampler",
    "preview_cfg",
    "preview_seed",
    "preview_width",
    "preview_height",
)
_SHOWN = 60  # previews in the gallery, the latest first


class Tab:
    """Builds the tab inside the gradio context that is open now."""

    def __init__(self, workshop: Workshop, txt2img: Sequence[Any] = ()) -> None:
        """``txt2img``: the controls that hold what ``FROM_TXT2IMG`` names, if the program has them."""
        self.workshop = workshop
        with gr.Row(elem_id="ti_studio_training", equal_height=False):
            with gr.Column():
                self._build_controls(bool(txt2img))
            with gr.Column():
                self._build_panel()
                self._build_words(bool(txt2img))
        inputs = [self.method, self.from_txt2img, *txt2img, *self.controls.values()]
        panel = [self.status, *self.buttons, self.shown, self.previews, self.saved_step]
        self.create.click(self._create, inputs, [self.said, *panel], queue=False)
        self.train.click(self._train, inputs, [self.said, *panel], queue=False)
        self.suggest.click(self._suggest, inputs, [self.said, self.suggested], queue=False)
        self.suggested.input(lambda word: word, [self.suggested], [self.controls["init_text"]], queue=False)
        self.poll.click(self._panel, [self.shown], panel, queue=False)
        self._connect_choices()
        for button, act in (
            (self.interrupt, self._interrupt),
            (self.stop_and_save, self._stop_and_save),
            (self.resume, self._resume),
        ):
            button.click(act, [], [self.said, *panel], queue=False)
        self.use_step.click(self._use_step, [self.saved_step], [self.said, self.status], queue=False)

    def _build_controls(self, with_txt2img: bool) -> None:
        choices = {
            "template": self.workshop.templates,
            "preview_sampler": lambda: ["", *self.workshop.place.sampler_names()],
        }
        self.method = make_method_choice()
        self.controls, self.groups = make_controls(choices, basic=True)
        with self.groups["embedding"], gr.Row(elem_classes="ti-studio-suggest"):
            self.suggest = gr.Button("Suggest init text", elem_id="ti_studio_suggest")
            self.suggested = gr.Dropdown(
                label="Words near to the pictures", choices=[], elem_id="ti_studio_suggested"
            )
        self.suggested.do_not_save_to_config = True
        self.from_txt2img = gr.Checkbox(
            label="Take the preview's prompt, sampler, seed and size from txt2img",
            elem_id="ti_studio_from_txt2img",
            visible=with_txt2img,
        )
        self.from_txt2img.do_not_save_to_config = True
        with gr.Row():
            self.create = gr.Button("Create embedding", elem_id="ti_studio_create")
            self.train = gr.Button("Train", variant="primary", elem_id="ti_studio_train")
        others, self.other_groups = make_controls(choices, basic=False)
        self.controls.update(others)

    def _connect_choices(self) -> None:
        """A method shows its own controls, a preset fills in its values."""
        changing = [self.controls[name] for name in depending_settings()]
        choices = [self.method, self.controls["preset"]]
        enclosing = [*self.groups.values(), *self.other_groups.values()]
        for choice in choices:
            # By a person's hand only: what is set from here asks nothing again.
            choice.input(self._choose, [*choices, *changing], [*changing, *enclosing], queue=False)

    def _choose(self, title: str, preset: str, *given: Any) -> list[Any]:
        method = _method(title)
        seen, others_seen = groups_of(method, basic=True), groups_of(method, basic=False)
        return [
            *updates_for(method, preset, given),
            *(gr.update(visible=group in seen) for group in self.groups),
            *(gr.update(visible=group in others_seen) for group in self.other_groups),
        ]

    def _build_panel(self) -> None:
        self.said = gr.HTML(elem_id="ti_studio_said")
        self.status = gr.HTML(ASKING, elem_id="ti_studio_status")
        with gr.Row():
            self.interrupt = gr.Button("Interrupt", elem_id="ti_studio_interrupt")
            self.stop_and_save = gr.Button("Stop and save", elem_id="ti_studio_stop_and_save")
            self.resume = gr.Button("Resume", elem_id="ti_studio_resume")
        self.buttons = [self.interrupt, self.stop_and_save, self.resume]
        self.previews = gr.Gallery(
            label="Previews of the job", columns=4, object_fit="contain", elem_id="ti_studio_previews"
        )
        with gr.Row():
            self.saved_step = gr.Dropdown(label="Saved step", choices=[], elem_id="ti_studio_saved_step")
            self.use_step = gr.Button("Put this step into embeddings", elem_id="ti_studio_use_step")
        self.saved_step.do_not_save_to_config = True
        # The page's script presses it while a job runs, and once when the page is opened.
        self.poll = gr.Button("Look", elem_id="ti_studio_poll", visible=True)
        self.shown = gr.State("")

    def _build_words(self, with_txt2img: bool) -> None:
        """Every word there is, also of earlier jobs and of other people, to be written into a prompt."""
        with gr.Column(visible=with_txt2img):
            common = {"label": "Word to write into a prompt", "elem_id": "ti_studio_word"}
            self.word = dropdown(self.workshop.words, {**common, "value": None, "interactive": True})
            self.word.do_not_save_to_config = True
            self.word_said = gr.HTML(elem_id="ti_studio_word_said")
        self.word.change(self._show_word, [self.word], [self.word_said], queue=False)

    # What the buttons do. Each answers with a sentence in the place of an error.

    def _values(self, title: str, from_txt2img: bool, given: Sequence[Any]) -> dict[str, Any]:
        method = _method(title)
        kind = KINDS[method].settings
        shown = given[-len(self.controls) :]
        held = {name: v for name, v in zip(self.controls, shown, strict=True) if name in options_of(kind)}
        if from_txt2img:
            held |= zip(FROM_TXT2IMG, given[: -len(shown)], strict=True)
        values = values_of(kind, list(held), list(held.values()))
        if from_txt2img:
            # -1 asks txt2img for a new seed every time; previews compare steps, so they keep theirs.
            values["preview_seed"] = max(0, values["preview_seed"])
        return {"method": method, **values}

    def _create(self, title: str, from_txt2img: bool, *given: Any) -> tuple[Any, ...]:
        def act() -> str:
            files = self.workshop.create(self._values(title, from_txt2img, given))
            return f"Created {_listed(files.values())}, not trained yet."

        return _told(act), *self._panel()

    def _suggest(self, title: str, from_txt2img: bool, *given: Any) -> tuple[str, Any]:
        words: list[str] = []

        def act() -> str:
            found = self.workshop.suggest(self._values(title, from_txt2img, given))
            words.extend(suggestion.word for suggestion in found)
            if not words:
                return "Stopped before a word was tried."
            return f"Near to the pictures: {', '.join(words)}. Choose one as init text."

        return _told(act), gr.update(choices=words, value=None)

    def _train(self, title: str, from_txt2img: bool, *given: Any) -> tuple[Any, ...]:
        def act() -> str:
            self.workshop.train(self._values(title, from_txt2img, given))
            return ""

        return _told(act), *self._panel()

    def _interrupt(self) -> tuple[Any, ...]:
        return self._stop(publish=False)

    def _stop_and_save(self) -> tuple[Any, ...]:
        return self._stop(publish=True)

    def _stop(self, *, publish: bool) -> tuple[Any, ...]:
        def act() -> str:
            self.workshop.stop(self._job(), publish=publish)
            return "Stopping after this step."

        return _told(act), *self._panel()

    def _resume(self) -> tuple[Any, ...]:
        def act() -> str:
            self.workshop.resume(self._job())
            return ""

        return _told(act), *self._panel()

    def _use_step(self, step: str | None) -> tuple[str, str]:
        def act() -> str:
            if not step:
                return "There is no saved step to choose yet."
            files = self.workshop.publish(self._job(), int(step))
            return f"Step {step} is now {_listed(files.values())}."

        return _told(act), self._panel()[0]

    def _show_word(self, word: str | None) -> str:
        return _html(lambda: words_html(self.workshop.find_words(word))) if word else ""

    def _panel(self, shown: str = "") -> tuple[Any, ...]:
        """The panel now; gallery and steps only when they differ from ``shown``, so that a picture that
        somebody looks at stays open."""
        status, losses = self._current()
        running = status is not None and status.running
        ended = status is not None and status.status in ("stopped", "failed", "broken off")
        buttons = [gr.update(interactive=on) for on in (running, running, ended)]
        now = f"{status.job} {list(status.previews)} {status.saved_steps}" if status else ""
        changing: tuple[Any, Any] = (gr.update(), gr.update())
        if now != shown:
            steps = [str(step) for step in status.saved_steps] if status else []
            chosen = gr.update(choices=steps, value=steps[-1] if steps else None)
            changing = (self._gallery(status), chosen)
        html = status_html(status, losses, self.workshop.published, self._waiting(status))
        return html, *buttons, now, *changing

    def _waiting(self, shown: Status | None) -> list[str]:
        """The words of the jobs that come after the one that is shown."""
        ids = [job for job in self.workshop.waiting() if shown is None or job != shown.job]
        return [self.workshop.status(job).settings["name"] for job in ids]

    def _gallery(self, status: Status | None) -> list[tuple[str, str]]:
        if status is None or not status.previews:  # a job that has not begun has no folder to look into
            return []
        pictures = [
            (str(path), f"step {step}")
            for step, paths in reversed(self.workshop.samples(status.job).items())
            for path in paths
        ]
        return pictures[:_SHOWN]

    def _job(self) -> str:
        """The job that the panel shows."""
        job = self.workshop.current() or next(iter(self.workshop.jobs()), None)
        if job is None:
            raise StudioError("There is no job yet.")
        return job

    def _current(self) -> tuple[Status | None, list[tuple[int, float, float]]]:
        try:
            job = self._job()
            return self.workshop.status(job), self.workshop.losses(job)
        except StudioError:
            return None, []


def _method(title: str) -> str:
    """The name of the method that the page calls ``title``."""
    return next(name for name, kind in KINDS.items() if kind.title == title)


def _listed(files: Iterable[Path]) -> str:
    return " and ".join(map(str, files))


def _told(act: Callable[[], str]) -> str:
    def told() -> str:
        sentence = act()
        return said_html(sentence) if sentence else ""

    return _html(told)


def _html(make: Callable[[], str]) -> str:
    """What ``make`` gives; an error as a sentence."""
    try:
        return make()
    except StudioError as error:
        return error_html(str(error))
