"""What PNG and JPEG files are made of, counted before a picture library goes through it piece by piece.

Sources: PNG specification, third edition, 5.3; ITU-T T.81, B.1.1.
"""

from __future__ import annotations

import mmap
import re

from lib_ti.core import limits
from lib_ti.core.errors import BadInput

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_JPEG_MAGIC = b"\xff\xd8"
_END, _SCAN = 0xD9, 0xDA
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
_AFTER_PIXELS = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # a marker that does not belong to them

Data = bytes | mmap.mmap


def check_parts(data: Data, name: str) -> None:
    """Raises BadInput for a picture in more pieces than any program makes; other kinds of files pass."""
    if data[: len(PNG_MAGIC)] == PNG_MAGIC:
        _check_png(data, name)
    elif data[:2] == _JPEG_MAGIC:
        _check_jpeg(data, name)


def _check_png(data: Data, name: str) -> None:
    place = len(PNG_MAGIC)
    pixels = others = 0
    while len(head := data[place : place + 8]) == 8 and head[4:] != b"IEND":
        if head[4:] in (b"IDAT", b"fdAT"):
            pixels += 1
        else:
            others += 1
        if others > limits.PNG_CHUNKS or pixels > limits.PIXEL_CHUNKS:
            raise BadInput(f"{name} is a PNG of more than {max(others, pixels) - 1} pieces; save it again.")
        place += 12 + int.from_bytes(head[:4], "big")


def _check_jpeg(data: Data, name: str) -> None:
    place, scans = 2, 0
    for _ in range(limits.JPEG_SEGMENTS):
        marker = data[place : place + 2]
        if len(marker) < 2 or marker[1] == _END:
            return
        if marker[0] != 0xFF or marker[1] == 0xFF:  # Pillow goes through both byte by byte
            place += 1
            continue
        place += 2 if marker[1] in _ALONE else 2 + max(2, int.from_bytes(data[place + 2 : place + 4], "big"))
        if marker[1] == _SCAN:
            scans += 1
            if scans > limits.JPEG_SCANS:
                raise BadInput(f"{name} is a JPEG of more than {scans - 1} scans; save it again.")
            after = _AFTER_PIXELS.search(data, place)
            place = after.start() if after else len(data)
    raise BadInput(f"{name} is a JPEG of more than {limits.JPEG_SEGMENTS} segments; save it again.")
