"""Sound network files are read whole; what is not understood of one stands in every tool's result."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib_ti.cli import main
from lib_ti.core.errors import BadInput
from lib_ti.hosts.standalone import StandaloneHost
from lib_ti.networks import attach
from lib_ti.networks.algebra import LoHa, LowRank
from lib_ti.networks.files import read_network
from lib_ti.networks.layers import find_layers
from lib_ti.networks.prompt import NetworkCall
from lib_ti.networks.prompt_run import Called, PromptNetworks
from lib_ti.networks.reading import read_update
from tests.networks.tools.made import BUILTIN, builtin, lora

FILES = Path(__file__).parent / "files" / "lora"
NAME = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
ODD = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_k"


@pytest.mark.parametrize(
    ("file", "alpha"),
    [
        ("diffusers_kohya_format", 4),
        ("svd_merge_by_sd_scripts_int_alpha", 2),
        ("loha", 1),
        ("extra_rank", 4),
        ("extra_reshape", 4),
        ("onetrainer_loha_conv4d", 2),
    ],
)
def test_whole_numbers_are_read_as_alpha(file: str, alpha: float) -> None:
    network = read_network(FILES / f"{file}.safetensors")
    assert network.updates and not network.left_out
    for update in network.updates.values():
        assert isinstance(update, LowRank | LoHa)
        assert update.alpha == alpha


def test_whole_alpha_beside_other_algorithms() -> None:
    dora = read_network(FILES / "dora_int_alpha.safetensors").updates[NAME]
    assert dora.direction.alpha == 4  # type: ignore[attr-defined]
    tensors = load_file(FILES / "lokr_full_alpha_int.safetensors")
    lokr = read_network(FILES / "lokr_full_alpha_int.safetensors").updates[NAME]
    # Where neither factor is a product, alpha scales nothing.
    wanted = torch.kron(tensors[f"{NAME}.lokr_w1"], tensors[f"{NAME}.lokr_w2"])
    torch.testing.assert_close(lokr.delta(torch.zeros(64, 64)), wanted)


@pytest.mark.parametrize(("file", "key"), [("extra_rank", "rank"), ("extra_reshape", "reshape_weight")])
def test_whole_numbers_beside_the_factors_are_told(
    file: str, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = FILES / f"{file}.safetensors"
    tensors = load_file(path)
    network = read_network(path)
    wanted = tensors[f"{NAME}.lora_up.weight"] @ tensors[f"{NAME}.lora_down.weight"]
    torch.testing.assert_close(network.updates[NAME].delta(torch.zeros(64, 64)), wanted)
    assert network.unread.keys() == {f"{NAME}.{key}"}
    told = run(capsys, "lora", "inspect", str(path))
    assert told["modules"] == 1
    assert f"1 of its keys are not used: {NAME}.{key}" in told["notes"][0]


ALGORITHMS: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "LoRA": {"lora_up.weight": (8, 2), "lora_down.weight": (2, 8)},
    "LoHa": {"hada_w1_a": (8, 2), "hada_w1_b": (2, 8), "hada_w2_a": (8, 2), "hada_w2_b": (2, 8)},
    "LoKr": {"lokr_w1": (2, 2), "lokr_w2_a": (4, 2), "lokr_w2_b": (2, 4)},
    "LoKr, both whole": {"lokr_w1": (2, 2), "lokr_w2": (4, 4)},
    "DoRA": {"lora_up.weight": (8, 2), "lora_down.weight": (2, 8), "dora_scale": (8, 1)},
    "full": {"diff": (8, 8)},
    "norm": {"w_norm": (8,), "b_norm": (8,)},
}


@pytest.mark.parametrize("shapes", ALGORITHMS.values(), ids=ALGORITHMS)
def test_no_algorithm_minds_whole_numbers_beside_it(shapes: Mapping[str, tuple[int, ...]]) -> None:
    factors = {key: torch.randn(shape) for key, shape in shapes.items()}
    weight = torch.randn(8) if "w_norm" in shapes else torch.randn(8, 8)
    more = {"rank": torch.tensor(2), "reshape_weight": torch.tensor([8, 8]), "flag": torch.tensor(True)}
    alpha = {"alpha": torch.tensor(1)} if "lora_up.weight" in shapes else {}
    float_alpha = {key: tensor.float() for key, tensor in alpha.items()}
    plain = read_update({**factors, **float_alpha}).delta(weight)
    assert torch.equal(read_update({**factors, **alpha, **more}).delta(weight), plain)


def test_factors_that_are_whole_numbers_are_refused() -> None:
    wrong = {"lora_up.weight": torch.ones(8, 2, dtype=torch.int8), "lora_down.weight": torch.ones(2, 8)}
    with pytest.raises(BadInput, match=r"lora_up.weight is of type torch.int8"):
        read_update(wrong)


def test_onetrainers_factors_of_convolutions() -> None:
    """(out, r, 1, 1) and (r, in, k, k): flattened, multiplied, and again in the weight's shape."""
    path = FILES / "onetrainer_loha_conv4d.safetensors"
    tensors, network = load_file(path), read_network(path)
    layers = builtin().layers
    kernels = set()
    for name, update in network.updates.items():
        factor = {key: tensors[f"{name}.hada_{key}"].flatten(1) for key in ("w1_a", "w1_b", "w2_a", "w2_b")}
        shape = builtin().shape(layers[name])
        product = (factor["w1_a"] @ factor["w1_b"]) * (factor["w2_a"] @ factor["w2_b"]) * (2 / 4)
        torch.testing.assert_close(update.delta(torch.zeros(shape)), product.reshape(shape))
        assert torch.equal(
            read_update(update.tensors()).delta(torch.zeros(shape)), update.delta(torch.zeros(shape))
        )
        kernels.add(tuple(shape[2:]))
    assert kernels == {(), (1, 1), (3, 3)}


