"""A network costs what its factors are, whatever layer they claim: norms form nothing larger, and what no
layer can be is refused before anything is made of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lib_ti.cli import main
from lib_ti.core.errors import BadInput
from lib_ti.hosts.standalone import StandaloneHost
from lib_ti.networks import attach
from lib_ti.networks.algebra import Full, LowRank, smallest, tucker
from lib_ti.networks.files import Network, read_network
from lib_ti.networks.layers import find_layers
from lib_ti.networks.reading import read_update
from lib_ti.networks.tools.combine import without_core
from lib_ti.networks.tools.norms import norm_of
from tests.cases.reading import read_by, refused

FILES = Path(__file__).parent / "files" / "security"
LAYER = "lora_unet_down_blocks_0_attentions_0_proj_in"
READER = "network, safetensors"  # reads and describes, as ``lora inspect`` does
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what a process takes")

Shapes = Mapping[str, Sequence[int]]


def factors(shapes: Shapes) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {key: torch.randn(tuple(shape), generator=generator) for key, shape in shapes.items()}


def network(path: Path, shapes: Shapes) -> Path:
    save_file({f"{LAYER}.{key}": tensor for key, tensor in factors(shapes).items()}, path)
    return path


def plain(rows: int, rank: int, columns: int) -> Shapes:
    return {"lora_up.weight": (rows, rank), "lora_down.weight": (rank, columns)}


def hadamard(rows: int, rank: int, columns: int, second: int = 0) -> Shapes:
    second = second or rank
    one = {"hada_w1_a": (rows, rank), "hada_w1_b": (rank, columns)}
    return one | {"hada_w2_a": (rows, second), "hada_w2_b": (second, columns)}


def core(rows: int, r: int, s: int, columns: int, kernel: int = 1) -> Shapes:
    up, down = {"lora_up.weight": (rows, r, 1, 1)}, {"lora_down.weight": (s, columns, 1, 1)}
    return up | down | {"lora_mid.weight": (r, s, kernel, kernel)}


@linux
@pytest.mark.parametrize(
    "shapes",
    [
        plain(1, 60_000, 1),
        plain(60_000, 1, 1000),
        plain(2, 20_000, 300),
        hadamard(8000, 1, 8000),
        hadamard(8000, 10, 8000),
        hadamard(200, 90, 200),
        core(1, 2000, 2000, 1),
        core(2000, 1, 1000, 1),
        core(1, 1000, 1, 5000),
        core(5000, 1, 1, 5000),
        {"lokr_w1": (90, 90), "lokr_w2": (90, 90)},
        {"lokr_w1": (2, 2), "lokr_w2_a": (4000, 1), "lokr_w2_b": (1, 4000)},
    ],
    ids=str,
)
def test_inspecting_stays_within_memory(tmp_path: Path, shapes: Shapes) -> None:
    outcome = read_by(READER, network(tmp_path / "x.safetensors", shapes))
    assert not outcome.crash
    assert not outcome.sentence
    assert outcome.megabytes < 256
    assert outcome.seconds < 3


@linux
def test_a_rank_of_ten_thousand_is_inspected() -> None:
    outcome = read_by(READER, FILES / "rank10000.safetensors")
    assert not outcome.crash
    assert not outcome.sentence
    assert outcome.megabytes < 30


@linux
@pytest.mark.parametrize(
    "shapes",
    [
        hadamard(16_000, 2, 16_000),
        plain(27_000, 1, 27_000),
        plain(1, 1, 70_000),
        core(20_000, 1, 1, 20_000),
        {"lokr_w1": (200, 200), "lokr_w2": (200, 200)},
        {"lokr_w1": (2, 2), "lokr_w2_a": (8000, 1), "lokr_w2_b": (1, 8000)},
        {**plain(27_000, 1, 27_000), "dora_scale": (27_000, 1)},
    ],
    ids=str,
)
def test_a_layer_that_no_model_has_is_refused(tmp_path: Path, shapes: Shapes) -> None:
    sentence = refused(READER, network(tmp_path / "x.safetensors", shapes), megabytes=30)
    assert "no layer of these models has more than" in sentence


@pytest.mark.parametrize(
    "shapes",
    [
        {"lora_up.weight": (8, 3), "lora_down.weight": (2, 9)},
        {"hada_w1_a": (8, 2), "hada_w1_b": (3, 9), "hada_w2_a": (8, 2), "hada_w2_b": (2, 9)},
        {"hada_w1_a": (8, 2), "hada_w1_b": (2, 9), "hada_w2_a": (7, 2), "hada_w2_b": (2, 9)},
        {"lokr_w1": (2, 2), "lokr_w2_a": (8, 3), "lokr_w2_b": (2, 9)},
        {**core(8, 3, 3, 9), "lora_mid.weight": (3, 2, 1, 1)},
    ],
)
def test_factors_that_do_not_fit_each_other_are_refused(shapes: Shapes) -> None:
    """Inspecting them was a crash."""
    with pytest.raises(BadInput, match="the factors do not fit each other"):
        read_update(factors(shapes))


TUCKER_LOHA = {"hada_w1_a": (3, 8), "hada_w1_b": (4, 6), "hada_t1": (3, 4, 3, 3)} | {
    "hada_w2_a": (2, 8),
    "hada_w2_b": (9, 6),
    "hada_t2": (2, 9, 3, 3),
}


@pytest.mark.parametrize(
    ("shapes", "weight"),
    [
        (plain(8, 2, 9), (8, 9)),
        (plain(8, 30, 9), (8, 9)),
        (plain(3, 5, 9), (3, 9)),
        (plain(9, 5, 3), (9, 3)),
        ({"lora_up.weight": (8, 2, 1, 1), "lora_down.weight": (2, 5, 3, 3)}, (8, 5, 3, 3)),
        (core(8, 4, 4, 6, 3), (8, 6, 3, 3)),
        (core(8, 20, 20, 6, 3), (8, 6, 3, 3)),
        (core(30, 20, 20, 6, 3), (30, 6, 3, 3)),
        (core(6, 20, 20, 30, 3), (6, 30, 3, 3)),
        (hadamard(40, 1, 50), (40, 50)),
        (hadamard(8, 4, 9), (8, 9)),
        (hadamard(40, 2, 50, 3), (40, 50)),
        (TUCKER_LOHA, (8, 6, 3, 3)),
        ({"lokr_w1": (2, 2), "lokr_w2": (4, 4)}, (8, 8)),
        ({"lokr_w1_a": (2, 1), "lokr_w1_b": (1, 3), "lokr_w2_a": (4, 2), "lokr_w2_b": (2, 5)}, (8, 15)),
        (
            {"lokr_w1": (2, 2), "lokr_t2": (3, 5, 3, 3), "lokr_w2_a": (3, 4), "lokr_w2_b": (5, 4)},
            (8, 8, 3, 3),
        ),
        ({"diff": (8, 9)}, (8, 9)),
    ],
    ids=str,
)
def test_the_norm_is_that_of_the_change(shapes: Shapes, weight: Sequence[int]) -> None:
    tensors = factors(shapes)
    alpha = {} if "diff" in shapes else {"alpha": torch.tensor(3.0)}
    update = read_update({**tensors, **alpha})
    wanted = float(update.delta(torch.zeros(tuple(weight))).double().norm())
    assert norm_of(update) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("shape", [(3, 7, 5, 4), (7, 3, 5, 4), (3, 7, 4, 9), (9, 4, 3, 8), (2, 9, 9, 2)])
def test_the_tucker_form_is_one_in_any_order(shape: tuple[int, int, int, int]) -> None:
    p, r, s, q = shape
    left, middle, right = torch.randn(p, r), torch.randn(r, s, 3, 3), torch.randn(s, q)
    wanted = torch.einsum("pr,rsab,sq->pqab", left, middle, right)
    torch.testing.assert_close(tucker(left, middle, right), wanted)


@pytest.mark.parametrize("rank", [3, 20])
def test_a_core_is_multiplied_into_the_smaller_side(rank: int) -> None:
    update = read_update({**factors(core(8, rank, rank, 6, 3)), "alpha": torch.tensor(2.0)})
    assert isinstance(update, LowRank)
    weight, without = torch.zeros(8, 6, 3, 3), without_core(update)
    assert without.mid is None
    assert without.rank == min(rank, 8)
    torch.testing.assert_close(without.delta(weight), update.delta(weight), rtol=1e-4, atol=1e-4)


def test_factors_larger_than_the_weight_are_multiplied_when_attached(host: StandaloneHost) -> None:
    """A hidden state of rank 10,000 would cost a picture gigabytes."""
    layer = find_layers(host.parts(), "sd1")[LAYER]
    rows, columns, *_ = layer.weight.shape
    large = LowRank(up=torch.ones(rows, 500), down=torch.ones(500, columns), alpha=1.0)
    small = LowRank(up=torch.ones(rows, 2), down=torch.ones(2, columns))
    made = smallest(large, layer.weight)
    assert isinstance(made, Full)
    assert torch.equal(made.diff, large.delta(layer.weight))
    assert smallest(small, layer.weight) is small
    x, plainly = torch.randn(1, columns, 4, 4), layer.module
    before = plainly(x)
    with attach(host, Network("large", None, {LAYER: large})) as attached:
        torch.testing.assert_close(plainly(x) - before, large.forward(x, plainly), rtol=1e-3, atol=1e-3)
        assert "rank 500" in attached.report


@linux
@pytest.mark.parametrize(
    "words",
    [
        ["merge", "x.safetensors", "x.safetensors", "new", "--how", "nearest", "--rank", "4"],
        ["resize", "x.safetensors", "new", "--rank", "4"],
    ],
)
def test_a_core_of_high_rank_is_merged_and_resized(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    """With the core in one factor it would be 64 MB here, 14 GB at rank 60,000."""
    monkeypatch.chdir(tmp_path)
    path = network(tmp_path / "x.safetensors", core(4, 4000, 1, 4000))
    assert main(["lora", *words]) == 0
    times = 2 if words[0] == "merge" else 1
    (wanted,) = read_network(path).updates.values()
    (found,) = read_network(tmp_path / "new.safetensors").updates.values()
    weight = torch.zeros(4, 4000, 1, 1)
    torch.testing.assert_close(found.delta(weight), wanted.delta(weight) * times, rtol=1e-3, atol=1e-2)


def test_a_dylora_is_not_cut_into_ten_thousand_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["lora", "split", str(FILES / "rank10000.safetensors"), str(tmp_path / "new")]
    assert main(words) == 2
    assert "into 10000 files; at most 1024 are written, so give a larger unit" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert main([*words, "--unit", "1000", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["written"]) == 10
