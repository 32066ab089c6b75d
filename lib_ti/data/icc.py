"""ICC profiles of three colorants and a curve each, or of one curve of grey; no others.

After the specification ICC.1:2022: header in 7.2, tag table in 7.3, types of tags in 10. A profile is a
stranger's file: every place in it is checked against its length, and nothing of it is carried out.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lib_ti.core import limits

_HEADER, _ENTRY = 128, 12  # bytes
_CLASSES = (b"mntr", b"scnr", b"prtr", b"spac")  # of what shows, takes or holds pictures
_HDR = (b"\x10", b"\x12")  # transfers PQ and HLG of ITU-T H.273: brighter than white
# Parameters of curve type n, by the letters of table 68.
_PARAMETERS = ("g", "gab", "gabc", "gabcd", "gabcdef")


class NotRead(ValueError):
    """A profile of another kind, or none at all; says why in a few words."""


@dataclass(frozen=True)
class Curve:
    """From a device's numbers, 0..1, to light, 0..1: a table, or (a x + b) ** g + e from ``d`` on and
    c x + f below it."""

    table: np.ndarray | None = None
    g: float = 1.0
    a: float = 1.0
    b: float = 0.0
    c: float = 0.0
    d: float = 0.0
    e: float = 0.0
    f: float = 0.0

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        """Raises NotRead where it leads to nothing."""
        if self.table is not None:
            return np.interp(numbers, np.linspace(0, 1, len(self.table)), self.table)
        with np.errstate(all="ignore"):
            power = np.maximum(self.a * numbers + self.b, 0) ** self.g + self.e
            light = np.where(numbers >= self.d, power, self.c * numbers + self.f)
        if not np.isfinite(light).all():
            raise NotRead("damaged")
        return light.clip(0, 1)


@dataclass(frozen=True)
class Profile:
    """``curves``: of red, green and blue, or one of grey. ``colorants``: (3, 3), from their light to XYZ
    at D50; None of grey."""

    name: str
    curves: tuple[Curve, ...]
    colorants: np.ndarray | None = None


def read_profile(content: bytes) -> Profile:
    """Raises NotRead."""
    try:
        return _read(content)
    except struct.error:  # something ends before it should
        raise NotRead("damaged") from None


def profile_name(content: bytes) -> str:
    """What a profile calls itself; "" where it does not say."""
    try:
        return _name(_tags(content).get(b"desc", b""))
    except (NotRead, struct.error):
        return ""


def _read(content: bytes) -> Profile:
    tags = _tags(content)
    kind, space, connected = content[12:16], content[16:20], content[20:24]
    if space not in (b"RGB ", b"GRAY"):
        raise NotRead(f"of {_printable(space.decode('latin-1'))}")
    if any(name[:3] in (b"A2B", b"D2B") for name in tags):
        raise NotRead("made of lookup tables")
    if tags.get(b"cicp", b"")[9:10] in _HDR:
        raise NotRead("of HDR")
    needed = [b"kTRC"] if space == b"GRAY" else [b"rTRC", b"gTRC", b"bTRC", b"rXYZ", b"gXYZ", b"bXYZ"]
    if kind not in _CLASSES or not all(name in tags for name in needed):
        raise NotRead("without colorants and curves")
    name = _name(tags.get(b"desc", b""))
    if space == b"GRAY":
        return Profile(name, (_curve(tags[b"kTRC"]),))
    if connected != b"XYZ ":
        raise NotRead("without colorants and curves")
    colorants = np.array([_xyz(tags[colour]) for colour in (b"rXYZ", b"gXYZ", b"bXYZ")]).T
    return Profile(name, tuple(_curve(tags[curve]) for curve in (b"rTRC", b"gTRC", b"bTRC")), colorants)


def _tags(content: bytes) -> Mapping[bytes, bytes]:
    if len(content) > limits.COLOUR_PROFILE:
        raise NotRead(f"larger than {limits.COLOUR_PROFILE >> 20} MB")
    if content[36:40] != b"acsp":
        raise NotRead("damaged")
    (count,) = struct.unpack_from(">I", content, _HEADER)
    if count > limits.COLOUR_TAGS:
        raise NotRead("damaged")
    found = {}
    for number in range(count):
        name, start, size = struct.unpack_from(">4sII", content, _HEADER + 4 + _ENTRY * number)
        if start + size > len(content):
            raise NotRead("damaged")
        found[name] = content[start : start + size]
    return found


def _curve(tag: bytes) -> Curve:
    if tag[:4] == b"curv":
        (count,) = struct.unpack_from(">I", tag, 8)
        if count > (len(tag) - 12) // 2:
            raise NotRead("damaged")
        values = np.frombuffer(tag, ">u2", count, 12)
        if count == 0:
            return Curve()
        return Curve(g=int(values[0]) / 256) if count == 1 else Curve(values.astype(np.float64) / 65535)
    kind, _ = struct.unpack_from(">HH", tag, 8)
    if tag[:4] != b"para" or kind >= len(_PARAMETERS):
        raise NotRead("damaged")
    names = _PARAMETERS[kind]
    told: dict[str, Any] = dict(zip(names, _fixed(tag, 12, len(names)), strict=True))
    if kind in (1, 2):  # below where a x + b is 0, there is nothing but the constant c
        if not told["a"]:
            raise NotRead("damaged")
        constant = told.pop("c", 0.0)
        told |= {"d": -told["b"] / told["a"], "e": constant, "f": constant}
    return Curve(**told)


def _xyz(tag: bytes) -> tuple[float, ...]:
    if tag[:4] != b"XYZ ":
        raise NotRead("damaged")
    return _fixed(tag, 8, 3)


def _fixed(tag: bytes, start: int, count: int) -> tuple[float, ...]:
    """Numbers of 16 bits before and 16 behind the point."""
    return tuple(value / 65536 for value in struct.unpack_from(f">{count}i", tag, start))


def _name(tag: bytes) -> str:
    if tag[:4] == b"mluc":
        length, start = struct.unpack_from(">II", tag, 20)  # of the first of its languages
        return _printable(tag[start : start + length].decode("utf-16-be", errors="replace"))
    (length,) = struct.unpack_from(">I", tag, 8) if tag[:4] == b"desc" else (0,)
    return _printable(tag[12 : 12 + length].decode("latin-1"))


def _printable(text: str) -> str:
    return "".join(sign for sign in text[:60] if sign.isprintable()).strip()
