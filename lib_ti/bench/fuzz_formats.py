"""Valid files changed inside, their lengths and checksums made right again: so readers look inside, too."""

from __future__ import annotations

import base64
import io
import json
import math
import random
import struct
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pickletools import genops
from typing import Any

from PIL import Image

from lib_ti.bench.fuzz_mutate import EDGES, mutate_bytes, mutate_text
from lib_ti.formats.card_pixels import hide

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def mutate_safetensors(data: bytes, rng: random.Random) -> bytes:
    """The header's content, with its length right; of half of them the offsets and the body too."""
    size = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    for _ in range(rng.randint(1, 2)):
        _change_header(header, rng)
    if rng.random() < 0.7:
        body = _lay_out(header, body)
    if rng.random() < 0.3:
        body = mutate_bytes(body, rng)[: len(body)].ljust(len(body), b"\0")
    text = json.dumps(header, ensure_ascii=rng.random() < 0.5).encode(errors="replace")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + body


def _change_header(header: dict[str, Any], rng: random.Random) -> None:
    names = [name for name in header if name != "__metadata__"]
    entry = header.get(rng.choice(names)) if names else None
    match rng.randrange(8):
        case 0 if names:
            header[rng.choice(_KEYS)] = header.pop(rng.choice(names))
        case 1 if isinstance(entry, dict):
            entry["dtype"] = rng.choice(("F16", "BF16", "F64", "I64", "U8", "BOOL", *_ODD_TYPES))
        case 2 if isinstance(entry, dict):
            entry["shape"] = [
                rng.choice((0, 1, 3, 75, 76, 768, 1024, 4097, -1, 2**40, 2**63 - 1))
                for _ in range(rng.choice((0, 1, 2, 3, 4, 70)))
            ]
        case 3 if isinstance(entry, dict):
            entry["data_offsets"] = sorted(rng.choice(EDGES) for _ in range(2))
        case 4:
            told = header.setdefault("__metadata__", {})
            if isinstance(told, dict):
                told[rng.choice(_KEYS)] = rng.choice((*_TEXTS, "[" * 5000, "x" * 100_000, 3, None))
        case 5 if names:
            for number in range(_often(rng, 500, 60_000)):
                header[f"{rng.choice(_KEYS)}{number}"] = (
                    dict(header[names[0]]) if isinstance(entry, dict) else 0
                )
        case 6 if names:
            del header[rng.choice(names)]
        case _:
            header["__metadata__"] = rng.choice(({}, None, [], "x", {"a": {"b": "c"}}))


_KEYS = (
    *(
        "emb_params",
        "clip_l",
        "clip_g",
        "<cat>",
        "../cat",
        "{:>9999999999}",
        "con",
        "string_to_param",
        "name",
        "step",
        "",
        "\0",
        "\ud800",
    ),
    *("bundle_emb.cat.string_to_param.*", "bundle_emb.../x.emb_params", "lora_unet_x.lora_up.weight", "cat1"),
    *("lora_te_text_model_encoder_layers_0_mlp_fc1.alpha", "unet.x.lora_A.weight", "modelspec.architecture"),
    *("ss_base_model_version", "lora_adapter_metadata", "ss_output_name", "x.hada_w1_a", "x.dora_scale"),
    *(f"lora_unet_transformer_blocks_{'9' * n}_attn2_to_k.lora_down.weight" for n in (400, 5000)),
)
_TEXTS = (
    "",
    "1",
    "-1",
    "9" * 5000,
    "<script>alert(1)</script>",
    "../../x",
    "{",
    "[]",
    '{"lora_alpha": 1e400}',
    "True",
    "\udfff",
    '{"a": "\\ud800"}',
)
_ODD_TYPES = ("F8_E4M3", "F4", "U16", "X", 3)
_REPEATED = 1 << 20  # bytes of chunks alike
_WIDTHS = {"F64": 8, "I64": 8, "F32": 4, "F16": 2, "BF16": 2, "U16": 2}
_MAX_BODY = 1 << 20


def _often(rng: random.Random, many: int, more: int) -> int:
    """How often something is repeated; rarely ``more``, which takes its time to be made."""
    return rng.choice((1, 2, 76, more if rng.random() < 0.1 else many))


