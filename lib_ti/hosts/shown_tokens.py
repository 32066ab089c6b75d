"""Prompts as the text encoder gets them: token ids, and where the vectors of an embedding stand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from lib_ti.hosts.base import AS_GENERATED, Conditioning
from lib_ti.hosts.prompts import CHUNK_TOKENS, Chunk, Vocabulary, split_into_chunks, tokenize_triggers

# The marks of CLIP's vocabulary, which all the families' text encoders share.
_START, _END = 49406, 49407


def token_table(
    prompts: Sequence[str],
    tokenize: Callable[[str], Sequence[int]],
    vectors: Mapping[str, int],
    conditioning: Conditioning = AS_GENERATED,
) -> dict[str, list[list[str]]]:
    """Prompt -> chunks -> what stands at each of the chunk's places: an id such as ``320``, or a vector
    such as ``[my-cat 2/3]``.

    ``tokenize``: text -> ids, without marks; ``vectors``: how many each embedding has, by its trigger.
    """
    vocabulary = Vocabulary(tokenize, _START, _END, _END, tokenize(",")[0])
    triggers = tokenize_triggers(vectors, vocabulary)
    return {
        prompt: [
            _places(chunk, vectors) for chunk in split_into_chunks(prompt, vocabulary, triggers, conditioning)
        ]
        for prompt in prompts
    }


def _places(chunk: Chunk, vectors: Mapping[str, int]) -> list[str]:
    """Without the marks and what fills the chunk up."""
    places = [str(token) for token in chunk.token_ids]
    for splice in chunk.splices:
        count = vectors[splice.trigger]
        for place, i in enumerate(range(count)[splice.first : splice.end], start=splice.offset):
            places[place] = f"[{splice.trigger} {i + 1}/{count}]"
    return places[1 : places.index(str(_END))]


def shown(table: Mapping[str, Sequence[Sequence[str]]]) -> list[str]:
    """A line a prompt and a line a chunk, to be read by people."""
    lines = []
    for prompt, chunks in table.items():
        lines.append(prompt)
        for chunk in chunks:
            found = [place for place, told in enumerate(chunk, 1) if told.startswith("[")]
            where = f"vectors at {', '.join(map(str, found))}" if found else "no vector of the new word"
            lines.append(f"  {' '.join(chunk)}  ({len(chunk)} of {CHUNK_TOKENS} places; {where})")
    return lines
