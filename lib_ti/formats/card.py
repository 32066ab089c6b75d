"""Cards: PNG pictures that carry an embedding, as A1111 reads and writes them, and a little more.

An embedding stands twice in a card. The text chunk ``sd-ti-embedding`` holds it as base64 of JSON, tensors
as ``{"TORCHTENSOR": rows}``: the shortest decimals that give every float32 back. The picture's borders hold
the same JSON, compressed, to four digits, about what float16 keeps: sites strip chunks, and seldom pixels.

What A1111 has no place for, the partner for the negative prompt and what is known besides, is a record of
ours: in the chunk ``ti-studio-card``, and behind the first in the borders, where A1111 expects padding.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lib_ti.core import limits
from lib_ti.core.errors import BadInput
from lib_ti.core.files import parse_json, write_atomically
from lib_ti.core.names import safe_name
from lib_ti.core.picture_parts import PNG_MAGIC, check_parts
from lib_ti.formats.card_pixels import find_hidden, hide
from lib_ti.formats.content import HEAD, what_else
from lib_ti.formats.embedding import (
    ENCODERS,
    Embedding,
    assemble,
    pt_content,
)

_CHUNK, _OUR_CHUNK = "sd-ti-embedding", "ti-studio-card"
_MARK = b"ti-studio-card\n"  # before our record in the borders, where A1111's cards repeat themselves
_TENSOR = "TORCHTENSOR"
_DIGITS = 4  # in the borders
_ZIPPED_TEXT = 2**20  # bytes; Pillow refuses a compressed chunk with more in it
_KEPT = {0: 2**13, _DIGITS: 100}  # characters; what is longer of the metadata is left out
# What damaged files were seen to raise in Pillow 9.5 and 13; it has no error of its own for them.
_DAMAGE = (OSError, SyntaxError, ValueError, IndexError, KeyError, EOFError, Image.DecompressionBombError)


@dataclass(frozen=True)
class Card:
    """What a card carries. ``negative``: the partner for the negative prompt, if it is a pair's card.
    ``found_in``: its vectors are exact in the chunk, and of four digits in the pixels.

    Raises BadInput where the two are for different models.
    """

    embedding: Embedding
    negative: Embedding | None = None
    found_in: Literal["chunk", "pixels"] = "chunk"

    def __post_init__(self) -> None:
        if self.negative is None:
            return
        widths = [{k: v.shape[1] for k, v in e.vectors.items()} for e in (self.embedding, self.negative)]
        if widths[0] != widths[1]:
            one, other = self.embedding.name, self.negative.name
            raise BadInput(
                f"{one} and {other} are for different models, so they are no pair; choose another."
            )


def write_card(card: Card, picture: Image.Image, path: Path) -> None:
    """``picture`` (RGB) with the card's embeddings in it, as PNG."""
    image, info = card_image(card, picture)
    write_atomically(path, partial(image.save, format="PNG", pnginfo=info, compress_level=9))


def card_image(card: Card, picture: Image.Image) -> tuple[Image.Image, PngInfo]:
    """What ``write_card`` writes: the pixels, and the texts beside them."""
    info = PngInfo()
    exact, short = (_content_text(card.embedding, digits) for digits in (0, _DIGITS))
    _add_text(info, _CHUNK, base64.b64encode(exact).decode())
    _add_text(info, _OUR_CHUNK, _record_text(card, 0).decode())
    record = zlib.compress(_MARK + _record_text(card, _DIGITS), 9)
    return hide(picture, zlib.compress(short, 9) + record), info


def read_card(content: bytes, name: str) -> Card:
    """The card in a PNG file's bytes; ``name``: of the file, for a card that tells none.

    Raises BadInput for what is no card, and for one that is damaged or larger than any embedding needs.
    """
    image = _open(content, name)
    try:
        texts = dict(image.text)
        known = texts.get(_CHUNK)
        if known is not None:
            record = _read_record(texts.get(_OUR_CHUNK, "").encode())
            return _card(name, _decode(known), record, "chunk")
        hidden = find_hidden(image)
        if hidden is None:
            raise BadInput(f"{name} is a picture without an embedding in it; choose a card.")
        stock, rest = _inflate(hidden)
        return _card(name, stock, _hidden_record(rest), "pixels")
    except BadInput:
        raise
    except (*_DAMAGE, zlib.error, binascii.Error) as error:
        raise BadInput(f"{name} is a card that is damaged ({error}); get the original file.") from error


def _open(content: bytes, name: str) -> Any:
    """Its pixels are not read yet."""
    if len(content) > limits.CARD_FILE:
        raise BadInput(f"{name} has {len(content)} bytes; a card has at most {limits.CARD_FILE}.")
    if not content.startswith(PNG_MAGIC):
        if told := what_else(content[:HEAD]):
            raise BadInput(f"{name} is no PNG file, as cards are, but {told}.")
        raise BadInput(f"{name} is no PNG file; cards are, and what a site made of one is no card any more.")
    check_parts(content, name)
    try:
        image = Image.open(io.BytesIO(content), formats=("PNG",))
    except _DAMAGE as error:
        raise BadInput(f"{name} cannot be read as a PNG picture ({error}).") from error
    if image.width * image.height > limits.CARD_PIXELS:
        told = f"{image.width} x {image.height}"
        raise BadInput(f"{name} has {told} pixels; a card has at most {limits.CARD_PIXELS}.")
    return image


