"""What becomes of one option of sd-scripts in ``ti-studio train``: the parts of its tables."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from lib_ti.core.errors import BadInput
from lib_ti.core.nearest import perhaps

Ours = Mapping[str, str]  # options of ti-studio train; a switch has an empty value


@dataclass(frozen=True)
class Entry:
    """What becomes of one option: options of ours, something to say, or a refusal."""

    ours: Callable[[str], Ours] = lambda value: {}
    told: str = ""
    instead: str = ""  # what to do about it: it is refused
    choices: Mapping[str, Entry] = field(default_factory=dict)  # a value in lower case -> what becomes of it
    switch: bool = False  # takes no value
    several: bool = False  # takes any number of values; each is a line of the value

    def of(self, value: str) -> Entry:
        return self.choices.get(value.lower(), self)


def becomes(flag: str, *, several: bool = False) -> Entry:
    return Entry(lambda value: {flag: value}, several=several)


def sets(ours: Ours, *, told: str = "", switch: bool = False) -> Entry:
    return Entry(lambda _: ours, told=told, switch=switch)


def switched(flag: str, value: str = "") -> Entry:
    return sets({flag: value}, switch=True)


def needless(told: str, *, switch: bool = False) -> Entry:
    return Entry(told=told, switch=switch)


def only(*values: str, instead: str) -> Entry:
    return Entry(choices=dict.fromkeys(values, Entry()), instead=instead)


def missing(instead: str, *, switch: bool = False, several: bool = False) -> Entry:
    return Entry(instead=instead, switch=switch, several=several)


def unknown_option(name: str, known: Collection[str]) -> str:
    """The sentence about an option that sd-scripts does not have either, with the one it may stand for."""
    meant = perhaps(f"--{name}", (f"--{option}" for option in known))
    return (
        f"--{name} is no option of this script{meant}; leave it out, or look for it in ti-studio train "
        "--help-all."
    )


def number(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadInput(f"--{option}={text}: expected a number.") from None
