"""Valid files and texts, changed a little at random.

Every function takes what is valid and a ``random.Random``; those that know a format are in ``fuzz_formats``.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

Mutate = Callable[[bytes, random.Random], bytes]

# Numbers at which counts, sizes and signs go wrong.
EDGES = (0, 1, -1, 2, 7, 75, 76, 255, 256, 4096, 4097, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)


def half_right(inside: Mutate) -> Mutate:
    """Half of all files are changed by ``inside``, the others anywhere at all."""

    def mutate(data: bytes, rng: random.Random) -> bytes:
        return inside(data, rng) if rng.random() < 0.5 else mutate_bytes(data, rng)

    return mutate


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """One to three changes of bits, bytes, numbers and stretches."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        rng.choice(_BYTE_CHANGES)(found, rng)
    return bytes(found)


def mutate_in_place(data: bytes, rng: random.Random) -> bytes:
    """One to three changes of bits and numbers: nothing moves, so that every length stays right."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        rng.choice((_flip, _overwrite))(found, rng)
    return bytes(found[: len(data)])


def _place(data: bytearray, rng: random.Random) -> int:
    """Rather near the start, where a format says what follows."""
    span = min(len(data), 600) if rng.random() < 0.3 else len(data)
    return rng.randrange(span) if span else 0


def _flip(data: bytearray, rng: random.Random) -> None:
    if data:
        data[_place(data, rng)] ^= 1 << rng.randrange(8)


def _overwrite(data: bytearray, rng: random.Random) -> None:
    place, size = _place(data, rng), rng.choice((1, 2, 4, 8))
    number = rng.choice(EDGES) & (256**size - 1)
    data[place : place + size] = number.to_bytes(size, rng.choice(("little", "big")))


def _remove(data: bytearray, rng: random.Random) -> None:
    place = _place(data, rng)
    del data[place : place + rng.choice((1, 2, 8, 100))]


def _repeat(data: bytearray, rng: random.Random) -> None:
    place = _place(data, rng)
    data[place:place] = data[place : place + rng.choice((1, 4, 64))] * rng.choice((1, 2, 50))


def _insert(data: bytearray, rng: random.Random) -> None:
    place = _place(data, rng)
    data[place:place] = rng.randbytes(rng.choice((1, 4, 32)))


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randint(len(data) // 2, len(data)) :]


def _claim(data: bytearray, rng: random.Random) -> None:
    """Where a header's length stands, any length."""
    data[:8] = (rng.choice(EDGES) & (2**64 - 1)).to_bytes(8, "little")


_BYTE_CHANGES = (_claim, _flip, _flip, _flip, _overwrite, _overwrite, _remove, _repeat, _insert, _cut)


def mutate_text(words: Sequence[str]) -> Mutate:
    """One to three changes of a text, with the ``words`` that its reader knows."""

    def mutate(data: bytes, rng: random.Random) -> bytes:
        if rng.random() < 0.1:
            return mutate_bytes(data, rng)
        text = data.decode(errors="replace")
        for _ in range(rng.randint(1, 3)):
            text = _changed(text, words, rng)
        return text.encode(errors="surrogatepass")

    return mutate


def _changed(text: str, words: Sequence[str], rng: random.Random) -> str:
    place = rng.randint(0, len(text))
    numbers = list(re.finditer(r"\d+(\.\d+)?", text))
    match rng.randrange(7):
        case 0 | 1:
            return text[:place] + rng.choice(words) + text[place:]
        case 2:
            return text[:place] + text[place + rng.choice((1, 1, 4, 20)) :]
        case 3:
            return text[:place] + rng.choice(words) * rng.choice((2, 10, 3000, 30_000)) + text[place:]
        case 4 if numbers:
            found = rng.choice(numbers)
            return text[: found.start()] + _number_text(rng) + text[found.end() :]
        case 5:
            return text[:place] + text[place : place + 20] * 2 + text[place + 20 :]
        case _:
            odd = (
                "\0",
                "\ud800",  # half a character
                "\\udfff",
                "\n",
                "\r",
                "\u202e",
                "\ufeff",
                "\u0301",
                "\u0663",
                "\U0001f600",
                '"',
                "'",
                "\\",
                " ",
            )
            return text[:place] + rng.choice(odd) + text[place + rng.randint(0, 1) :]


def _number_text(rng: random.Random) -> str:
    odd = (
        "nan",
        "inf",
        "-inf",
        "1e309",
        "1e-400",
        "-0",
        "0x10",
        "1_000",
        "9" * 400,
        "9" * 5000,
        "1.",
        ".5",
        "",
    )
    return rng.choice(odd) if rng.random() < 0.5 else str(rng.choice(EDGES))
