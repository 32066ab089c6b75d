"""What is done with cards, and what each of it is told."""

from __future__ import annotations

from dataclasses import dataclass

from lib_ti.core.later import Later
from lib_ti.core.settings import option
from lib_ti.tools.tool import Tool

# What carries it out.
_CARDS = "lib_ti.tools.cards"


@dataclass(frozen=True)
class MakeSettings:
    embedding: str = option("", "the word to share", group="file", file="embedding", needed=True)
    preview: str = option(
        "",
        "the picture to show; empty: the one beside the embedding, or one made of its numbers",
        group="file",
        file="pictures",
    )
    negative: str = option(
        "",
        "its partner for the negative prompt; empty: the one beside it, NAME-neg",
        group="file",
        file="embedding",
    )
    to: str = option("", "the card's name; empty: the word's", group="file", file="new-card")
    overwrite: bool = option(False, "replace a card of that name", group="file")


@dataclass(frozen=True)
class LookSettings:
    card: str = option("", "the card to look at", group="file", file="card", needed=True)


@dataclass(frozen=True)
class ImportSettings:
    card: str = option("", "the card with the word", group="file", file="card", needed=True)
    name: str = option("", "what to call the word; empty: as the card does", group="file")


TOOLS = (
    Tool(
        "card",
        "make",
        "put a word into a picture to share",
        MakeSettings,
        Later(_CARDS, "make"),
        shows=True,
    ),
    Tool("card", "look", "what word is in a picture", LookSettings, Later(_CARDS, "look")),
    Tool(
        "card",
        "import",
        "take the word out of a card into your embeddings",
        ImportSettings,
        Later(_CARDS, "take_in"),
    ),
)
