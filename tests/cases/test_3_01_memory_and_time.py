"""Small files that would cost seconds or gigabytes are refused before anything is done for them."""

from __future__ import annotations

import gzip
import io
import shutil
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.cases.reading import read_by, refused

FILES = Path(__file__).parent / "files" / "security"
PICKLE_READERS = ("embedding, zip pickle", "network, pickle", "checkpoint, zip pickle")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what a process takes")


@pytest.mark.parametrize("reader", PICKLE_READERS)
def test_a_pickles_argument_is_measured_before_it_is_read(tmp_path: Path, reader: str) -> None:
    """The length stands in front: two gigabytes of a sparse file took 7.6 of memory."""
    path = tmp_path / "cat.pt"
    with path.open("wb") as file:
        file.write(b"\x80\x02X" + struct.pack("<I", 2**31 - 1))
        file.truncate(2**31 + 100)
    assert "longer than" in refused(reader, path)


@pytest.mark.parametrize("reader", PICKLE_READERS)
def test_a_pickles_line_without_end(tmp_path: Path, reader: str) -> None:
    path = tmp_path / "cat.pt"
    with path.open("wb") as file:
        file.write(b"\x80\x02c")
        file.truncate(2**31)
    refused(reader, path, megabytes=20)


@pytest.mark.parametrize("program", [b"I" + b"9" * 4_000_000 + b"\n.", b"L" + b"9" * 4_000_000 + b"L\n."])
def test_a_pickles_number_of_many_digits(tmp_path: Path, program: bytes) -> None:
    path = tmp_path / "cat.pt"
    path.write_bytes(b"\x80\x02" + program)
    assert "instruction" in refused("embedding, stream pickle", path)


@pytest.mark.parametrize("reader", PICKLE_READERS)
def test_a_zip_of_a_million_members(tmp_path: Path, reader: str) -> None:
    path = tmp_path / "cat.pt"
    with gzip.open(FILES / "zipdir.pt.gz") as packed, path.open("wb") as file:
        shutil.copyfileobj(packed, file)
    assert "members" in refused(reader, path)


def test_a_zip_whose_directory_says_few_and_holds_many(tmp_path: Path) -> None:
    path = tmp_path / "cat.pt"
    with gzip.open(FILES / "zipdir.pt.gz") as packed:
        data = bytearray(packed.read())
    end = data.rindex(b"PK\x05\x06")
    struct.pack_into("<HH", data, end + 8, 3, 3)
    if (wide := data.rfind(b"PK\x06\x06")) >= 0:
        struct.pack_into("<QQ", data, wide + 24, 3, 3)
    path.write_bytes(data)
    refused("checkpoint, zip pickle", path)


def test_tensors_over_one_another(tmp_path: Path) -> None:
    """Each is within its storage of 4 MB; copied, the 2,000 would take eight gigabytes."""
    storage = torch.ones(1 << 20)
    path = tmp_path / "cat.pt"
    layer = "lora_unet_down_blocks_0_attentions_0_proj_in"
    torch.save({f"{layer}.lora_up.weight{i}": storage.view(1024, 1024) for i in range(2000)}, path)
    for reader in PICKLE_READERS:
        assert "lie over one another" in refused(reader, path)


def test_tied_weights_are_still_read(tmp_path: Path) -> None:
    tied = torch.ones(256, 256)
    path = tmp_path / "cat.ckpt"
    torch.save({"state_dict": {"a": tied, "b": tied, "c": tied.t()}}, path)
    assert not read_by("checkpoint, zip pickle", path).sentence


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png(*between: bytes, side: int = 8) -> bytes:
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    pixels = _chunk(b"IDAT", zlib.compress(bytes(side * (side + 1))))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(between) + pixels + _chunk(b"IEND", b"")


@pytest.mark.parametrize("reader", ["picture, PNG", "card"])
@pytest.mark.parametrize(
    "chunk",
    [_chunk(b"tEXt", b"a\0b"), _chunk(b"tIME", bytes(7)), _chunk(b"IDAT", b"")],
    ids=["text", "time", "pixels"],
)
def test_a_png_of_a_hundred_thousand_chunks(tmp_path: Path, reader: str, chunk: bytes) -> None:
    path = tmp_path / "cat.png"
    path.write_bytes(_png(chunk * 100_000))
    assert "pieces" in refused(reader, path)


def test_a_png_of_a_few_texts_is_still_read(tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    path.write_bytes(_png(_chunk(b"tEXt", b"a\0b") * 500))
    assert not read_by("picture, PNG", path).sentence


def _jpeg(**options: object) -> bytes:
    stream = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").resize((64, 64)).save(stream, "JPEG", **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    "between",
    [b"\xff" * 5_000_000, b"\xff\xfe\0\2" * 200_000, bytes(3_000_000)],
    ids=["fill", "comments", "zeros"],
)
def test_a_jpeg_of_a_million_pieces(tmp_path: Path, between: bytes) -> None:
    path, whole = tmp_path / "cat.jpg", _jpeg()
    path.write_bytes(whole[:2] + between + whole[2:])
    assert "segments" in refused("picture, JPEG", path)


def test_a_jpeg_that_is_drawn_a_thousand_times(tmp_path: Path) -> None:
    path, whole = tmp_path / "cat.jpg", _jpeg(progressive=True)
    scan = whole.rindex(b"\xff\xda")
    path.write_bytes(whole[:scan] + whole[scan:-2] * 1000 + whole[-2:])
    assert "scans" in refused("picture, JPEG", path)


def test_photos_with_a_film_behind_them_are_still_read(tmp_path: Path) -> None:
    path = tmp_path / "cat.jpg"
    path.write_bytes(_jpeg(progressive=True, comment=b"cat") + b"\xff\xda" * 10_000)
    assert not read_by("picture, JPEG", path).sentence


def test_a_wide_picture_is_no_search_for_a_card(tmp_path: Path) -> None:
    """A hundred thousand columns are dark in all rows but one, which no glance meets."""
    pixels = np.zeros((160, 100_000), np.uint8)
    pixels[1] = 15
    pixels[0, 5] = pixels[-1, -5] = 16
    path = tmp_path / "cat.png"
    Image.fromarray(pixels).convert("RGB").save(path)
    assert "without an embedding" in refused("card", path)
