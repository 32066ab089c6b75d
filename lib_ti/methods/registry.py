"""Every kind of training there is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lib_ti.core.errors import BadInput
from lib_ti.core.later import Later
from lib_ti.core.nearest import perhaps
from lib_ti.core.settings import Option, build, options_of
from lib_ti.methods.dreamartist_settings import PRESETS, DreamArtistSettings
from lib_ti.methods.kind import JobSettings, Kind
from lib_ti.methods.network_settings import C3LierSettings, DyLoraSettings, LoraSettings, NetworkSettings
from lib_ti.methods.vector_settings import InversionSettings

_INVERSION = "lib_ti.methods.textual_inversion"
_DREAMARTIST = "lib_ti.methods.dreamartist"
_LORA = "lib_ti.methods.lora"
_from_pictures = Later("lib_ti.methods.starts", "from_pictures")


def _network(name: str, title: str, settings: type[NetworkSettings]) -> Kind:
    return Kind(
        name=name,
        title=title,
        settings=settings,
        words=Later(_LORA, "words_of"),
        start=Later(_LORA, "initial_word"),
        make=Later(_LORA, "NetworkTraining"),
        preflight=Later(_LORA, "preflight"),
        vectors=Later(_LORA, "vectors_of"),
        others=Later(_LORA, "others_of"),
    )


INVERSION: Kind = Kind(
    name="ti",
    title="Textual inversion",
    settings=InversionSettings,
    words=lambda settings: settings.words,
    start=Later(_INVERSION, "initial_words"),
    make=Later(_INVERSION, "TextualInversion"),
    preflight=Later(_INVERSION, "check_start"),
    vectors=Later(_INVERSION, "vectors_of"),
    refine=lambda *given: _from_pictures(INVERSION, *given),
    create=Later(_INVERSION, "untrained"),
)
DREAMARTIST: Kind = Kind(
    name="dreamartist",
    title="DreamArtist",
    settings=DreamArtistSettings,
    words=lambda settings: settings.words,
    start=Later(_DREAMARTIST, "initial_pair"),
    make=Later(_DREAMARTIST, "DreamArtist"),
    preflight=Later(_DREAMARTIST, "preflight"),
    failing_loss=0.2,
    vectors=Later(_DREAMARTIST, "vectors_of"),
    refine=lambda *given: _from_pictures(DREAMARTIST, *given),
    create=Later(_DREAMARTIST, "untrained"),
    presets=PRESETS,
)
LORA = _network("lora", "LoRA", LoraSettings)
C3LIER = _network("c3lier", "C3Lier (LoCon)", C3LierSettings)
DYLORA = _network("dylora", "DyLoRA", DyLoraSettings)
KINDS: Mapping[str, Kind] = {kind.name: kind for kind in (INVERSION, DREAMARTIST, LORA, C3LIER, DYLORA)}
DEFAULT = INVERSION.name


def kind_named(name: Any) -> Kind:
    """Raises BadInput where there is none of that name."""
    if not isinstance(name, str) or name not in KINDS:
        meant = perhaps(name, KINDS) if isinstance(name, str) else ""
        raise BadInput(f"method: got {name!r}, expected one of {', '.join(KINDS)}{meant}.")
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