def _lay_out(header: dict[str, Any], body: bytes) -> bytes:
    """Offsets that follow one another, and as many bytes; untouched where a shape asks for too many."""
    entries = [entry for name, entry in header.items() if name != "__metadata__" and isinstance(entry, dict)]
    sizes = [math.prod(entry["shape"]) * _WIDTHS.get(entry["dtype"], 1) for entry in entries]
    if any(size < 0 for size in sizes) or sum(sizes) > _MAX_BODY:
        return body
    end = 0
    for entry, size in zip(entries, sizes, strict=True):
        start, end = end, end + size
        entry["data_offsets"] = [start, end]
    return (body * (end // max(1, len(body)) + 1))[:end] if body else bytes(end)


def mutate_pickle(program: bytes, rng: random.Random) -> bytes:
    """One to three instructions left out, repeated, exchanged, put in, or with another number."""
    starts = [position or 0 for _, _, position in genops(program)]
    spans = [program[start:end] for start, end in zip(starts, [*starts[1:], len(program)], strict=True)]
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(spans)) if spans else 0
        match rng.randrange(5):
            case 0 if spans:
                del spans[place]
            case 1 if spans:
                spans[place:place] = [spans[place]] * _often(rng, 2000, 250_000)
            case 2 if spans:
                other = rng.randrange(len(spans))
                spans[place], spans[other] = spans[other], spans[place]
            case 3:
                numbers = [i for i, span in enumerate(spans) if span[:1] in b"KMJ\x8a" and span]
                if numbers:
                    spans[rng.choice(numbers)] = b"\x8a\x09" + rng.choice(EDGES).to_bytes(
                        9, "little", signed=True
                    )
            case _:
                spans[place:place] = [rng.choice(_INSTRUCTIONS)]
    return b"".join(spans)


# Harmless even where they were carried out.
_INSTRUCTIONS = (
    b"cposix\nsystem\nU\x04true\x85R",
    b"cbuiltins\neval\nU\x031+1\x85R",
    b"cbuiltins\n__import__\nU\x0bantigravity\x85R",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch\nFloatStorage\n",
    *(b"(", b")", b"]", b"}", b"t", b"R", b"b", b"Q", b"u", b"s", b"a", b"e", b"0", b"2", b"1", b"N", b"."),
    *(b"\x81", b"\x92", b"\x93", b"\x94", b"\x95" + b"\xff" * 8, b"B\xff\xff\xff\x7f", b"X\xff\xff\xff\xff"),
    *(b"h\x00", b"q\x00", b"r\xff\xff\xff\x7f", b"j\xff\xff\xff\xff", b"I99\n", b"L" + b"9" * 5000 + b"L\n"),
    b"]q\x10" + b"](h\x10h\x10eq\x10" * 40,  # a list of two lists of two lists ...: 2 ** 40 when it is shown
    b"(" * 3000,
    b"]" * 3000,
    b"\x85" * 3000,
)


def mutate_zip(data: bytes, rng: random.Random) -> bytes:
    """A member of torch's archive, packed anew with its checksum; or the archive between other bytes."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    programs = [place for place, (name, _) in enumerate(members) if name.endswith("data.pkl")]
    place = programs[0] if rng.random() < 0.6 else rng.randrange(len(members))
    name, content = members[place]
    match rng.randrange(8):
        case 0:
            members[place] = (
                rng.choice(("../x/data.pkl", "x/data.pkl", "/data/0", name + "\0", " ")),
                content,
            )
        case 1:
            members.append((name, content))
        case 2:
            del members[place]
        case _:
            change = mutate_pickle if place in programs and rng.random() < 0.8 else mutate_bytes
            members[place] = (name, change(content, rng))
    if rng.random() < 0.03:
        members += [(f"x/data/{number}", b"") for number in range(rng.choice((1_000, 5_000)))]
    packed = _packed(members, zipfile.ZIP_DEFLATED if rng.random() < 0.05 else zipfile.ZIP_STORED)
    if rng.random() < 0.15:
        packed = _resized(packed, rng)
    if rng.random() < 0.1:
        other = rng.choice((b"\x80\x02N.", data, b"\x89PNG", b"\0" * 64))
        return rng.choice((other + packed, packed + other))
    return packed


def _resized(archive: bytes, rng: random.Random) -> bytes:
    """With another count, size or place in its directory or at its end: a small file that claims much."""
    found, kind = bytearray(archive), rng.choice((b"PK\x01\x02", b"PK\x05\x06", b"PK\x03\x04"))
    place = found.find(kind)
    width = rng.choice((2, 4, 8))
    start = place + rng.randrange(4, 42)
    if place >= 0:
        found[start : start + width] = (rng.choice(EDGES) & (256**width - 1)).to_bytes(width, "little")
    return bytes(found[: len(archive)])


def _packed(members: Sequence[tuple[str, bytes]], compression: int) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name that occurs twice is meant
        with zipfile.ZipFile(stream, "w", compression) as archive:
            for name, content in members:
                archive.writestr(name, content)
    return stream.getvalue()


def mutate_stream(data: bytes, rng: random.Random) -> bytes:
    """One of the five pickles of torch's older layout, or a storage behind them."""
    stream, parts = io.BytesIO(data), []
    for _ in range(5):
        start = stream.tell()
        for _ in genops(stream):
            pass
        parts.append(data[start : stream.tell()])
    storages = data[stream.tell() :]
    place = rng.choice((0, 1, 2, 3, 3, 3, 3, 4, 5))
    if place == 5:
        return b"".join(parts) + mutate_bytes(storages, rng)
    parts[place] = mutate_pickle(parts[place], rng)
    return b"".join(parts) + storages


def mutate_png(data: bytes, rng: random.Random) -> bytes:
    """Its chunks, each with its length and checksum; the pixels unpacked and packed again."""
    chunks = _chunks(data)
    for _ in range(rng.randint(1, 2)):
        place = rng.randrange(len(chunks))
        kind, content = chunks[place]
        match rng.randrange(8):
            case 0 if len(chunks[0][1]) == 13:
                sides = (rng.choice((0, 1, 64, 5000, 2**16, 2**31 - 1)) for _ in range(2))
                chunks[0] = (b"IHDR", struct.pack(">II", *sides) + chunks[0][1][8:])
            case 1 if len(chunks[0][1]) == 13:
                told = bytes(rng.choice((0, 1, 2, 3, 4, 6, 8, 16, 255)) for _ in range(5))
                chunks[0] = (b"IHDR", chunks[0][1][:8] + told)
            case 2 if kind == b"IDAT":
                chunks[place] = (kind, zlib.compress(mutate_bytes(_unpacked(content), rng)))
            case 3:
                chunks.insert(rng.randint(1, len(chunks)), rng.choice(_more_chunks()))
            case 4:
                del chunks[place]
            case 5:
                count = rng.choice((1, 2, 100, 20_000))
                chunks[place:place] = [chunks[place]] * min(count, _REPEATED // (len(content) + 12) + 1)
            case 6:
                side = rng.choice(
                    (2000, 4000, 5700, 6500)
                )  # a few kilobytes that unpack to millions of pixels
                head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
                chunks = [(b"IHDR", head), (b"IDAT", _zeros(side * (side + 1))), (b"IEND", b"")]
            case _:
                chunks[place] = (kind, mutate_bytes(content, rng))
        if not chunks:
            break
    return _png_of(chunks)


def _png_of(chunks: Sequence[tuple[bytes, bytes]]) -> bytes:
    return _PNG_MAGIC + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks, place = [], len(_PNG_MAGIC)
    while place < len(data):
        (size,) = struct.unpack_from(">I", data, place)
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + size]))
        place += 12 + size
    return chunks


