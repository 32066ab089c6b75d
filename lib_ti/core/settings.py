"""Settings as plain dataclasses whose fields carry range, unit and help.

Widgets, API schema, command-line options and docs are made from them; nothing is laid out by hand.
"""

from __future__ import annotations

import contextlib
import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from lib_ti.core.errors import BadInput
from lib_ti.core.nearest import perhaps

T = TypeVar("T")
_HINTS: dict[type, dict[str, Any]] = {}

# What a setting can name: what is there, and what is to be made. A command line takes any path; a page and
# HTTP take names inside the folder that is meant for it, and a free path only to read pictures.
FILES = (
    "embedding",
    "new-embedding",
    "foreign-embedding",
    "network",
    "new-network",
    "checkpoint",
    "new-checkpoint",
    "pictures",
    "dataset",
    "new-dataset",
    "card",
    "new-card",
)


@dataclass(frozen=True)
class Option:
    """What a settings field says of itself beside its type and default."""

    help: str
    group: str
    low: float | None = None
    high: float | None = None
    unit: str = ""
    choices: tuple[str, ...] = ()
    label: str = ""  # on a page; "": the field's name
    basic: bool = False  # a page shows it at once and the others on request
    file: str = ""  # the kind of file or folder that it names, one of FILES
    several: bool = False  # it may name several, each on a line of its own
    needed: bool = False  # nothing can be done without it


def option(
    default: Any,
    help: str,
    *,
    group: str,
    low: float | None = None,
    high: float | None = None,
    unit: str = "",
    choices: tuple[str, ...] = (),
    label: str = "",
    basic: bool = False,
    file: str = "",
    several: bool = False,
    needed: bool = False,
) -> Any:
    """A settings field. ``low`` and ``high`` are inclusive; ``unit`` is shown beside the widget."""
    told = Option(help, group, low, high, unit, choices, label, basic, file, several, needed)
    return dataclasses.field(default=default, metadata={"option": told})


def with_default(kind: type, name: str, default: Any) -> Any:
    """The settings field ``name`` of ``kind``, with another default."""
    return dataclasses.field(default=default, metadata=options_of(kind)[name][0].metadata)


def options_of(kind: type) -> dict[str, tuple[dataclasses.Field[Any], Option, type]]:
    """Field, option and plain type (int, float, str or bool) of every setting, in order."""
    if kind not in _HINTS:  # Python evaluates the annotations for it: once, not with every request
        _HINTS[kind] = typing.get_type_hints(kind)
    hints = _HINTS[kind]
    return {f.name: (f, f.metadata["option"], hints[f.name]) for f in dataclasses.fields(kind)}


def label_of(name: str, option: Option) -> str:
    """What a page calls the setting ``name``."""
    label = option.label or name.replace("_", " ").capitalize()
    return f"{label} ({option.unit})" if option.unit else label


def _expected(option: Option, kind: type) -> str:
    """What a value should have been, in words."""
    if option.choices:
        return f"one of {', '.join(option.choices)}"
    noun = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}[kind]
    bounds = [
        f"{words} {bound:g}"
        for words, bound in (("of at least", option.low), ("of at most", option.high))
        if bound is not None
    ]
    return " ".join([noun, " and ".join(bounds), option.unit]).strip()


def _check(name: str, value: Any, option: Option, kind: type) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    good = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if good and option.choices:
        good = value in option.choices
    # Written so that nan fails: it is neither above nor below anything.
    if good and option.low is not None:
        good = value >= option.low
    if good and option.high is not None:
        good = value <= option.high
    if not good:
        meant = perhaps(value, option.choices) if isinstance(value, str) else ""
        raise BadInput(f"{name.replace('_', '-')}: got {value!r}, expected {_expected(option, kind)}{meant}.")
    return value


def from_text(kind: type, name: str, text: str, given: str) -> Any:
    """The value of one setting that is written as ``text``; ``given``: that as the user typed it, by which
    BadInput is raised."""
    _, option_, plain = options_of(kind)[name]
    return text_for(option_, plain, text, given)


def text_for(option_: Option, plain: type, text: str, given: str) -> Any:
    """As ``from_text``, of an option and its plain type."""
    value: Any = text
    with contextlib.suppress(ValueError):
        value = plain(text)
    try:
        return _check("", value, option_, plain)
    except BadInput:
        raise BadInput(
            f"{given}: expected {_expected(option_, plain)}{perhaps(text, option_.choices)}."
        ) from None


def build(kind: type[T], values: Mapping[str, Any]) -> T:
    """A ``kind`` from loose values (JSON, a form, the command line).

    Raises BadInput for an unknown key, a wrong type or a value out of range, by name.
    """
    known = options_of(kind)
    unknown = sorted(set(values) - set(known))
    if unknown:
        meant = "".join(perhaps(name, known) for name in unknown[:1])
        raise BadInput(f"unknown setting {', '.join(unknown)}{meant}; expected some of {', '.join(known)}.")
    checked = {}
    for name, (field, option_, plain) in known.items():
        checked[name] = _check(name, values.get(name, field.default), option_, plain)
        if option_.needed and checked[name] == "":
            told = option_.help[:1].lower() + option_.help[1:].removesuffix(".")
            raise BadInput(f"{name.replace('_', '-')}: missing; {told}.")
    return kind(**checked)


def as_dict(settings: Any) -> dict[str, Any]:
    """Settings as JSON values; ``build`` reads them back."""
    return dataclasses.asdict(settings)


def json_schema(kind: type) -> dict[str, Any]:
    """The settings as a JSON schema: type, range, default and help of each; nothing else is accepted."""
    properties = {}
    for name, (field, option_, plain) in options_of(kind).items():
        noun = {int: "integer", float: "number", str: "string", bool: "boolean"}[plain]
        told = {
            "type": noun,
            "default": field.default,
            "description": option_.help,
            "minimum": option_.low,
            "maximum": option_.high,
            "enum": list(option_.choices) or None,
        }
        properties[name] = {key: value for key, value in told.items() if value is not None}
    needed = [name for name, (_, option_, _) in options_of(kind).items() if option_.needed]
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**schema, "required": needed} if needed else schema
