"""Prompts as AUTOMATIC1111's WebUI reads them by default: emphasis, BREAK, chunks of 75, embeddings."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from lib_ti.core.errors import BadInput

CHUNK_TOKENS = 75  # between the start and the end mark
COMMA_REACH = 20  # a full chunk is cut after a comma among its last 20 tokens
ROUND_FACTOR = 1.1
SQUARE_FACTOR = 1 / 1.1
PLACEHOLDER_ID = 0  # stands where a live vector goes

_PIECE = re.compile(
    r"""
      \\(?P<escaped>[()\[\]\\])
    | :\s*(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+))\s*\)
    | (?P<bracket>[()\[\]])
    | [^\\()\[\]:]+
    | [\\:]
    """,
    re.VERBOSE,
)
_BREAK = re.compile(r"\s*\bBREAK\b\s*")


@dataclass(frozen=True)
class Vocabulary:
    """What reading a prompt needs to know of a tokenizer."""

    tokenize: Callable[[str], Sequence[int]]  # without start and end marks
    start: int
    end: int
    pad: int  # fills a chunk after its end mark
    comma: int


@dataclass(frozen=True)
class Trigger:
    """A word, or several, that calls an embedding of so many vectors."""

    name: str
    token_ids: tuple[int, ...]
    vectors: int


@dataclass(frozen=True)
class Splice:
    """The vectors of ``trigger`` go to positions ``offset``, ``offset`` + 1, ... of the chunk's 77."""

    offset: int
    trigger: str


@dataclass(frozen=True)
class Chunk:
    """One input of the text encoder: start mark, 75 positions, end mark."""

    token_ids: tuple[int, ...]  # 77
    weights: tuple[float, ...]  # 77; 1 is no emphasis
    splices: tuple[Splice, ...]


def parse_emphasis(prompt: str) -> list[list[tuple[str, float]]]:
    r"""The prompt's sections between the BREAKs, each a list of (text, weight) without empty texts.

    ``(a)`` is worth 1.1, ``[a]`` 1 / 1.1, ``(a:1.3)`` 1.3; nested brackets multiply; a bracket that is
    never closed reaches to the end; one that was never opened is text; ``\(`` is a literal bracket.
    """
    texts: list[str | None] = []  # None: a BREAK
    weights: list[float] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def close(kind: str, factor: float) -> None:
        for index in range(opened[kind].pop(), len(weights)):
            weights[index] *= factor

    for piece in _PIECE.finditer(prompt):
        bracket, weight = piece["bracket"], piece["weight"]
        if bracket in opened:
            opened[bracket].append(len(texts))
        elif weight and opened["("]:
            close("(", float(weight))
        elif bracket == ")" and opened["("]:
            close("(", ROUND_FACTOR)
        elif bracket == "]" and opened["["]:
            close("[", SQUARE_FACTOR)
        else:
            first, *others = _BREAK.split(piece["escaped"] or piece.group())
            texts.append(first)
            for text in others:
                texts += [None, text]
            weights += [1.0] * (len(texts) - len(weights))
    while opened["("]:
        close("(", ROUND_FACTOR)
    while opened["["]:
        close("[", SQUARE_FACTOR)
    return _join(texts, weights)


def _join(texts: Sequence[str | None], weights: Sequence[float]) -> list[list[tuple[str, float]]]:
    """Sections cut at None; neighbours of equal weight made one text, so that words stay whole."""
    sections: list[list[tuple[str, float]]] = [[]]
    for text, weight in zip(texts, weights, strict=True):
        section = sections[-1]
        if text is None:
            sections.append([])
        elif section and section[-1][1] == weight:
            section[-1] = (section[-1][0] + text, weight)
        elif text:
            section.append((text, weight))
    return sections


def tokenize_triggers(vectors: Mapping[str, int], vocabulary: Vocabulary) -> list[Trigger]:
    """Trigger -> number of vectors, made ready for ``split_into_chunks``: the longest in tokens first.

    Raises BadInput for a trigger without tokens, and where the vectors are none or do not fit a chunk.
    """
    triggers = []
    for name, count in vectors.items():
        if not 1 <= count <= CHUNK_TOKENS:
            raise BadInput(
                f"The embedding {name!r} has {count} vectors; a prompt can hold 1 to {CHUNK_TOKENS} "
                "of one embedding: make it again with a number in that range."
            )
        token_ids = tuple(vocabulary.tokenize(name))
        if not token_ids:
            raise BadInput(
                f"The trigger {name!r} has no letter or sign that a prompt could call it by; rename it."
            )
        triggers.append(Trigger(name, token_ids, count))
    return sorted(triggers, key=lambda trigger: len(trigger.token_ids), reverse=True)


