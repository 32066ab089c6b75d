"""Settings as plain dataclasses whose fields carry range, unit and help.

Widgets, API schema, command-line options and docs are made from them; nothing is laid out by hand.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from lib_ti.core.errors import BadInput

T = TypeVar("T")


@dataclass(frozen=True)
class Option:
    """What a settings field says of itself beside its type and default."""

    help: str
    group: str
    low: float | None = None
    high: float | None = None
    unit: str = ""
    choices: tuple[str, ...] = ()


def option(
    default: Any,
    help: str,
    *,
    group: str,
    low: float | None = None,
    high: float | None = None,
    unit: str = "",
    choices: tuple[str, ...] = (),
) -> Any:
    """A settings field. ``low`` and ``high`` are inclusive; ``unit`` is shown beside the widget."""
    return dataclasses.field(
        default=default, metadata={"option": Option(help, group, low, high, unit, choices)}
    )


def options_of(kind: type) -> dict[str, tuple[dataclasses.Field[Any], Option, type]]:
    """Field, option and plain type (int, float, str or bool) of every setting, in order."""
    hints = typing.get_type_hints(kind)
    found = {}
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
            hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
        found[field.name] = (field, field.metadata["option"], hint)
    return found


def _check(name: str, value: Any, option: Option, kind: type, optional: bool) -> Any:
    label = name.replace("_", "-")
    expected = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}[kind]
    if value is None and optional:
        return None
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise BadInput(f"{label}: got {value!r}, expected {expected}.")
    if option.choices and value not in option.choices:
        raise BadInput(f"{label}: got {value!r}, expected one of {', '.join(option.choices)}.")
    too_low = option.low is not None and not value >= option.low
    too_high = option.high is not None and not value <= option.high
    if too_low or too_high:
        low = "" if option.low is None else f" of at least {option.low:g}"
        high = (
            ""
            if option.high is None
            else f" and at most {option.high:g}"
            if low
            else f" of at most {option.high:g}"
        )
        unit = f" {option.unit}" if option.unit else ""
        raise BadInput(f"{label}: got {value!r}, expected {expected}{low}{high}{unit}.")
    return value


def build(kind: type[T], values: Mapping[str, Any]) -> T:
    """A ``kind`` from loose values (JSON, a form, the command line).

    Raises BadInput for an unknown key, a wrong type or a value out of range, by name.
    """
    known = options_of(kind)
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise BadInput(f"unknown setting {', '.join(unknown)}; expected some of {', '.join(known)}.")
    checked = {}
    for name, (field, option_, plain) in known.items():
        if name in values:
            value = values[name]
        elif field.default is dataclasses.MISSING:
            raise BadInput(f"{name.replace('_', '-')}: missing; {option_.help}")
        else:
            value = field.default
        checked[name] = _check(name, value, option_, plain, optional=field.default is None)
    return kind(**checked)


def as_dict(settings: Any) -> dict[str, Any]:
    """Settings as JSON values; ``build`` reads them back."""
    return dataclasses.asdict(settings)
