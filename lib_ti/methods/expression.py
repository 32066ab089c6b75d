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
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from lib_ti.core import limits

Node = Callable[[Any], Any]  # from what the names stand for to the value
Expression = Callable[[float], float]

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
    if len(text) > limits.EXPRESSION:
        raise ValueError(f"it has {len(text)} characters, at most {limits.EXPRESSION} are read")
    return Parser(tokens_of(text, _TOKEN), partial(_power, variable)).whole()


def tokens_of(text: str, token: re.Pattern[str]) -> list[str]:
    """What the named groups of ``token`` find, one after the other. Raises ValueError where none does."""
    found, place = [], 0
    while place < len(text):
        match = token.match(text, place)
        if match is None:
            raise ValueError(f"{text[place:].strip()[:1]!r} is no part of an expression")
        found.append(match[match.lastgroup or 0])
        place = match.end()
    return found


class Parser:
    """One method for each of the grammar's first three lines; ``operand`` reads what they are made of."""

    def __init__(self, tokens: Sequence[str], operand: Callable[[Parser], Node]) -> None:
        self.tokens, self.operand, self.place = tokens, operand, 0

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

    def whole(self) -> Node:
        """The sum that all of the tokens are. Raises ValueError."""
        return self.ended(self.sum())

    def ended(self, found: Node) -> Node:
        if self.next:
            raise ValueError(f"{self.next!r} cannot stand there")
        return found

    def sum(self) -> Node:
        return self._chain(self.product, _SUMS)

    def product(self) -> Node:
        return self._chain(self.sign, _PRODUCTS)

    def _chain(self, part: Callable[[], Node], signs: dict[str, Callable[..., Any]]) -> Node:
        left = part()
        while self.next in signs:
            left = apply(signs[self.take()], left, part())
        return left

    def sign(self) -> Node:
        if self.next not in _SUMS:
            return self.operand(self)
        sign = self.take()
        value = self.sign()
        return apply(operator.neg, value) if sign == "-" else value


def constant(value: Any) -> Node:
    return lambda _: value


def apply(function: Callable[..., Any], *arguments: Node) -> Node:
    return lambda value: function(*[argument(value) for argument in arguments])


def _power(variable: str, parser: Parser) -> Node:
    base = _atom(variable, parser)
    if parser.next != "**":
        return base
    parser.take()
    # math.pow, for which a root of a negative number is an error and not a complex number.
    return apply(math.pow, base, parser.sign())


def _atom(variable: str, parser: Parser) -> Node:
    token = parser.take()
    if token == "(":
        inside = parser.sum()
        parser.expect(")")
        return inside
    if token in FUNCTIONS:
        return _call(parser, token)
    if token == variable:
        return lambda value: value
    if token in CONSTANTS:
        return constant(CONSTANTS[token])
    if token[:1].isdigit() or token[:1] == ".":
        return constant(float(token))
    if token.isalpha():
        known = ", ".join([variable, *CONSTANTS, *FUNCTIONS])
        raise ValueError(f"{token!r} is not known; there are {known}")
    raise ValueError(f"{token!r} cannot stand there" if token else "it ends too early")


def _call(parser: Parser, name: str) -> Node:
    function, count = FUNCTIONS[name]
    parser.expect("(")
    arguments = [parser.sum()]
    while parser.next == ",":
        parser.take()
        arguments.append(parser.sum())
    parser.expect(")")
    if len(arguments) != count:
        raise ValueError(f"{name} takes {count} arguments, not {len(arguments)}")
    return apply(function, *arguments)
