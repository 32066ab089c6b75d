"""What a checkpoint of the original layout, or a living model, shows of its family, and where its text
encoders are. Key names as in ``ldm``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from lib_ti.formats.family import Encoder, Family, Sign, context_sign, encoder_sign, family_of, sign
from lib_ti.formats.ldm import CLIP, CLIP_G, CLIP_L, OPEN_CLIP, UNET, Shapes

# By the prefixes of their weights. SD2's may go by the names that transformers gives it, which are SD1's.
_TEXT_ENCODERS: Mapping[Family, Sequence[tuple[str, ...]]] = {
    "sd1": ((CLIP,),),
    "sd2": ((OPEN_CLIP,), (CLIP,)),
    "sdxl": ((CLIP_L, CLIP_G),),
}
_MAY_BE: Mapping[str, tuple[Encoder, ...]] = {
    CLIP: ("clip_l", "clip_h"),
    OPEN_CLIP: ("clip_h",),
    CLIP_L: ("clip_l",),
    CLIP_G: ("clip_g",),
}
TEXT_PREFIXES = tuple(_MAY_BE)
_LAST_NORMS = ("text_model.final_layer_norm.weight", "final_layer_norm.weight", "ln_final.weight")


def text_encoders(names: Iterable[str], family: Family) -> tuple[str, ...]:
    """The prefixes of the text encoders of a file of that family; none where they are not all there."""
    names = list(names)
    there = {prefix for prefix in TEXT_PREFIXES if any(name.startswith(prefix) for name in names)}
    return next((prefixes for prefixes in _TEXT_ENCODERS[family] if there.issuperset(prefixes)), ())


def checkpoint_family(what: str, shapes: Shapes) -> Family | None:
    """Of a file with these tensors; None where it lacks a U-Net or text encoders, or does not tell.

    Raises BadInput where its widths and names contradict each other. ``what``: the file, for that.
    """
    unet = {key[len(UNET) :]: shape for key, shape in shapes.items() if key.startswith(UNET)}
    texts = [_text_sign(shapes, prefixes) for prefixes in ((CLIP,), (OPEN_CLIP,), (CLIP_L, CLIP_G))]
    there = [text for text in texts if text is not None]
    if not unet or not there:
        return None
    # Left-overs of another text encoder are in some files; one of them must fit.
    said = " and ".join(text.said for text in there)
    any_text = Sign(frozenset[Family]().union(*(text.families for text in there)), said)
    return family_of(what, [*unet_signs(unet), any_text])


def _text_sign(shapes: Shapes, prefixes: tuple[str, ...]) -> Sign | None:
    if not all(any(key.startswith(prefix) for key in shapes) for prefix in prefixes):
        return None
    signs = [
        found
        for prefix in prefixes
        for found in encoder_sign(
            prefix.rstrip("."),
            _MAY_BE[prefix],
            text_width(
                {key[len(prefix) :]: shape for key, shape in shapes.items() if key.startswith(prefix)}
            ),
        )
    ]
    owners = frozenset(family for family, layouts in _TEXT_ENCODERS.items() if prefixes in layouts)
    return Sign(owners.intersection(*(each.families for each in signs)), " and ".join(s.said for s in signs))


def text_width(shapes: Shapes) -> int:
    """Of a text encoder's states; 0 where its last norm is not there."""
    return next((shapes[name][0] for name in _LAST_NORMS if name in shapes and len(shapes[name])), 0)


def unet_signs(shapes: Shapes) -> list[Sign]:
    """Of a U-Net whose parameters are named and shaped so, in either layout."""
    context = (
        shape[1] for key, shape in shapes.items() if key.endswith("attn2.to_k.weight") and len(shape) > 1
    )
    signs = context_sign(next(context, 0))
    if any(key.startswith(("label_emb.", "add_embedding.")) for key in shapes):
        signs.append(sign("its U-Net is told sizes of pictures", "sdxl"))
    elif shapes:
        signs.append(sign("its U-Net is told no sizes of pictures", "sd1", "sd2", firm=False))
    if projection := next((shape for key, shape in shapes.items() if key.endswith("proj_in.weight")), None):
        families: tuple[Family, ...] = ("sd1",) if len(projection) == 4 else ("sd2", "sdxl")
        kind = "convolutions" if len(projection) == 4 else "linear layers"
        signs.append(sign(f"its transformers begin with {kind}", *families, firm=False))
    return signs
