"""Arithmetic that people type, over one variable: read by a parser of its own, never evaluated as code.

sum      = product (("+" | "-") product)*
product  = sign (("*" | "/") sign)*
sign     = ("+" | "-") sign | power
power    = atom ["**" sign]
atom     = number | name | function "(" sum ("," sum)* ")" | "(" sum ")"
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable

Expression = Callable[[float], float]

MAX_LENGTH = 100  # characters, so that nesting stays far from Python's limit
CONSTANTS = {"pi": math.pi, "e": math.e}
FUNCTIONS: dict[str, tuple[Callable[..., float], int]] = {  # and how many arguments they take
    "sin": (math.sin, 1),
    "cos": (math.cos, 1),
    "sqrt": (math.sqrt, 1),
    "exp": (math.exp, 1),
    "log": (math.log, 1),
    "abs": (abs, 1),
    "min": (min, 2),
    "max": (max, 2),
}

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)|(?P<name>[A-Za-z]+)"
    r"|(?P<sign>\*\*|[-+*/(),]))\s*"
)
_SUMS = {"+": operator.add, "-": operator.sub}
_PRODUCTS = {"*": operator.mul, "/": operator.truediv}


def parse_expression(text: str, variable: str) -> Expression:
    """A function of ``variable``; calling it raises ArithmeticError or ValueError where it has no value.

    Raises ValueError, with the reason, for text that is no such arithmetic.
    """
    if len(text) > MAX_LENGTH:
        raise ValueError(f"it has {len(text)} characters, at most {MAX_LENGTH} are read")
    parser = _Parser(_tokens(text), variable)
    found = parser.sum()
    if parser.next:
        raise ValueError(f"{parser.next!r} cannot stand there")
    return found


def _tokens(text: str) -> list[str]:
    found, place = [], 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise ValueError(f"{text[place:].strip()[:1]!r} is no part of an expression")
        found.append(match[match.lastgroup or 0])
        place = match.end()
    return found


class _Parser:
    """One method for each line of the grammar."""

    def __init__(self, tokens: list[str], variable: str) -> None:
        self.tokens, self.variable, self.place = tokens, variable, 0

    @property
    def next(self) -> str:
        """The token that is not read yet; "" at the end."""
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def take(self) -> str:
        token = self.next
        self.place += 1
        return token

    def expect(self, sign: str) -> None:
        if self.take() != sign:
            raise ValueError(f"a {sign!r} is missing")

    def sum(self) -> Expression:
        return self._chain(self.product, _SUMS)

    def product(self) -> Expression:
        return self._chain(self.sign, _PRODUCTS)

    def _chain(self, part: Callable[[], Expression], signs: dict[str, Callable[..., float]]) -> Expression:
        left = part()
        while self.next in signs:
            left = _apply(signs[self.take()], left, part())
        return left

    def sign(self) -> Expression:
        if self.next not in _SUMS:
            return self.power()
        sign = self.take()
        value = self.sign()
        return _apply(operator.neg, value) if sign == "-" else value

    def power(self) -> Expression:
        base = self.atom()
        if self.next != "**":
            return base
        self.take()
        # math.pow, for which a root of a negative number is an error and not a complex number.
        return _apply(math.pow, base, self.sign())

    def atom(self) -> Expression:
        token = self.take()
        if token == "(":
            inside = self.sum()
            self.expect(")")
            return inside
        if token in FUNCTIONS:
            return self._call(token)
        if token == self.variable:
            return lambda value: value
        if token in CONSTANTS:
            return _constant(CONSTANTS[token])
        if token[:1].isdigit() or token[:1] == ".":
            return _constant(float(token))
        if token.isalpha():
            known = ", ".join([self.variable, *CONSTANTS, *FUNCTIONS])
            raise ValueError(f"{token!r} is not known; there are {known}")
        raise ValueError(f"{token!r} cannot stand there" if token else "it ends too early")

    def _call(self, name: str) -> Expression:
        function, count = FUNCTIONS[name]
        self.expect("(")
        arguments = [self.sum()]
        while self.next == ",":
            self.take()
            arguments.append(self.sum())
        self.expect(")")
        if len(arguments) != count:
            raise ValueError(f"{name} takes {count} arguments, not {len(arguments)}")
        return _apply(function, *arguments)


def _constant(value: float) -> Expression:
    return lambda _: value


def _apply(function: Callable[..., float], *arguments: Expression) -> Expression:
    return lambda value: function(*[argument(value) for argument in arguments])
