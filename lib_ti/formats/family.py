"""Which family a model, a network or an embedding belongs to: widths decide, names confirm.

Sources: v1-inference.yaml of CompVis, v2-inference.yaml and sd_xl_base.yaml of Stability: what the U-Net's
cross attention reads is 768, 1024 or 2048 numbers wide; the text encoders are CLIP ViT-L (768), OpenCLIP
ViT-H (1024), and for SDXL ViT-L beside OpenCLIP ViT-bigG (1280).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lib_ti.core.errors import BadInput

Family = Literal["sd1", "sd2", "sdxl"]
Encoder = Literal["clip_l", "clip_h", "clip_g"]

FAMILY_NAMES: Mapping[Family, str] = {"sd1": "SD1", "sd2": "SD2", "sdxl": "SDXL"}
ENCODERS_OF: Mapping[Family, tuple[Encoder, ...]] = {
    "sd1": ("clip_l",),
    "sd2": ("clip_h",),
    "sdxl": ("clip_l", "clip_g"),
}
WIDTHS: Mapping[Encoder, int] = {"clip_l": 768, "clip_h": 1024, "clip_g": 1280}
_CONTEXT: Mapping[int, Family] = {768: "sd1", 1024: "sd2", 2048: "sdxl"}


@dataclass(frozen=True)
class Sign:
    """Something that is so in some families alone. ``said``: in words. ``firm``: it cannot be otherwise; what
    is only usual decides nothing but what the firm signs leave open."""

    families: frozenset[Family]
    said: str
    firm: bool = True


def sign(said: str, *families: Family, firm: bool = True) -> Sign:
    named = " or ".join(FAMILY_NAMES[family] for family in families)
    return Sign(frozenset(families), f"{said} ({named})", firm)


def context_sign(width: int) -> list[Sign]:
    """Of the width that the U-Net's cross attention reads; none where no released model has it."""
    family = _CONTEXT.get(width)
    return [sign(f"its cross attention reads prompts {width} wide", family)] if family else []


def encoder_sign(called: str, encoders: Sequence[Encoder], width: int) -> list[Sign]:
    """Of a text encoder that goes by the name ``called``, which ``encoders`` may have. A width that no
    released one has says nothing."""
    possible = [encoder for encoder in encoders if width == WIDTHS[encoder]]
    if width not in WIDTHS.values():
        possible = list(encoders)
    elif not possible:
        expected = " or ".join(str(WIDTHS[encoder]) for encoder in encoders)
        return [Sign(frozenset(), f"{called} is {width} wide, where {expected} is expected")]
    families = [family for family, own in ENCODERS_OF.items() if set(own) & set(possible)]
    return [sign(f"{called} is {width} wide" if width else f"there is {called}", *families)]


def family_of(what: str, signs: Iterable[Sign]) -> Family | None:
    """The one family that all ``signs`` allow; None where they leave several.

    Raises BadInput, naming them, where the firm ones contradict each other. ``what``: the thing, for that.
    """
    signs = list(signs)
    firm = [each for each in signs if each.firm]
    allowed = frozenset(ENCODERS_OF).intersection(*(each.families for each in firm))
    if not allowed:
        raise BadInput(f"{what} is of no one family: {'; '.join(_contradicting(firm))}.")
    for usual in (each for each in signs if not each.firm):
        allowed = allowed & usual.families or allowed
    return next(iter(allowed)) if len(allowed) == 1 else None


def _contradicting(signs: Sequence[Sign]) -> list[str]:
    """As few as tell why no family is left."""
    if impossible := [each.said for each in signs if not each.families]:
        return list(dict.fromkeys(impossible))
    pairs = (
        [one.said, other.said]
        for place, one in enumerate(signs)
        for other in signs[place + 1 :]
        if not one.families & other.families
    )
    return next(pairs, [each.said for each in signs])
