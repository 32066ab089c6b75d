from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib_ti.core.errors import BadInput
from lib_ti.networks.files import Network
from lib_ti.networks.tools.combine import Term
from lib_ti.networks.tools.extract import Extraction, extract
from lib_ti.networks.tools.into_checkpoint import CheckpointMerge
from lib_ti.networks.tools.stored import Checkpoint, open_checkpoint
from tests.hosts.tiny import new_sdxl, sdxl_state
from tests.networks.tools.made import delta, in_float, lora


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(in_float(tmp_path_factory.mktemp("base")))


def tuned(base: Checkpoint, network: Network, folder: Path) -> Checkpoint:
    path = folder / "tuned.safetensors"
    CheckpointMerge(base, [Term(network, 1.0)]).write(path)
    return open_checkpoint(path)


def test_a_known_change_of_low_rank_comes_back(base: Checkpoint, tmp_path: Path) -> None:
    network = lora(base, 4, 2.0)
    found = extract(base, tuned(base, network, tmp_path), Extraction(4, 4))
    assert found.updates.keys() == network.updates.keys()
    assert found.with_text and not found.equal
    for name, update in found.updates.items():
        shape = base.shape(base.layers[name])
        assert update.fits(shape) and update.rank == 4 and update.alpha == 4
        assert (delta(found.updates, name, shape) - delta(network, name, shape)).abs().max() < 1e-5


def test_of_a_larger_rank_the_nearest_is_taken(base: Checkpoint, tmp_path: Path) -> None:
    network = lora(base, 6, 3.0)
    found = extract(base, tuned(base, network, tmp_path), Extraction(3, 2))
    for name, update in found.updates.items():
        layer = base.layers[name]
        rank = 2 if layer.kind == "conv" else 3  # time embeddings and 1x1 convolutions take LierLa's
        assert update.rank == rank
        s = torch.linalg.svdvals(delta(network, name, base.shape(layer)).flatten(1).double())
        assert found.error[name] == pytest.approx(float(s[rank:].norm() / s.norm()), rel=1e-3)


def test_a_change_of_sdxl_comes_back(tmp_path: Path) -> None:
    """Of the U-Net and both text encoders, one of which has fused attention in its file."""
    state = {key: tensor.contiguous() for key, tensor in sdxl_state(new_sdxl()).items()}
    save_file(state, tmp_path / "xl.safetensors")
    xl = open_checkpoint(tmp_path / "xl.safetensors")
    network = lora(xl, 4, 2.0)
    assert (xl.family, {layer.part for layer in xl.layers.values()}) == ("sdxl", {"unet", "te1", "te2"})
    found = extract(xl, tuned(xl, network, tmp_path), Extraction(4, 4))
    assert found.with_text and found.updates.keys() == network.updates.keys()
    for name in found.updates:
        shape = xl.shape(xl.layers[name])
        assert (delta(found.updates, name, shape) - delta(network, name, shape)).abs().max() < 1e-5


def test_without_a_conv_rank_it_is_a_lierla(base: Checkpoint, tmp_path: Path) -> None:
    lierla = lora(base, conv=False)
    found = extract(base, tuned(base, lora(base), tmp_path), Extraction(4))
    assert found.updates.keys() == lierla.updates.keys()


def test_equal_text_encoders_give_a_unet_alone(base: Checkpoint, tmp_path: Path) -> None:
    network = lora(base, conv=False)
    unet = {name: update for name, update in network.updates.items() if "_unet_" in name}
    other = tuned(base, Network("unet", "sd1", unet), tmp_path)
    found = extract(base, other, Extraction(4, min_diff=0.0))
    assert found.updates.keys() == unet.keys()
    assert (found.with_text, found.text_difference) == (False, 0.0)

    tensors = load_file(other.file.path)
    text = next(layer.key for layer in base.layers.values() if layer.part == "te" and layer.kind == "linear")
    tensors[text][0, 0] += 0.005
    save_file(tensors, other.file.path)
    for min_diff, with_text in ((0.01, False), (0.001, True)):
        found = extract(base, open_checkpoint(other.file.path), Extraction(4, min_diff=min_diff))
        assert found.with_text is with_text
        assert found.text_difference == pytest.approx(0.005, rel=1e-3)
        assert len(found.updates) == len(unet) + with_text  # of the text encoder one layer differs


def test_the_clamp_cuts_outliers(base: Checkpoint, tmp_path: Path) -> None:
    other = tuned(base, lora(base, conv=False), tmp_path)
    plain, cut = (extract(base, other, Extraction(4, clamp=clamp)) for clamp in (1.0, 0.9))
    for name, update in cut.updates.items():
        numbers = torch.cat([plain.updates[name].up.flatten(), plain.updates[name].down.flatten()])
        assert update.up.abs().max() <= torch.quantile(numbers, 0.9) + 1e-6
        assert cut.error[name] > plain.error[name]


def test_checkpoints_without_a_difference_are_refused(base: Checkpoint) -> None:
    with pytest.raises(BadInput, match="do not differ in any layer"):
        extract(base, base, Extraction(4))
