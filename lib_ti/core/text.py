"""Text that can be written down: half of a pair of characters, as bytes of a file's name become that are no
UTF-8, cannot."""

from __future__ import annotations


def is_text(value: str) -> bool:
    return as_text(value) == value


def as_text(value: str) -> str:
    """With a question mark in the place of each half of a character."""
    return value if value.isascii() else value.encode(errors="replace").decode()
