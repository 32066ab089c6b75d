"""Prompts as AUTOMATIC1111's WebUI reads them by default: emphasis, BREAK, chunks of 75, embeddings.

Or as sd-scripts does (kohya-ss/sd-scripts, library/strategy_base.py), where a conditioning says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from lib_ti.core import limits
from lib_ti.core.errors import BadInput
from lib_ti.hosts.base import AS_GENERATED, Conditioning

CHUNK_TOKENS = 75  # between the start and the end mark
COMMA_REACH = 20  # a full chunk is cut after a comma among its last 20 tokens
ROUND_FACTOR = 1.1
SQUARE_FACTOR = 1 / 1.1
PLACEHOLDER_ID = 0  # stands where a live vector goes


def _pieces(space: str) -> re.Pattern[str]:
    """``space``: what may stand around a weight."""
    return re.compile(
        rf"""
          \\(?P<escaped>[()\[\]\\])
        | :{space}(?P<weight>[+-]?(?:\d+(?:\.\d*)?|\.\d+)){space}\)
        | (?P<bracket>[()\[\]])
        | [^\\()\[\]:]+
        | [\\:]
        """,
        re.VERBOSE,
    )


_PIECE, _PIECE_OF_SD_SCRIPTS = _pieces(r"\s*"), _pieces("")
_BREAK = re.compile(r"\bBREAK\b")


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
    """The vectors of ``trigger`` go to positions ``offset``, ``offset`` + 1, ... of the chunk's 77: from
    ``first`` to before ``end``, or to the last one (None)."""

    offset: int
    trigger: str
    first: int = 0
    end: int | None = None


@dataclass(frozen=True)
class Chunk:
    """One input of the text encoder: start mark, 75 positions, end mark."""

    token_ids: tuple[int, ...]  # 77
    weights: tuple[float, ...]  # 77; 1 is no emphasis
    splices: tuple[Splice, ...]


def parse_emphasis(prompt: str, *, as_sd_scripts: bool = False) -> list[list[tuple[str, float]]]:
    r"""The prompt's sections between the BREAKs, each a list of (text, weight) without empty texts.

    ``(a)`` is worth 1.1, ``[a]`` 1 / 1.1, ``(a:1.3)`` 1.3; nested brackets multiply; a bracket that is
    never closed reaches to the end; one that was never opened is text; ``\(`` is a literal bracket.
    ``as_sd_scripts``: BREAK is a word, no space may stand beside a weight, and a backslash that escapes
    nothing goes. Raises BadInput for a prompt of too many characters, or of brackets inside one another.
    """
    limits.check_prompt(len(prompt))
    texts: list[str | None] = []  # None: a BREAK
    weights: list[float] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def close(kind: str, factor: float) -> None:
        for index in range(opened[kind].pop(), len(weights)):
            weights[index] *= factor

    for piece in (_PIECE_OF_SD_SCRIPTS if as_sd_scripts else _PIECE).finditer(prompt):
        bracket, weight = piece["bracket"], piece["weight"]
        if bracket in opened:
            opened[bracket].append(len(texts))
            _limit_depth(prompt, sum(map(len, opened.values())))
        elif weight and opened["("]:
            close("(", float(weight))
        elif bracket == ")" and opened["("]:
            close("(", ROUND_FACTOR)
        elif bracket == "]" and opened["["]:
            close("[", SQUARE_FACTOR)
        else:
            text = piece["escaped"] or piece.group()
            if as_sd_scripts:
                first, *others = ["" if piece.group() == "\\" else text]
            else:
                first, *others = _between_breaks(text)
            texts.append(first)
            for other in others:
                texts += [None, other]
            weights += [1.0] * (len(texts) - len(weights))
    while opened["("]:
        close("(", ROUND_FACTOR)
    while opened["["]:
        close("[", SQUARE_FACTOR)
    return _join(texts, weights)


def _limit_depth(prompt: str, brackets: int) -> None:
    if brackets > limits.BRACKETS:
        raise BadInput(
            f"the prompt {prompt[:40]!r}... has more than {limits.BRACKETS} brackets inside one another; "
            "close some, or write a backslash before those that are text."
        )


def _between_breaks(text: str) -> list[str]:
    """What stands between the BREAKs, without the blanks beside them."""
    first, *others = _BREAK.split(text)
    if not others:
        return [text]
    *middle, last = others
    return [first.rstrip(), *map(str.strip, middle), last.lstrip()]


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


def split_into_chunks(
    prompt: str,
    vocabulary: Vocabulary,
    triggers: Sequence[Trigger] = (),
    conditioning: Conditioning = AS_GENERATED,
) -> list[Chunk]:
    """At least one chunk; ``triggers`` as ``tokenize_triggers`` gives them.

    A full chunk is cut after the last comma within reach, an embedding is never cut, and BREAK ends
    the chunk it stands in. With a ``max_token_length`` there are as many chunks as it fills, each cut where
    it is full, and what is too much is left out.
    """
    filler = _filled(prompt, vocabulary, triggers, conditioning)
    if isinstance(filler, _BlindFiller):
        return filler.cut()
    if filler.places or not filler.chunks:
        filler.close()
    return filler.chunks


def count_cut(
    prompt: str, vocabulary: Vocabulary, triggers: Sequence[Trigger], conditioning: Conditioning
) -> int:
    """How many tokens and vectors of ``prompt`` are left out."""
    filler = _filled(prompt, vocabulary, triggers, conditioning)
    return max(0, len(filler.places) - filler.length) if isinstance(filler, _BlindFiller) else 0


def _filled(
    prompt: str, vocabulary: Vocabulary, triggers: Sequence[Trigger], conditioning: Conditioning
) -> _Filler:
    length = conditioning.max_token_length
    filler = _BlindFiller(vocabulary, length=length) if length else _Filler(vocabulary)
    for number, section in enumerate(_sections(prompt, conditioning.emphasis)):
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
    return filler


def _sections(prompt: str, emphasis: str) -> list[list[tuple[str, float]]]:
    if emphasis == "none":
        return [[(prompt, 1.0)]]
    return parse_emphasis(prompt, as_sd_scripts=emphasis == "sd-scripts")


def chunk_batch(
    prompts: Sequence[str],
    vocabulary: Vocabulary,
    triggers: Sequence[Trigger] = (),
    conditioning: Conditioning = AS_GENERATED,
) -> list[list[Chunk]]:
    """The chunks of each prompt, as many for each: the shorter end in chunks of the empty prompt."""
    rows = [split_into_chunks(prompt, vocabulary, triggers, conditioning) for prompt in prompts]
    longest = max(map(len, rows))
    empty = split_into_chunks("", vocabulary)
    return [row + empty * (longest - len(row)) for row in rows]


def count_triggers(
    prompt: str,
    vocabulary: Vocabulary,
    triggers: Sequence[Trigger],
    conditioning: Conditioning = AS_GENERATED,
) -> dict[str, int]:
    """How often each trigger is found in ``prompt``; 0 for those that are not."""
    counts = {trigger.name: 0 for trigger in triggers}
    for chunk in split_into_chunks(prompt, vocabulary, triggers, conditioning):
        for splice in chunk.splices:
            counts[splice.trigger] += not splice.first
    return counts


def _find(triggers: Sequence[Trigger], token_ids: tuple[int, ...], index: int) -> Trigger | None:
    """The first trigger whose tokens stand at ``index``."""
    for trigger in triggers:
        if token_ids[index : index + len(trigger.token_ids)] == trigger.token_ids:
            return trigger
    return None


@dataclass(frozen=True)
class _Place:
    """One of a chunk's 75 positions; of an embedding the vector ``row`` of ``trigger``."""

    token_id: int
    weight: float
    trigger: str | None = None
    row: int = 0


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
        self._add_vectors(trigger, weight)

    def _add_vectors(self, trigger: Trigger, weight: float) -> None:
        self.places += [_Place(PLACEHOLDER_ID, weight, trigger.name, row) for row in range(trigger.vectors)]

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
            Splice(offset, place.trigger, place.row, self._end(offset - 1))
            for offset, place in enumerate(self.places, start=1)
            if place.trigger is not None and (not place.row or offset == 1)
        )
        self.chunks.append(Chunk(token_ids, weights, splices))
        self.places = []

    def _end(self, index: int) -> int | None:
        """Before which of its vectors the embedding ends that is at ``index``; None: it is whole."""
        return None


@dataclass
class _BlindFiller(_Filler):
    """Takes everything, then cuts it at ``length`` places and into chunks, wherever that is."""

    length: int = CHUNK_TOKENS

    def make_room(self, token_id: int) -> None:
        pass

    def add_embedding(self, trigger: Trigger, weight: float) -> None:
        self._add_vectors(trigger, weight)

    def _end(self, index: int) -> int | None:
        place, end = self.places[index], self.places[index].row
        for follower in self.places[index:]:
            if (follower.trigger, follower.row) != (place.trigger, end):
                break
            end += 1
        return end

    def cut(self) -> list[Chunk]:
        every = self.places
        for start in range(0, self.length, CHUNK_TOKENS):
            self.places = every[start : min(start + CHUNK_TOKENS, self.length)]
            self.close()
        return self.chunks