def mutate_card(data: bytes, rng: random.Random) -> bytes:
    """What stands in a card's texts, in base64 again, or in its borders; or its chunks."""
    chunks, kind = _chunks(data), rng.random()
    if kind < 0.4:
        return mutate_png(data, rng)
    if kind < 0.55:
        return _hidden_anew(data, rng)
    texts = [place for place, (name, _) in enumerate(chunks) if name in (b"tEXt", b"iTXt")]
    if texts:
        place = rng.choice(texts)
        name, content = chunks[place]
        key, _, text = content.partition(b"\0")
        if key == b"sd-ti-embedding":
            text = base64.b64encode(_CARD_TEXT(base64.b64decode(text), rng))
        else:
            text = _CARD_TEXT(text, rng)
        chunks[place] = (name, key + b"\0" + text)
    return _png_of(chunks)


def _hidden_anew(data: bytes, rng: random.Random) -> bytes:
    stream = io.BytesIO()
    with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
        text = b'{"string_to_param": {"*": {"TORCHTENSOR": [[0.1, 0.2]]}}, "name": "cat", "step": 1}'
        hidden = zlib.compress(_CARD_TEXT(text, rng) if rng.random() < 0.9 else bytes(8 << 20))
        hide(picture.convert("RGB").crop((0, 0, 128, 128)), hidden).save(
            stream, format="PNG", compress_level=1
        )
    return stream.getvalue()


_CARD_TEXT = mutate_text(
    (
        *(
            '{"TORCHTENSOR": [[1e999]]}',
            '{"TORCHTENSOR": [[1], [1, 2]]}',
            '{"TORCHTENSOR": "x"}',
            "[[[",
            "NaN",
            "1e400",
        ),
        *(
            '"name": "../x", ',
            '"step": -1, ',
            '"\\ud800"',
            "null",
            "[",
            "]",
            "{",
            "}",
            ",",
            ":",
            '"',
            '"clip_g": 3, ',
            "0.5, ",
        ),
    )
)


def _unpacked(content: bytes) -> bytes:
    """Without an end where there is none: an earlier change may have taken it."""
    with suppress(zlib.error):
        return zlib.decompressobj().decompress(content, 1 << 20)
    return b""


@lru_cache(maxsize=8)
def _zeros(count: int) -> bytes:
    return zlib.compress(bytes(count))


@lru_cache(maxsize=1)
def _more_chunks() -> tuple[tuple[bytes, bytes], ...]:
    """Text, profiles and animation, of which some unpack to far more than they are."""
    bomb = _zeros(20_000_000)
    return (
        (b"tEXt", b"parameters\0" + b"x" * 100_000),
        (b"zTXt", b"parameters\0\0" + bomb),
        (b"iTXt", b"parameters\0\1\0\0\0" + bomb),
        (b"iCCP", b"profile\0\0" + bomb),
        (b"eXIf", b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"),
        (b"eXIf", b"MM\0*" + b"\xff" * 40),
        (b"acTL", struct.pack(">II", 2**31 - 1, 0)),
        (b"fcTL", struct.pack(">IIIIIHHBB", 0, 2**31 - 1, 1, 0, 0, 1, 1, 0, 0)),
        (b"PLTE", b"\0" * 800),
        (b"tRNS", b"\0" * 300),
        (b"IDAT", b"\x78\x9c"),
        (b"IEND", b""),
    )