def _card(name: str, stock: bytes, record: Mapping[str, Any], found_in: Literal["chunk", "pixels"]) -> Card:
    """From A1111's JSON and our record, which is empty in its cards."""
    content = _parse(stock)
    told = record.get("name") or content.pop("name", None)
    if record:  # it says all that A1111's part does, and better
        content = {key: value for key, value in content.items() if key in ("string_to_param", *ENCODERS)}
    called = _usable(told) or _usable(Path(name).stem) or "card"
    metadata = _metadata(record)
    for key in ("step", "family"):
        if isinstance(value := record.get(key), str | int):
            metadata[key] = str(value)
    negative = record.get("negative")
    partner = None
    if isinstance(negative, Mapping):
        partner = _partner(negative, metadata.get("family", ""))
    return Card(assemble(Path(name), called, content, metadata), partner, found_in)


def _partner(told: Mapping[str, Any], family: str) -> Embedding:
    tensors = told.get("vectors")
    if not isinstance(tensors, Mapping) or not all(torch.is_tensor(t) for t in tensors.values()):
        raise BadInput("the card's word for the negative prompt has no vectors; get the original file.")
    step = told.get("step")
    name = _usable(told.get("name")) or "card-neg"
    metadata = {**_metadata(told), "family": family}
    return Embedding(name, dict(tensors), step if isinstance(step, int) else None, metadata)


def _usable(name: object) -> str:
    try:
        return safe_name(name) if isinstance(name, str) else ""
    except BadInput:
        return ""


def _metadata(record: Mapping[str, Any]) -> dict[str, str]:
    told = record.get("metadata")
    found = {str(k): str(v) for k, v in told.items()} if isinstance(told, Mapping) else {}
    if sum(len(key) + len(value) for key, value in found.items()) > limits.CARD_METADATA:
        raise BadInput(f"the card tells more than {limits.CARD_METADATA} characters about its embedding.")
    return found


def _content_text(embedding: Embedding, digits: int) -> bytes:
    """A1111's JSON of an embedding; ``digits``: significant ones of each number, 0: all it takes."""

    def told(value: object) -> object:
        if isinstance(value, torch.Tensor):
            return {_TENSOR: _rows(value, digits)}
        return {key: told(inner) for key, inner in value.items()} if isinstance(value, dict) else value

    return json.dumps(told(pt_content(embedding)), separators=(",", ":")).encode()


def _record_text(card: Card, digits: int) -> bytes:
    record = {"family": card.embedding.family, **_told(card.embedding, digits)}
    if card.negative is not None:
        vectors = {key: {_TENSOR: _rows(value, digits)} for key, value in card.negative.vectors.items()}
        record["negative"] = {**_told(card.negative, digits), "vectors": vectors}
    return json.dumps(record, separators=(",", ":")).encode()


def _told(embedding: Embedding, digits: int) -> dict[str, Any]:
    metadata = {
        key: value
        for key, value in embedding.metadata.items()
        if key not in ("family", "trigger") and len(value) <= _KEPT[digits]
    }
    return {"name": embedding.name, "step": embedding.step, "metadata": metadata}


def _rows(tensor: torch.Tensor, digits: int) -> list[list[float]]:
    """As float64, which JSON writes with as few digits as tell them apart."""
    return [
        [float(f"{x:.{digits}g}" if digits else str(x)) for x in row] for row in tensor.detach().cpu().numpy()
    ]


def _add_text(info: PngInfo, key: str, text: str) -> None:
    info.add_text(key, text, zip=len(text) <= _ZIPPED_TEXT)


def _decode(text: str) -> bytes:
    if len(text) > limits.CARD_JSON * 4 // 3 + 4:
        raise _too_long()
    return base64.b64decode(text)


def _read_record(text: bytes) -> dict[str, Any]:
    return _parse(text) if text else {}


def _hidden_record(rest: bytes) -> dict[str, Any]:
    """Of A1111's own cards there is none: the rest is its padding, or nothing that can be read."""
    try:
        found, _ = _inflate(rest)
    except zlib.error:
        return {}
    return _read_record(found.removeprefix(_MARK)) if found.startswith(_MARK) else {}


def _inflate(content: bytes) -> tuple[bytes, bytes]:
    """The whole zlib stream at the beginning of ``content``, and what comes behind it."""
    stream = zlib.decompressobj()
    found = stream.decompress(content, limits.CARD_JSON)
    if stream.unconsumed_tail:
        raise _too_long()
    if not stream.eof:
        raise zlib.error("its data break off")
    return found, stream.unused_data


def _parse(text: bytes) -> dict[str, Any]:
    """JSON with tensors in it. Raises BadInput, ValueError."""
    if len(text) > limits.CARD_JSON:
        raise _too_long()
    found = parse_json(text, limits.CARD_JSON, _tensor)
    if not isinstance(found, dict):
        raise ValueError(f"{type(found).__name__} in the place of an embedding")
    return found


def _too_long() -> BadInput:
    return BadInput(
        f"the card's data are longer than {limits.CARD_JSON} bytes, more than any embedding needs."
    )


def _tensor(told: dict[str, Any]) -> Any:
    """``{"TORCHTENSOR": rows}`` as (n, d), float32; other objects as they are."""
    if _TENSOR not in told:
        return told
    rows = told[_TENSOR]
    if not isinstance(rows, list) or not 1 <= len(rows) <= limits.VECTORS:
        raise ValueError(f"a tensor that is not 1 to {limits.VECTORS} vectors")
    for row in rows:
        if not isinstance(row, list) or not 1 <= len(row) <= limits.WIDTH or len(row) != len(rows[0]):
            raise ValueError(f"vectors that are not all of one width of at most {limits.WIDTH}")
        if not all(type(number) in (int, float) for number in row):
            raise ValueError("vectors that are not numbers")
    return torch.tensor(rows, dtype=torch.float64).to(torch.float32)
