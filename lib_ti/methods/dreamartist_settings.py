"""What DreamArtist is told, and what its author advises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lib_ti.core.errors import BadInput
from lib_ti.core.later import Later
from lib_ti.core.settings import option, with_default
from lib_ti.methods.kind import Words
from lib_ti.methods.vector_settings import VectorSettings

NEGATIVE_SUFFIX = "-neg"
_parse_guidance = Later("lib_ti.methods.guidance", "parse_guidance")
_is_plain = Later("lib_ti.methods.guidance", "is_plain")

# What the guide that is shared most advises for each purpose: the original's loss and its batches of one, the
# average that its extension recommends (its author: 0.95), and the text encoder's last layer.
_AS_PUBLISHED = {"batch_size": 1, "accumulation": 1, "weighting": "none", "ema": 0.97, "clip_skip": 1}
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "character": {
        **_AS_PUBLISHED,
        "learning_rate": "0.003",
        "guidance": "3",
        "template": "subject",
        "steps": 5000,
    },
    "style": {
        **_AS_PUBLISHED,
        "learning_rate": "0.005",
        "guidance": "5",
        "template": "style_filewords",
        "steps": 2000,
    },
}


@dataclass(frozen=True)
class DreamArtistSettings(VectorSettings):
    """What DreamArtist is told beside what textual inversion is."""

    preset: str = option(
        "none",
        "Published settings for a purpose: rate, guidance, template, steps, batch, EMA and clip skip. What "
        "is set besides counts more.",
        group="embedding",
        choices=("none", *PRESETS),
        label="Preset",
        basic=True,
    )
    vectors: int = with_default(VectorSettings, "vectors", 3)
    negative_vectors: int = option(
        6,
        "Vectors of the second embedding, which goes into the negative prompt; 0: none, the guidance then "
        "leads away from the empty prompt.",
        group="embedding",
        low=0,
        high=75,
        basic=True,
    )
    negative_init_text: str = option(
        "*", "Words whose vectors are the start of the negative embedding, in turn.", group="embedding"
    )
    guidance: str = option(
        "3",
        "Scale of the guidance in training: 3, or a range from clean to noisy timesteps, 1.5-3, with a "
        "curve such as 1.5-3:cos, 1.5-3:cos2, 1.5-3:sqrt(rate).",
        group="learning",
        label="Training CFG scale",
        basic=True,
    )
    negative_rate: float = option(
        1.0,
        "Learning rate of the negative vectors, as a multiple of the others'.",
        group="learning",
        low=0.1,
        high=10,
        label="Negative learning rate weight",
    )
    negative_filewords: bool = option(
        False,
        "Put a picture's caption into the negative prompt too.",
        group="pictures",
        label="Captions in the negative prompt",
    )
    reconstruction: float = option(
        0.0,
        "Weight of the error between the decoded pictures; 0: none. Each step then takes the VAE too.",
        group="learning",
        low=0,
        high=10,
        label="Reconstruction loss weight",
    )

    @property
    def words(self) -> Words:
        """Without guidance the negative prompt has no say, so nothing can be learned for it."""
        if "," in self.name:
            raise BadInput(
                f"name: got {self.name!r}, but a DreamArtist job teaches one pair; give one word, and train "
                "the next one afterwards."
            )
        paired = self.negative_vectors and not _is_plain(_parse_guidance(self.guidance))
        return Words(self.name, self.name + NEGATIVE_SUFFIX if paired else "")
