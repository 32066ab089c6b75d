"""sd-scripts' ``--debug_dataset``: the prompts as token ids, those of the new word among them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lib_ti.core.errors import BadInput

_START, _END = 49406, 49407
_FIRST_NEW = 49408  # what a token gets there that is added to the vocabulary
_VECTOR = re.compile(r"\[(.+) (\d+)/\d+\]")  # as token_table writes one


def input_ids(table: Mapping[str, Sequence[Sequence[str]]]) -> dict[str, list[list[int]]]:
    """Prompt -> chunks -> ids, with the marks of start and end; see ``token_table``."""
    return {
        prompt: [[_START, *map(_id, chunk), _END] for chunk in chunks] for prompt, chunks in table.items()
    }


def _id(place: str) -> int:
    found = _VECTOR.fullmatch(place)
    return _FIRST_NEW + int(found[2]) - 1 if found else int(place)


def shown_dataset(result: Mapping[str, Any], word: str, *, quiet: bool) -> dict[str, Any]:
    """The result of ``train --show-tokens``, with ids as sd-scripts shows them.

    ``word``: that is taught; "": none is. Raises BadInput where it is in no prompt.
    """
    ids = input_ids(result["tokens"])
    if not quiet:
        for prompt, chunks in ids.items():
            print(prompt)
            for chunk in chunks:
                print(f"input ids: {chunk}")
    if word and not any(
        number >= _FIRST_NEW for chunks in ids.values() for chunk in chunks for number in chunk
    ):
        raise BadInput(
            f"{word} is in none of the {len(ids)} prompts: no id is {_FIRST_NEW} or above; write it into the "
            "captions, or take --use_object_template."
        )
    return {**result, "input_ids": ids}
