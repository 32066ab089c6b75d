"""Controls made from the settings of every method: nothing is laid out by hand, nothing can be forgotten.

What methods share has one control; what only some know is seen while one of them is chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

import gradio as gr

from lib_ti.core.settings import Option, label_of, options_of
from lib_ti.methods.registry import DEFAULT, KINDS, all_options

_SLIDER_SPAN = 100  # a wider range is typed, not dragged

# The groups in the order of a page, and what it calls them.
GROUPS = {
    "embedding": "What is taught",
    "network": "The network",
    "pictures": "The pictures",
    "length": "How long",
    "learning": "How it learns",
    "memory": "What it needs in memory",
    "saving": "What is saved",
    "previews": "Previews",
}


def element_id(name: str) -> str:
    return f"ti_studio_{name}"


def make_method_choice() -> Any:
    """Which method the other controls are for."""
    control = gr.Radio(
        choices=[kind.title for kind in KINDS.values()],
        value=KINDS[DEFAULT].title,
        label="Method",
        elem_id=element_id("method"),
        interactive=True,
    )
    control.do_not_save_to_config = True
    return control


def make_controls(
    choices: Mapping[str, Callable[[], Sequence[str]]], *, basic: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The basic settings, or the others behind a heading for each group, as the default method has them: the
    controls by setting, and what encloses those of a group, by group.

    ``choices``: of text settings whose values only the program knows; a button asks it again.
    """
    known = [entry for entry in all_options().items() if entry[1][0].basic == basic]
    known.sort(key=lambda entry: list(GROUPS).index(entry[1][0].group))
    controls, groups = {}, {}
    for group, entries in groupby(known, key=lambda entry: entry[1][0].group):
        seen = group in groups_of(DEFAULT, basic=basic)
        title = f"More: {GROUPS[group].lower()}"
        groups[group] = gr.Group(visible=seen) if basic else gr.Accordion(title, open=False, visible=seen)
        with groups[group]:
            if basic:
                gr.HTML(f"<h3>{GROUPS[group]}</h3>", elem_classes="ti-studio-heading")
            for name, (option, plain, defaults) in entries:
                value, visible = next(iter(defaults.values())), DEFAULT in defaults
                controls[name] = make_control(name, value, option, plain, choices.get(name), visible=visible)
    return controls, groups


def groups_of(method: str, *, basic: bool) -> set[str]:
    """The groups in which the method has a setting, basic or not."""
    told = all_options().values()
    return {option.group for option, _, defaults in told if option.basic == basic and method in defaults}


def make_control(
    name: str,
    value: Any,
    option: Option,
    plain: type,
    choices: Callable[[], Sequence[str]] | None = None,
    *,
    label: str = "",
    visible: bool = True,
    later: bool = False,
) -> Any:
    """The control of one setting; ``choices``: see ``make_controls``, ``later``: see ``dropdown``."""
    common = {
        "value": value,
        "visible": visible,
        "label": label or label_of(name, option),
        "info": option.help,
        "elem_id": element_id(name),
        "interactive": True,
    }
    if choices is not None:
        control = dropdown(choices, {**common, "multiselect": option.several}, later=later)
    elif option.choices:
        control = gr.Radio(choices=list(option.choices), **common)
    elif plain is bool:
        control = gr.Checkbox(**common)
    elif plain is str:
        control = gr.Textbox(max_lines=8 if option.several else 1, **common)
    elif option.low is not None and option.high is not None and option.high - option.low <= _SLIDER_SPAN:
        step = 1 if plain is int else 0.05 if option.high <= 1 else 0.5
        control = gr.Slider(minimum=option.low, maximum=option.high, step=step, **common)
    else:
        control = gr.Number(precision=0 if plain is int else None, **common)
    # The WebUI keeps values by label, and takes the first control of a label for all of them: those of
    # another extension, or of its own Train tab, would overwrite these.
    control.do_not_save_to_config = True
    return control


def dropdown(
    choices: Callable[[], Sequence[str]], common: Mapping[str, Any], *, later: bool = False
) -> gr.Dropdown:
    """A choice of what only the program knows; a button asks it again. ``later``: it is not asked now."""
    with gr.Row(elem_classes="ti-studio-choice"):
        choice = gr.Dropdown(choices=[] if later else list(choices()), **common)
        again = gr.Button("↻", elem_id=f"{common['elem_id']}_again", scale=0, min_width=40)
    again.click(lambda: gr.update(choices=list(choices())), [], [choice], queue=False)
    return choice


def depending_settings() -> list[str]:
    """The settings that not every method has, or not with the same default, and those of presets."""
    preset = {name for kind in KINDS.values() for values in kind.presets.values() for name in values}
    return [
        name
        for name, (_, _, defaults) in all_options().items()
        if name in preset or len(defaults) < len(KINDS) or len(set(defaults.values())) > 1
    ]


def updates_for(method: str, preset: str, given: Sequence[Any]) -> list[Any]:
    """What a choice of method and preset changes at the controls of ``depending_settings``, which hold
    ``given``: the method's own are shown, and values that nobody typed become those of the choice."""
    chosen, updates = KINDS[method].presets.get(preset, {}), []
    for name, value in zip(depending_settings(), given, strict=True):
        _, _, defaults = all_options()[name]
        offered = [
            values[name] for kind in KINDS.values() for values in kind.presets.values() if name in values
        ]
        untouched = method in defaults and value in [*defaults.values(), *offered]
        told = {"value": chosen.get(name, defaults[method])} if untouched else {}
        updates.append(gr.update(visible=method in defaults, **told))
    return updates


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