@pytest.mark.parametrize(
    "shapes",
    [
        {"lokr_w1": (2, 2), "lokr_w2_a": (4, 2, 1, 1), "lokr_w2_b": (2, 4, 3, 3)},
        {"hada_w1_a": (2, 8, 1, 1), "hada_w1_b": (2, 8, 1, 1), "hada_t1": (2, 2, 3, 3)}
        | {"hada_w2_a": (2, 8), "hada_w2_b": (2, 8), "hada_t2": (2, 2, 3, 3)},
    ],
    ids=["LoKr", "Tucker"],
)
def test_other_products_with_factors_of_four_dimensions(shapes: Mapping[str, tuple[int, ...]]) -> None:
    factors = {key: torch.randn(shape) for key, shape in shapes.items()}
    flat = {key: tensor if key[5] == "t" else tensor.flatten(1) for key, tensor in factors.items()}
    weight = torch.zeros(8, 8, 3, 3)
    assert read_update(factors).fits(weight.shape)
    assert torch.equal(read_update(factors).delta(weight), read_update(flat).delta(weight))


@pytest.mark.parametrize(
    "shapes",
    [
        {"lora_up.weight": (8, 2, 3, 3), "lora_down.weight": (2, 8)},
        {"lora_up.weight": (8, 2), "lora_down.weight": (2, 8, 3, 3), "lora_mid.weight": (2, 2, 3, 3)},
        {"hada_w1_a": (8, 2, 3, 3), "hada_w1_b": (2, 8), "hada_w2_a": (8, 2), "hada_w2_b": (2, 8)},
    ],
)
def test_kernels_where_none_can_be_are_refused(shapes: Mapping[str, tuple[int, ...]]) -> None:
    with pytest.raises(BadInput, match="expected a matrix, or a kernel of 1 x 1"):
        read_update({key: torch.randn(shape) for key, shape in shapes.items()})


