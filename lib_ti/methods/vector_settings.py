"""What the training of vectors is told."""

from __future__ import annotations

from dataclasses import dataclass

from lib_ti.core.errors import BadInput
from lib_ti.core.settings import option
from lib_ti.methods.kind import JobSettings, Words

MOST_PICTURES = 16  # that a start is found from: more hardly move a mean


@dataclass(frozen=True)
class VectorSettings(JobSettings):
    """What a method that trains vectors is told beside what every method is."""

    init_text: str = option(
        "*",
        "Words whose vectors are the start, in turn; say what kind of thing it is. For several new words: "
        "one text for all, or one for each, separated by commas.",
        group="embedding",
        basic=True,
    )
    vectors: int = option(
        2,
        "Vectors the word stands for; each takes one of a prompt's 75 places.",
        group="embedding",
        low=1,
        high=75,
        basic=True,
    )
    init: str = option(
        "text",
        "Where the vectors start: text is the init text, cross what the text encoder makes of it, images the "
        "mean of what each picture teaches alone.",
        group="embedding",
        choices=("text", "cross", "images", "zero", "random"),
        label="Start from",
    )
    init_steps: int = option(
        20,
        "Steps in which each picture teaches alone, for a start from images.",
        group="embedding",
        low=1,
        high=10_000,
        unit="steps",
        label="Steps of the start",
    )
    weights: str = option(
        "",
        "File of an existing embedding, of as many vectors, to go on from; it goes before any other start.",
        group="embedding",
        label="Start from file",
    )

    @property
    def asks_text(self) -> bool:
        """Whether the start is made of words."""
        return self.init not in ("zero", "random") and not self.weights

    @property
    def start_asks_model(self) -> bool:
        return self.init == "cross" and not self.weights

    @property
    def starts_from_pictures(self) -> bool:
        return self.init == "images" and not self.weights

    def steps_before(self, pictures: int) -> int:
        return self.init_steps * min(pictures, MOST_PICTURES) if self.starts_from_pictures else 0

    @property
    def words(self) -> Words:
        """What is taught. Raises BadInput where the settings contradict each other."""
        return Words(self.name)

    @property
    def class_words(self) -> str:
        return "" if self.init_text == "*" else self.init_text


@dataclass(frozen=True)
class InversionSettings(VectorSettings):
    """What textual inversion is told."""

    negative: bool = option(
        False,
        "The word is for negative prompts: its pictures show what is not wanted, and previews put it there.",
        group="embedding",
        label="Word for the negative prompt",
    )

    @property
    def words(self) -> Words:
        first, *others = split_words(self.name)
        if not all((first, *others)) or len({word.lower() for word in (first, *others)}) <= len(others):
            raise BadInput(
                f"name: got {self.name!r}, expected a new word, or different ones separated by commas, such "
                "as my-cat, my-dog."
            )
        return Words("" if self.negative else first, first if self.negative else "", tuple(others))

    @property
    def trigger(self) -> str:
        return split_words(self.name)[0]

    @property
    def class_words(self) -> str:
        kinds = super().class_words
        return split_words(kinds)[0] if "," in self.name else kinds


def split_words(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]
