"""Embeddings put together: one after the other, added with weights, or as an expression says.

A parser of its own reads expressions such as ``0.5*cat + 0.5*dog - "fur", 'my cat'``; nothing is evaluated.

list     = sum ("," sum)*                                 one after the other, as words in a prompt
sum      = product (("+" | "-") product)*
product  = sign (("*" | "/") sign)*
sign     = ("+" | "-") sign | atom
atom     = number | name | "'" name "'" | '"' words of the vocabulary '"' | "(" list ")"
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Literal

import torch

from lib_ti.core import limits
from lib_ti.methods.expression import Node, Parser, apply, constant, tokens_of

MAX_DEPTH = 30  # parentheses and signs inside one another, far from Python's limit

# What is done where two sums' parts have different numbers of vectors.
Short = Literal["refuse", "zeros", "repeat"]

_NUMBER = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_TOKEN = re.compile(
    rf"\s*(?:(?P<number>{_NUMBER}(?![\w.]))"
    r"""|"(?P<words>[^"]*")|'(?P<quoted>[^']*')|(?P<name>\w(?:[\w.-]*\w)?)|(?P<sign>[-+*/(),]))\s*"""
)


@dataclass(frozen=True, eq=False)
class Rows:
    """Vectors that can be reckoned with: text encoder -> (n, d), float32. ``short``: how sums go on where
    one has fewer vectors. What cannot be done raises ValueError with the reason."""

    name: str
    vectors: Mapping[str, torch.Tensor]
    short: Short = "refuse"

    @property
    def count(self) -> int:
        return len(next(iter(self.vectors.values())))

    def then(self, other: object) -> Rows:
        """The vectors of both, one after the other."""
        theirs = self._alike(other)
        if (count := self.count + theirs.count) > limits.VECTORS:
            raise ValueError(
                f"it has {count} vectors, and {limits.VECTORS} are what a chunk of a prompt holds"
            )
        vectors = {e: torch.cat([v, theirs.vectors[e]]) for e, v in self.vectors.items()}
        return replace(self, name=f"{self.name}, {theirs.name}", vectors=vectors)

    def __add__(self, other: object) -> Rows:
        theirs = self._alike(other)
        if self.count != theirs.count and self.short == "refuse":
            raise ValueError(
                f"{self.name} has {self.count} vectors and {theirs.name} {theirs.count}; choose what stands "
                "for the missing ones: zeros, or those of the shorter again"
            )
        count = max(self.count, theirs.count)
        one, two = self._filled(count), theirs._filled(count)
        name = f"({self.name} + {theirs.name})"
        return replace(self, name=name, vectors={e: one[e] + two[e] for e in one})

    def __radd__(self, other: object) -> Rows:
        return self + other

    def __sub__(self, other: object) -> Rows:
        return self + (-self._alike(other))

    def __rsub__(self, other: object) -> Rows:
        return (-self) + other

    def __mul__(self, factor: object) -> Rows:
        if not isinstance(factor, float):
            raise ValueError(f"{self.name} and {_named(factor)} cannot be multiplied; one must be a number")
        name = f"{factor:g}*{self.name}"
        return replace(self, name=name, vectors={e: v * factor for e, v in self.vectors.items()})

    def __rmul__(self, factor: object) -> Rows:
        return self * factor

    def __truediv__(self, divisor: object) -> Rows:
        if not isinstance(divisor, float):
            raise ValueError(f"{self.name} cannot be divided by {_named(divisor)}, only by a number")
        return self * (1 / divisor)

    def __rtruediv__(self, other: object) -> Rows:
        raise ValueError(f"nothing can be divided by {self.name}, only by a number")

    def __neg__(self) -> Rows:
        return self * -1.0

    def _alike(self, other: object) -> Rows:
        """``other``, if it is for the same text encoders."""
        if not isinstance(other, Rows):
            raise ValueError(f"{self.name} and the number {_named(other)} cannot be put together")
        for one, two in ((self, other), (other, self)):
            for encoder, vectors in one.vectors.items():
                theirs = two.vectors.get(encoder)
                if theirs is None or theirs.shape[1] != vectors.shape[1]:
                    raise ValueError(
                        f"{self.name} is for {_told(self)} and {other.name} for {_told(other)}; only what is "
                        "for the same kind of model can be put together"
                    )
        return other

    def _filled(self, count: int) -> dict[str, torch.Tensor]:
        if self.short == "repeat":
            return {e: v[torch.arange(count) % len(v)] for e, v in self.vectors.items()}
        missing = count - self.count
        return {e: torch.cat([v, v.new_zeros(missing, v.shape[1])]) for e, v in self.vectors.items()}


@dataclass(frozen=True)
class Sources:
    """What the atoms of an expression stand for; each may raise."""

    embedding: Callable[[str], Rows]  # of a name
    words: Callable[[str], Rows]  # of words of the model's vocabulary


def concatenated(parts: Sequence[Rows]) -> Rows:
    """Raises ValueError for parts that do not go together."""
    return reduce(Rows.then, parts)


def weighted_sum(parts: Sequence[Rows], weights: Sequence[float]) -> Rows:
    """Raises ValueError as above, and where ``short`` refuses different numbers of vectors."""
    return reduce(Rows.__add__, [part * float(weight) for part, weight in zip(parts, weights, strict=True)])


def mixed(expression: str, sources: Sources) -> Rows:
    """What ``expression`` says. Raises ValueError or ArithmeticError, with the reason, where it cannot be."""
    found = _parse(expression)(sources)
    if not isinstance(found, Rows):
        raise ValueError("it is a number, and no embedding is in it")
    return found


def _parse(text: str) -> Node:
    if len(text) > limits.MIXTURE:
        raise ValueError(f"it has {len(text)} characters, at most {limits.MIXTURE} are read")
    tokens = tokens_of(text, _TOKEN)
    _check_depth(tokens)
    parser = Parser(tokens, _atom)
    return parser.ended(_list(parser))


def _check_depth(tokens: Sequence[str]) -> None:
    """A parser that calls itself for every parenthesis and sign must not meet too many."""
    depth = run = 0
    for token in tokens:
        depth += {"(": 1, ")": -1}.get(token, 0)
        run = run + 1 if token in ("+", "-") else 0
        if depth + run > MAX_DEPTH:
            raise ValueError(f"more than {MAX_DEPTH} parentheses or signs stand inside one another")


def _list(parser: Parser) -> Node:
    left = parser.sum()
    while parser.next == ",":
        parser.take()
        left = apply(_then, left, parser.sum())
    return left


def _then(one: object, other: object) -> Rows:
    if not isinstance(one, Rows):
        raise ValueError(f"the number {_named(one)} cannot stand in a list")
    return one.then(other)


def _atom(parser: Parser) -> Node:
    token = parser.take()
    if token == "(":
        inside = _list(parser)
        parser.expect(")")
        return inside
    if token.endswith('"'):
        return lambda sources: sources.words(token[:-1])
    if token.endswith("'"):
        return lambda sources: sources.embedding(token[:-1])
    if re.fullmatch(_NUMBER, token):
        return constant(float(token))
    if token[:1].isalnum() or token[:1] == "_":
        return lambda sources: sources.embedding(token)
    raise ValueError(f"{token!r} cannot stand there" if token else "it ends too early")


def _named(value: object) -> str:
    return value.name if isinstance(value, Rows) else f"{value:g}" if isinstance(value, float) else str(value)


def _told(rows: Rows) -> str:
    return " and ".join(
        f"{encoder} ({vectors.shape[1]} numbers)" for encoder, vectors in rows.vectors.items()
    )
