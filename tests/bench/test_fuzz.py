"""A short fuzz of every reader; that the fuzz sees what readers must not do; its mutations."""

from __future__ import annotations

import io
import json
import random
import zipfile
import zlib
from pathlib import Path

import pytest
import torch

from lib_ti.bench.fuzz import bench_fuzz, table
from lib_ti.bench.fuzz_child import mutated
from lib_ti.bench.fuzz_formats import mutate_png, mutate_safetensors, mutate_zip
from lib_ti.bench.fuzz_targets import TARGETS
from lib_ti.bench.memory import RESET_PEAK
from lib_ti.cli import main
from lib_ti.core.errors import BadInput
from lib_ti.data.shrinking import parse_areas
from lib_ti.data.templates import as_one_word
from lib_ti.formats.embedding import read_embeddings
from lib_ti.formats.safetensors_file import write_tensors
from lib_ti.methods.guidance import parse_guidance
from lib_ti.networks.files import read_network
from lib_ti.networks.prompt import parse_tag, take_tags

linux = pytest.mark.skipif(not RESET_PEAK.exists(), reason="needs Linux to watch a process")


@linux
def test_no_reader_does_what_none_may() -> None:
    tallies = bench_fuzz(200, seed=0)
    assert {tally.name: tally.findings for tally in tallies if tally.findings} == {}
    assert [tally.inputs for tally in tallies] == [200] * len(TARGETS)
    assert all(tally.past >= 0.3 * tally.inputs for tally in tallies), table(tallies)
    assert all(tally.refused + tally.accepted == tally.inputs for tally in tallies)
    # A picture is taken whatever its colour profile is.
    one_way = [tally.name for tally in tallies if not (tally.refused and tally.accepted)]
    assert one_way in ([], ["colour profile"])


@linux
def test_the_fuzz_sees_harm(tmp_path: Path) -> None:
    tallies = bench_fuzz(1, 0, module="tests.bench.bad_readers", keep=tmp_path)
    found = {tally.name: " ".join(tally.findings.values()) for tally in tallies}
    expected = {
        "refuses": "",
        "crashes": "KeyError at bad_readers.py",
        "hangs": "longer than 1 s",
        "dies": "died of SIGSEGV",
        "takes memory": "MB above the idle process",
        "takes too much": "MemoryError",
        "evaluates": "it did what no reader does: compile",
        "starts a program": "it did what no reader does: os.system",
        "writes": "it did what no reader does: open",
        "removes": "it did what no reader does: os.remove",
        "is slow, and idle": "",
    }
    assert found.keys() == expected.keys()
    for name, finding in found.items():
        assert finding.startswith(expected[name]) or expected[name] in finding, name
        assert bool(finding) == bool(expected[name])
    assert (tmp_path / "hangs-0-x").read_bytes() == b"bad"
    assert "| hangs | 1 | 100% | 0 | 0 | 0 ms | 0 MB | 1 |" in table(tallies)


@linux
def test_as_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "fuzz", "--inputs", "5", "--reader", "caption", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["inputs"] == 5 and told["readers"][0]["name"] == "caption"
    assert main(["bench", "fuzz", "--reader", "nothing"]) == 2


def test_inputs_follow_from_seed_and_number(tmp_path: Path) -> None:
    target = TARGETS["embedding, zip pickle"]
    seeds = target.seeds(tmp_path)
    one, again, other = (mutated(target, seeds, seed, 7) for seed in (1, 1, 2))
    assert one == again != other


@pytest.mark.parametrize("name", TARGETS)
def test_valid_inputs_get_past_and_are_read(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]
    for data in target.seeds(tmp_path):
        assert target.past(data)
        path = tmp_path / target.names[0]
        path.write_bytes(data)
        target.read(path)


def test_lengths_and_checksums_are_made_right(tmp_path: Path) -> None:
    rng = random.Random(1)
    (png, *_) = TARGETS["picture, PNG"].seeds(tmp_path)
    (tensors, *_) = TARGETS["network, safetensors"].seeds(tmp_path)
    (zipped, *_) = TARGETS["embedding, zip pickle"].seeds(tmp_path)
    for _ in range(50):
        data, place = mutate_png(png, rng), 8
        while place < len(data):
            size = int.from_bytes(data[place : place + 4], "big")
            chunk = data[place + 4 : place + 8 + size]
            assert zlib.crc32(chunk) == int.from_bytes(data[place + 8 + size : place + 12 + size], "big")
            place += 12 + size
        data = mutate_safetensors(tensors, rng)
        json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        data = mutate_zip(zipped, rng)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            assert data[:2] != b"PK" or archive.testzip() is None or len(set(archive.namelist())) > 0


# What it found, each once.


def test_a_layer_without_rows_is_left_out(tmp_path: Path) -> None:
    name, path = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k", tmp_path / "x.pt"
    torch.save(
        {f"{name}.lora_down.weight": torch.tensor(1.0), f"{name}.lora_up.weight": torch.ones(2, 2)}, path
    )
    with pytest.raises(BadInput, match="none of its 1 layers is understood"):
        read_network(path)


def test_numbers_without_end_are_no_numbers() -> None:
    """Python refuses to read more than 4,300 digits, with a ValueError."""
    digits = "9" * 5000
    with pytest.raises(BadInput, match="it is a whole number"):
        parse_tag(f"cat:rank={digits}")
    assert as_one_word(f"cat cat{digits}", "cat") == f"cat cat{digits}"
    with pytest.raises(BadInput):
        parse_areas(f"{digits}x512")


def test_tokens_of_several_widths_are_no_embedding(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors({"cat": torch.ones(768), "cat1": torch.ones(1024)}, {}, path)
    with pytest.raises(BadInput, match="tokens of several widths"):
        read_embeddings(path)


def test_a_long_number_takes_no_time_to_read() -> None:
    with pytest.raises(BadInput, match="guidance: it has 90002 characters"):
        parse_guidance("9" * 90_000 + "-x")


def test_beginnings_of_tags_take_no_time_to_pass_over() -> None:
    prompt = "<net:" * 100_000
    assert take_tags(prompt) == (prompt, [])
