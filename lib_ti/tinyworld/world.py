"""The tiny world: scenes, their pictures and their captions.

A scene is one shape on a plain background. Everything about it is drawn from a seed, so the same
seed gives the same scene, the same picture and the same caption on every machine.

The values after ``UNSEEN`` are known to the renderer and to the judge only: neither the text encoder
nor the U-Net of the built-in checkpoint ever met them, so that adapters have something to learn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

from lib_ti.core.nearest import perhaps

ATTRIBUTES = ("shape", "colour", "background", "fill", "size", "style")

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "orange": (246, 142, 28),
    "yellow": (248, 226, 52),
    "green": (38, 156, 62),
    "cyan": (72, 210, 226),
    "blue": (40, 66, 200),
    "purple": (142, 48, 172),
    "white": (244, 244, 244),
}

KNOWN: dict[str, tuple[str, ...]] = {
    "shape": ("circle", "square", "triangle", "star", "heart", "cross", "moon", "arrow"),
    "colour": tuple(COLOURS),
    "background": tuple(COLOURS),
    "fill": ("solid", "outlined"),
    "size": ("small", "large"),
    "style": ("flat", "shaded", "comic"),
    "position": ("middle", "left", "right", "top", "bottom"),
}
UNSEEN: dict[str, tuple[str, ...]] = {
    "shape": ("hourglass", "bolt", "crown"),
    "fill": ("striped",),
    "style": ("vignette",),
}
VALUES: dict[str, tuple[str, ...]] = {
    attribute: values + UNSEEN.get(attribute, ()) for attribute, values in KNOWN.items()
}


@dataclass(frozen=True)
class Scene:
    """One picture in words; ``seed`` settles what words do not (jitter of place and colour)."""

    shape: str
    colour: str
    background: str
    fill: str
    size: str
    style: str
    position: str
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "seed" and value not in VALUES[field.name]:
                raise ValueError(
                    f"unknown {field.name} {value!r}; expected one of {', '.join(VALUES[field.name])}"
                    f"{perhaps(str(value), VALUES[field.name])}"
                )


def random_scene(
    rng: np.random.Generator,
    values: Mapping[str, tuple[str, ...]] = KNOWN,
    **fixed: str,
) -> Scene:
    """A scene drawn evenly from ``values``; ``fixed`` attributes keep their value.

    The background never has the shape's own colour: nothing would be seen.
    """
    chosen: dict[str, str] = {}
    for attribute, options in values.items():
        taken = chosen.get("colour", fixed.get("colour"))
        if attribute == "background":
            options = tuple(option for option in options if option != taken)
        elif attribute == "colour" and "background" in fixed:
            options = tuple(option for option in options if option != fixed["background"])
        chosen[attribute] = fixed.get(attribute) or options[rng.integers(len(options))]
    return Scene(**chosen, seed=int(rng.integers(2**31)))


# ---------------------------------------------------------------------------------------- captions

FILLERS = (
    "a picture of", "a photo of", "a drawing of", "a rendering of", "an image of", "the photo of",
    "a close-up photo of", "a good photo of", "a nice picture of", "a clean picture of",
    "a bright photo of", "a painting of", "an illustration of", "a depiction of",
)  # fmt: skip
PLACES = {
    "middle": ("in the middle", "in the centre"),
    "left": ("on the left",),
    "right": ("on the right",),
    "top": ("at the top",),
    "bottom": ("at the bottom",),
}
# The word for the kind of thing an attribute is, as "dog" is for somebody's own dog.
KIND_WORDS = {"shape": "shape", "colour": "coloured", "fill": "plain", "style": "simple"}
_TOLD = {
    "shape": 0.93,
    "colour": 0.9,
    "background": 0.85,
    "fill": 0.55,
    "size": 0.6,
    "style": 0.55,
    "position": 0.3,
}


def with_article(noun_phrase: str) -> str:
    """``orange star`` -> ``an orange star``."""
    return ("an " if noun_phrase[:1].lower() in "aeiou" else "a ") + noun_phrase


def draw_words(rng: np.random.Generator) -> tuple[frozenset[str], dict[str, str]]:
    """What a training caption tells: the attributes it names, and those named by their kind only."""
    named = {attribute for attribute, share in _TOLD.items() if rng.random() < share}
    unnamed = [attribute for attribute in KIND_WORDS if attribute not in named]
    words = {a: KIND_WORDS[a] for a in unnamed if a == "shape" or rng.random() < 0.3}
    return frozenset(named | words.keys()), words


def caption(
    scene: Scene,
    rng: np.random.Generator,
    named: frozenset[str],
    words: Mapping[str, str],
) -> str:
    """One caption of ``scene`` in one of six forms.

    ``named``: the attributes it tells. ``words`` puts other words in place of an attribute's own
    (``{"shape": "[name]"}``); an empty word leaves it out, as when one word stands for a phrase.
    """

    def word(attribute: str) -> str:
        return words.get(attribute, getattr(scene, attribute)) if attribute in named else ""

    noun = [word("size"), word("fill"), word("colour"), word("shape")]
    subject = " ".join(part for part in noun if part)
    style, background = word("style"), word("background")
    place = str(rng.choice(PLACES[scene.position])) if "position" in named else ""
    form = int(rng.integers(6))
    if form == 0:  # tags
        tags = [noun[3], noun[2], noun[1], noun[0]]
        tags += [f"{background} background" if background else "", style, place]
        return ", ".join(tag for tag in tags if tag)
    opening = f"{with_article(style)} drawing of " if style else ""
    if not style and form >= 3:
        opening = str(rng.choice(FILLERS)) + " "
    if form == 1 and background:
        body = f"{with_article(background)} background with {with_article(subject)}"
        return f"{opening}{body} {place}".strip()
    if form == 2 and style:  # the style last, as people write it in WebUI prompts
        opening, tail = "", f", {style} drawing"
    else:
        tail = ""
    body = with_article(subject) + (f" {place}" if place else "")
    if background:
        body += f" on {with_article(background)} background"
    return f"{opening}{body}{tail}"
