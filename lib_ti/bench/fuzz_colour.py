"""Colour profiles for the fuzzer: of each kind that is read, and one that is not."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from lib_ti.data.colour import colours_of

_COLORANTS = {b"rXYZ": (0.515, 0.241, -0.001), b"gXYZ": (0.292, 0.692, 0.042), b"bXYZ": (0.157, 0.067, 0.784)}
_NAME = b"desc" + bytes(4) + struct.pack(">I", 4) + b"cat\0"
_GAMMA = b"curv" + bytes(4) + struct.pack(">IH", 1, 512)
_TABLE = b"curv" + bytes(4) + struct.pack(">I64H", 64, *range(0, 65536, 1024))
_FORMULA = b"para" + bytes(4) + struct.pack(">HH7i", 4, 0, *(157286, 62119, 3417, 5072, 2651, 0, 0))


def profiles(folder: Path) -> list[bytes]:
    """Whole profiles; nothing is written."""
    colorants = {
        name: b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in xyz))
        for name, xyz in _COLORANTS.items()
    }
    curves = [dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve) for curve in (_GAMMA, _TABLE, _FORMULA)]
    made = [_profile(b"RGB ", {b"desc": _NAME, **colorants, **three}) for three in curves]
    tables = _profile(b"RGB ", {b"desc": _NAME, b"A2B0": bytes(64)})
    return [*made, _profile(b"GRAY", {b"kTRC": _TABLE}), tables]


def _profile(space: bytes, tags: Mapping[bytes, bytes]) -> bytes:
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for name, tag in tags.items():
        table += struct.pack(">4sII", name, start + len(body), len(tag))
        body += tag
    head = (bytes(12) + b"mntr" + space + b"XYZ ").ljust(36, b"\0") + b"acsp"
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def read_colours(path: Path) -> None:
    """As a picture's that has the profile: it raises nothing, for the picture is taken anyhow."""
    content = path.read_bytes()
    for mode in ("RGB", "L"):
        if colours := colours_of({"icc_profile": content}, mode).colours:
            colours.to_srgb(Image.new(mode, (8, 8)))


def has_tags(data: bytes) -> bool:
    return data[36:40] == b"acsp" and 0 < int.from_bytes(data[128:132], "big") <= len(data) // 12