@pytest.mark.parametrize(
    ("named", "keys"),
    [
        ("diag-OFT", {"lora_unet_conv_in.oft_blocks": (4, 8, 8), "lora_unet_conv_in.alpha": ()}),
        ("BOFT", {"lora_unet_conv_in.oft_blocks": (2, 4, 8, 8), "lora_unet_conv_in.rescale": (8, 1)}),
        ("OFT", {"oft_unet_down_blocks_0_x.oft_blocks": (4, 8, 8), "oft_unet_down_blocks_0_x.alpha": ()}),
        ("OFT", {"base_model.model.down_blocks.0.to_q.oft_R.weight": (4, 28)}),
        ("GLoRA", {f"{NAME}.{part}.weight": (8, 8) for part in ("a1", "a2", "b1", "b2")}),
        ("VeRA", {"base_model.model.down_blocks.0.to_q.vera_lambda_b": (8,), "base_model.vera_A": (4, 8)}),
        (r"\(IA\)3 as PEFT", {"unet.down_blocks.0.to_q.ia3_l": (8, 1)}),
        ("AdaLoRA", {"unet.down_blocks.0.to_q.lora_E": (8, 1)}),
    ],
)
def test_other_algorithms_are_refused_by_name(
    tmp_path: Path, named: str, keys: Mapping[str, tuple[int, ...]]
) -> None:
    path = tmp_path / "x.safetensors"
    save_file({key: torch.ones(shape) for key, shape in keys.items()}, path)
    with pytest.raises(BadInput, match=f"{named}.*not supported.*LoKr"):
        read_network(path)


@pytest.fixture
def partly(tmp_path: Path) -> Path:
    """A LoRA of 25 layers, of which one is of another algorithm."""
    network = lora(builtin(), conv=False, name="partly")
    kept = dict(list(network.updates.items())[:24])
    tensors = {f"{name}.{key}": t for name, update in kept.items() for key, t in update.tensors().items()}
    path = tmp_path / "partly.safetensors"
    save_file({**tensors, "lora_unet_conv_in.oft_blocks": torch.ones(4, 8, 8)}, path)
    return path


def run(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main([*words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


SAID = "1 of its 25 layers are not understood and left out: lora_unet_conv_in (oft_blocks: of the algorithm"


@pytest.mark.parametrize(
    "words",
    [
        ["inspect", "partly"],
        ["merge", "partly", "partly", "to"],
        ["merge", "partly", "to", "--how", "nearest", "--rank", "2"],
        ["resize", "partly", "to", "--rank", "2"],
        ["split", "partly", "to", "--unit", "2"],
        ["merge-into-checkpoint", "model", "partly", "to"],
    ],
    ids=lambda words: words[0],
)
def test_a_layer_that_is_not_understood_stands_in_the_result(
    partly: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    files = {"partly": str(partly), "to": str(tmp_path / "new.safetensors"), "model": str(BUILTIN)}
    told = run(capsys, "lora", *(files.get(word, word) for word in words))
    assert any(SAID in note for note in told["notes"])
    if words[0] == "merge-into-checkpoint":
        assert "partly: applied 24 of 25 modules" in told["sentence"]
        assert told["networks"]["partly"]["modules"] == 25
        assert told["networks"]["partly"]["left_out"].keys() == {"lora_unet_conv_in"}


def test_attaching_and_prompts_say_it_too(partly: Path, host: StandaloneHost) -> None:
    with attach(host, partly) as attached:
        assert attached.report.startswith("applied 24 of 25 modules")
        assert "; not understood: lora_unet_conv_in (oft_blocks: of the algorithm" in attached.report
    called = Called.of(NetworkCall("partly"), partly)
    networks = PromptNetworks(host.parts(), "sd1", [called])
    networks.remove()
    assert networks.reports[called].startswith("partly: applied 24 of 25 modules")
    assert any(SAID in sentence for sentence in networks.told)


def test_extracting_says_what_no_lora_changes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = load_file(BUILTIN)
    layers = builtin().layers
    changed = {layers[NAME].key, layers[ODD].key, layers["lora_unet_conv_in"].key}
    norm = next(layer.key for layer in layers.values() if layer.kind == "norm" and layer.part == "unet")
    tuned = {
        key: tensor + 0.1 if key in changed | {norm} else tensor for key, tensor in sorted(tensors.items())
    }
    save_file(tuned, tmp_path / "tuned.safetensors")
    told = run(
        capsys,
        *("lora", "extract", str(BUILTIN), str(tmp_path / "tuned.safetensors"), str(tmp_path / "new")),
    )
    assert told["modules"] == 2
    assert told["not covered"] == 2
    assert "differ in 2 tensors more" in told["notes"][0]
    assert norm in told["notes"][0]


def test_whole_networks_cover_all_that_differs(host: StandaloneHost) -> None:
    """The reports of a file without a fault say nothing of it."""
    with attach(host, lora(builtin(), conv=False)) as attached:
        assert "not understood" not in attached.report
    assert NAME in find_layers(host.parts(), "sd1")
