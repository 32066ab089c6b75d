"""Small files that would cost seconds or gigabytes are refused before anything is done for them."""

from __future__ import annotations

import gzip
import shutil
import struct
import sys
from pathlib import Path

import pytest

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
    import torch

    storage = torch.ones(1 << 20)
    path = tmp_path / "cat.pt"
    layer = "lora_unet_down_blocks_0_attentions_0_proj_in"
    torch.save({f"{layer}.lora_up.weight{i}": storage.view(1024, 1024) for i in range(2000)}, path)
    for reader in PICKLE_READERS:
        assert "lie over one another" in refused(reader, path)


def test_tied_weights_are_still_read(tmp_path: Path) -> None:
    import torch

    tied = torch.ones(256, 256)
    path = tmp_path / "cat.ckpt"
    torch.save({"state_dict": {"a": tied, "b": tied, "c": tied.t()}}, path)
    assert not read_by("checkpoint, zip pickle", path).sentence
