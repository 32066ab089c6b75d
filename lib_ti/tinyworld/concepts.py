"""What a bench teaches: concepts of the tiny world, in three splits fixed before any tuning.

``tuning``: settings may be chosen on these. ``test``: only measured on. ``unseen``: values that text
encoder and U-Net never met; no word or vector can call them, an adapter must learn them.
"""

from __future__ import annotations

from dataclasses import dataclass

from lib_ti.core.errors import BadInput
from lib_ti.tinyworld.world import KIND_WORDS, KNOWN, UNSEEN, VALUES

_KINDS = ("style", "fill", "colour", "shape")


@dataclass(frozen=True)
class Concept:
    """``attributes``: what every picture of the concept has in common, in the order words take."""

    attributes: dict[str, str]

    @property
    def name(self) -> str:
        """The model's own words for it: ``purple star``."""
        return " ".join(self.attributes.values())

    @property
    def init_text(self) -> str:
        """Words for the kind of thing it is; they never name it."""
        return " ".join(KIND_WORDS[attribute] for attribute in self.attributes)

    def own(self, trigger: str) -> dict[str, str] | None:
        """What the model's own words draw for it: itself, or, of an unseen value, the known one of its kind
        that ``trigger`` names and that a network makes another thing. None: nothing."""
        if not any(value in UNSEEN.get(attribute, ()) for attribute, value in self.attributes.items()):
            return self.attributes
        stand_in = dict.fromkeys(self.attributes, trigger)
        return stand_in if all(trigger in KNOWN[attribute] for attribute in stand_in) else None

    def words(self, trigger: str) -> dict[str, str]:
        """For ``caption``: ``trigger`` in place of the concept's words, once."""
        *rest, last = self.attributes
        return {**dict.fromkeys(rest, ""), last: trigger}


def parse_concept(name: str) -> Concept:
    """``purple star`` -> the concept; words in the order fill, colour, shape; or one style.

    Raises BadInput for a word the world does not know.
    """
    attributes = {}
    for word in name.split():
        for attribute in _KINDS:
            if word in VALUES[attribute]:
                attributes[attribute] = word
                break
        else:
            known = dict.fromkeys(value for kind in _KINDS for value in VALUES[kind])
            raise BadInput(f"concept {name!r}: the tiny world has no {word!r}; it has {', '.join(known)}.")
    return Concept(attributes)


SPLITS: dict[str, tuple[str, ...]] = {
    "tuning": (
        "circle", "heart", "green", "orange", "solid", "shaded", "red square", "outlined yellow arrow",
    ),
    "test": (
        "square", "triangle", "star", "cross", "moon", "arrow",
        "red", "yellow", "cyan", "blue", "purple", "white",
        "outlined", "flat", "comic",
        "purple star", "blue moon", "white triangle", "outlined red cross",
    ),
    "unseen": ("hourglass", "bolt", "crown", "striped", "vignette"),
}  # fmt: skip
