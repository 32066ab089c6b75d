"""Every kind of training there is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lib_ti.core.errors import BadInput
from lib_ti.core.settings import Option, build, options_of
from lib_ti.methods import dreamartist, lora, textual_inversion
from lib_ti.methods.kind import JobSettings, Kind

KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (textual_inversion.KIND, dreamartist.KIND, lora.LORA, lora.C3LIER, lora.DYLORA)
}
DEFAULT = textual_inversion.KIND.name


def kind_named(name: Any) -> Kind:
    """Raises BadInput where there is none of that name."""
    if not isinstance(name, str) or name not in KINDS:
        raise BadInput(f"method: got {name!r}, expected one of {', '.join(KINDS)}.")
    return KINDS[name]


def kind_of(settings: JobSettings) -> Kind:
    """The kind whose settings these are."""
    return next(kind for kind in KINDS.values() if kind.settings is type(settings))


def all_options() -> dict[str, tuple[Option, type, dict[str, Any]]]:
    """Every setting of every kind, once: its option, its plain type, and its default by kind.

    What kinds share has one meaning; only its default may differ.
    """
    found: dict[str, tuple[Option, type, dict[str, Any]]] = {}
    for kind in KINDS.values():
        for name, (field, option, plain) in options_of(kind.settings).items():
            found.setdefault(name, (option, plain, {}))[2][kind.name] = field.default
    return found


def read_settings(values: Mapping[str, Any]) -> JobSettings:
    """Settings from loose values, of the kind that the value "method" names. Raises BadInput."""
    given = dict(values)
    kind = kind_named(given.pop("method", DEFAULT))
    strange = given.keys() - options_of(kind.settings).keys()
    known = all_options() if strange else {}
    for name in sorted(strange & known.keys()):
        owners = ", ".join(known[name][2])
        raise BadInput(f"{name.replace('_', '-')} belongs to the method {owners}, and this is {kind.name}.")
    preset = kind.presets.get(str(given.get("preset")), {})
    settings: JobSettings = build(kind.settings, {**preset, **given})
    return settings
