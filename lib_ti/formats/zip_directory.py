"""What a zip archive of torch holds: its directory, read with a limit before anything is made of it.

Strict where Python's own reader is generous: the directory stands at the end of the file and the first
member at its beginning, so that no other reader can take the file for another one.
Source: PKWARE's APPNOTE.TXT 6.3.10, sections 4.3.12 to 4.3.16 and 4.5.3.
"""

from __future__ import annotations

import mmap
import struct

from lib_ti.core import limits
from lib_ti.formats.pickle_machine import Refused

_END = struct.Struct("<4s4HIIH")
_LOCATOR = struct.Struct("<4sIQI")
_END_64 = struct.Struct("<4sQ2H2I4Q")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_ELSEWHERE = 0xFFFFFFFF  # the number stands in the extra field
_ENCRYPTED, _UTF8 = 1, 0x800


def members_of(mapping: mmap.mmap) -> dict[str, tuple[int, int]]:
    """Name -> first byte and length; members lie in the file as they are, since torch never compresses.

    Raises Refused, and struct.error or UnicodeError for what is damaged.
    """
    place, count = _directory(mapping)
    members: dict[str, tuple[int, int]] = {}
    first = None
    for _ in range(count):
        fields = _ENTRY.unpack_from(mapping, place)
        signature, flags, method = fields[0], fields[3], fields[4]
        packed, size, offset = fields[8], fields[9], fields[16]
        if signature != b"PK\x01\x02":
            raise Refused("its zip archive's directory breaks off")
        place += _ENTRY.size
        middle = place + fields[10]
        raw, extra = mapping[place:middle], mapping[middle : middle + fields[11]]
        place += sum(fields[10:13])
        name = raw.decode("utf-8" if flags & _UTF8 else "cp437")
        size, packed, offset = _long(extra, [size, packed, offset])
        if method != 0 or flags & _ENCRYPTED or packed != size:
            raise Refused(f"its member {name:.80} is compressed or encrypted, which torch never does")
        signature, *_, name_length, extra_length = _LOCAL.unpack_from(mapping, offset)
        start = offset + _LOCAL.size + name_length + extra_length
        if name in members or signature != b"PK\x03\x04" or start + size > len(mapping):
            raise Refused(f"its member {name:.80} occurs twice or reaches beyond the end of the file")
        members[name] = (start, size)
        first = offset if first is None else min(first, offset)
    # A second archive behind the first is what another reader may take for the file.
    if first != 0:
        raise Refused("its zip archive does not start at the first byte")
    return members


def _directory(mapping: mmap.mmap) -> tuple[int, int]:
    """Where the directory begins, and how many members it tells of."""
    end = len(mapping) - _END.size
    if end < 0:
        raise Refused("its zip archive breaks off")
    signature, *_, count, size, start, comment = _END.unpack_from(mapping, end)
    if signature != b"PK\x05\x06" or comment:
        raise Refused("its zip archive does not end at the last byte")
    locator = end - _LOCATOR.size
    if locator >= 0 and mapping[locator : locator + 4] == b"PK\x06\x07":
        _, _, end, _ = _LOCATOR.unpack_from(mapping, locator)
        signature, *_, count, size, start = _END_64.unpack_from(mapping, end)
        if signature != b"PK\x06\x06" or end + _END_64.size != locator:
            raise Refused("its zip archive's directory breaks off")
    if count > limits.MEMBERS:
        raise Refused(f"its zip archive has {count} members, at most {limits.MEMBERS} are read")
    if start + size != end:
        raise Refused("its zip archive does not start at the first byte")
    if size < count * _ENTRY.size:
        raise Refused("its zip archive's directory breaks off")
    return start, count


def _long(extra: bytes, numbers: list[int]) -> list[int]:
    """``numbers``: unpacked and packed size, offset; those that four bytes cannot hold are in ``extra``."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        if kind == 1:
            held = [number for (number,) in struct.iter_unpack("<Q", extra[4 : 4 + length // 8 * 8])]
            told = iter(held)
            return [next(told, number) if number == _ELSEWHERE else number for number in numbers]
        extra = extra[4 + length :]
    return numbers