def split_into_chunks(prompt: str, vocabulary: Vocabulary, triggers: Sequence[Trigger] = ()) -> list[Chunk]:
    """At least one chunk; ``triggers`` as ``tokenize_triggers`` gives them.

    A full chunk is cut after the last comma within reach, an embedding is never cut, and BREAK ends
    the chunk it stands in.
    """
    filler = _Filler(vocabulary)
    for number, section in enumerate(parse_emphasis(prompt)):
        if number > 0:
            filler.close()
        for text, weight in section:
            token_ids = tuple(vocabulary.tokenize(text))
            index = 0
            while index < len(token_ids):
                filler.make_room(token_ids[index])
                trigger = _find(triggers, token_ids, index)
                if trigger is None:
                    filler.add_token(token_ids[index], weight)
                    index += 1
                else:
                    filler.add_embedding(trigger, weight)
                    index += len(trigger.token_ids)
    if filler.places or not filler.chunks:
        filler.close()
    return filler.chunks


def chunk_batch(
    prompts: Sequence[str], vocabulary: Vocabulary, triggers: Sequence[Trigger] = ()
) -> list[list[Chunk]]:
    """The chunks of each prompt, as many for each: the shorter end in chunks of the empty prompt."""
    rows = [split_into_chunks(prompt, vocabulary, triggers) for prompt in prompts]
    longest = max(map(len, rows))
    empty = split_into_chunks("", vocabulary)
    return [row + empty * (longest - len(row)) for row in rows]


def count_triggers(prompt: str, vocabulary: Vocabulary, triggers: Sequence[Trigger]) -> dict[str, int]:
    """How often each trigger is found in ``prompt``; 0 for those that are not."""
    counts = {trigger.name: 0 for trigger in triggers}
    for chunk in split_into_chunks(prompt, vocabulary, triggers):
        for splice in chunk.splices:
            counts[splice.trigger] += 1
    return counts


def _find(triggers: Sequence[Trigger], token_ids: tuple[int, ...], index: int) -> Trigger | None:
    """The first trigger whose tokens stand at ``index``."""
    for trigger in triggers:
        if token_ids[index : index + len(trigger.token_ids)] == trigger.token_ids:
            return trigger
    return None


@dataclass(frozen=True)
class _Place:
    """One of a chunk's 75 positions; ``trigger`` where the vectors of an embedding begin."""

    token_id: int
    weight: float
    trigger: str | None = None


@dataclass
class _Filler:
    """Fills chunks place by place."""

    vocabulary: Vocabulary
    chunks: list[Chunk] = field(default_factory=list)
    places: list[_Place] = field(default_factory=list)  # of the chunk that is open

    def make_room(self, token_id: int) -> None:
        """Close the chunk if it is full and ``token_id`` comes next; what follows a near comma moves on."""
        if len(self.places) < CHUNK_TOKENS:
            return
        cut = CHUNK_TOKENS
        if token_id != self.vocabulary.comma:
            near = range(CHUNK_TOKENS - COMMA_REACH, CHUNK_TOKENS)
            commas = (i + 1 for i in near if self.places[i].token_id == self.vocabulary.comma)
            cut = max(commas, default=CHUNK_TOKENS)
        moved = self.places[cut:]
        del self.places[cut:]
        self.close()
        self.places = moved

    def add_token(self, token_id: int, weight: float) -> None:
        self.places.append(_Place(token_id, weight))

    def add_embedding(self, trigger: Trigger, weight: float) -> None:
        if len(self.places) + trigger.vectors > CHUNK_TOKENS:
            self.close()
        self.places.append(_Place(PLACEHOLDER_ID, weight, trigger.name))
        self.places += [_Place(PLACEHOLDER_ID, weight)] * (trigger.vectors - 1)

    def close(self) -> None:
        """The open chunk, padded, becomes one of ``chunks``; an empty one is open."""
        padding = CHUNK_TOKENS - len(self.places)
        token_ids = (
            self.vocabulary.start,
            *(place.token_id for place in self.places),
            self.vocabulary.end,
            *[self.vocabulary.pad] * padding,
        )
        weights = (1.0, *(place.weight for place in self.places), *[1.0] * (padding + 1))
        splices = tuple(
            Splice(offset, place.trigger)
            for offset, place in enumerate(self.places, start=1)
            if place.trigger is not None
        )
        self.chunks.append(Chunk(token_ids, weights, splices))
        self.places = []
