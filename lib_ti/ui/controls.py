"""Controls made from a settings class: nothing is laid out by hand, nothing can be forgotten."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

import gradio as gr

from lib_ti.core.settings import Option, label_of, options_of

_SLIDER_SPAN = 100  # a wider range is typed, not dragged

# The groups in the order of a page, and what it calls them.
GROUPS = {
    "embedding": "The new word",
    "pictures": "The pictures",
    "length": "How long",
    "learning": "How it learns",
    "saving": "What is saved",
    "previews": "Previews",
}


def element_id(name: str) -> str:
    return f"ti_studio_{name}"


def make_controls(
    kind: type, choices: Mapping[str, Callable[[], Sequence[str]]], *, basic: bool
) -> dict[str, Any]:
    """The basic settings of ``kind``, or the others behind a heading for each group.

    ``choices``: of text settings whose values only the program knows; a button asks it again.
    """
    known = [
        (name, field.default, option, plain)
        for name, (field, option, plain) in options_of(kind).items()
        if option.basic == basic
    ]
    known.sort(key=lambda entry: list(GROUPS).index(entry[2].group))
    controls = {}
    for group, entries in groupby(known, key=lambda entry: entry[2].group):
        with gr.Group() if basic else gr.Accordion(f"More: {GROUPS[group].lower()}", open=False):
            if basic:
                gr.HTML(f"<h3>{GROUPS[group]}</h3>", elem_classes="ti-studio-heading")
            for name, default, option, plain in entries:
                controls[name] = _control(name, default, option, plain, choices.get(name))
    return controls


def _control(
    name: str, default: Any, option: Option, plain: type, choices: Callable[[], Sequence[str]] | None
) -> Any:
    common = {
        "value": default,
        "label": label_of(name, option),
        "info": option.help,
        "elem_id": element_id(name),
        "interactive": True,
    }
    if choices is not None:
        control = _dropdown(choices, common)
    elif option.choices:
        control = gr.Radio(choices=list(option.choices), **common)
    elif plain is bool:
        control = gr.Checkbox(**common)
    elif plain is str:
        control = gr.Textbox(max_lines=1, **common)
    elif option.low is not None and option.high is not None and option.high - option.low <= _SLIDER_SPAN:
        step = 1 if plain is int else 0.05 if option.high <= 1 else 0.5
        control = gr.Slider(minimum=option.low, maximum=option.high, step=step, **common)
    else:
        control = gr.Number(precision=0 if plain is int else None, **common)
    # The WebUI keeps values by label, and takes the first control of a label for all of them: those of
    # another extension, or of its own Train tab, would overwrite these.
    control.do_not_save_to_config = True
    return control


def _dropdown(choices: Callable[[], Sequence[str]], common: Mapping[str, Any]) -> gr.Dropdown:
    with gr.Row(elem_classes="ti-studio-choice"):
        dropdown = gr.Dropdown(choices=list(choices()), **common)
        again = gr.Button("↻", elem_id=f"{common['elem_id']}_again", scale=0, min_width=40)
    again.click(lambda: gr.update(choices=list(choices())), [], [dropdown], queue=False)
    return dropdown


def values_of(kind: type, names: Sequence[str], given: Sequence[Any]) -> dict[str, Any]:
    """What the controls ``names`` hold, as ``build`` takes it: an emptied box stands for the default."""
    known = options_of(kind)
    values = {}
    for name, value in zip(names, given, strict=True):
        field, _, plain = known[name]
        if value is None:
            values[name] = field.default
        elif plain is int and isinstance(value, float) and value.is_integer():
            values[name] = int(value)  # sliders give 3.0
        else:
            values[name] = value
    return values
