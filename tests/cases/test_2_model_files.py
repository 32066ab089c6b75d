"""Files that are something else are called what they are, and a file of several words is read as them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lib_ti.cli import main
from lib_ti.core.errors import BadInput
from lib_ti.formats.card import read_card
from lib_ti.formats.embedding import read_embedding, read_embeddings
from lib_ti.formats.pickles import read_torch_pickle
from lib_ti.formats.safetensors_file import read_metadata, read_shapes
from lib_ti.hosts.checkpoints import load_components
from lib_ti.networks.files import check_network, family_of_file, read_network
from lib_ti.networks.tools.stored import open_checkpoint

FILES = Path(__file__).parent / "files"
EMBEDDINGS, NETWORKS = FILES / "embedding", FILES / "lora"


def run(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main([*words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


READERS: dict[str, Callable[[Path], object]] = {
    "embedding": read_embeddings,
    "network": read_network,
    "network, header": check_network,
    "checkpoint": open_checkpoint,
    "model": load_components,
    "safetensors": read_shapes,
    "card": lambda path: read_card(path.read_bytes(), path.name),
}
ELSE = {
    NETWORKS / "lfs.safetensors": r"a pointer of Git LFS.*git lfs pull",
    EMBEDDINGS / "gitlfs.safetensors": r"a pointer of Git LFS.*git lfs pull",
    NETWORKS / "html.safetensors": r"JSON text under a model's name.*site's error.*download it again",
    EMBEDDINGS / "html.pt": r"a web page under a model's name.*download it again",
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@pytest.mark.parametrize(("path", "told"), ELSE.items(), ids=[path.name for path in ELSE])
def test_what_is_no_model_is_called_what_it_is(
    reader: Callable[[Path], object], path: Path, told: str
) -> None:
    with pytest.raises(BadInput, match=told):
        reader(path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "empty"),
        (b"\xef\xbb\xbf\r\n <html><body>", "a web page"),
        (b"<?xml version='1.0'?><Error>", "a web page"),
        (b'["not", "found"]', "JSON text"),
        (b'{"a":1, {"', "JSON text"),  # with a brace where a safetensors header has its own
        (b"\x89PNG\r\n\x1a\n" + bytes(20), "a PNG picture; if it is a card, import it"),
        (b"GGUF\x03\x00\x00\x00\x00", "a GGUF file"),
        (b"no model at all", "is neither a safetensors file nor one that torch saved"),
    ],
)
def test_other_files_under_a_models_name(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "cat.safetensors"
    path.write_bytes(content)
    for reader in (read_embeddings, read_network, open_checkpoint, read_shapes):
        with pytest.raises(BadInput) as error:
            reader(path)
        assert told in str(error.value)


def test_a_saved_page_is_no_pickle_either() -> None:
    with pytest.raises(BadInput, match="a web page under a model's name"):
        read_torch_pickle(EMBEDDINGS / "html.pt")


@pytest.mark.parametrize(
    ("file", "model"),
    [
        ("flux_kohya", "Flux"),
        ("flux_kohya_te", "Flux"),
        ("sd3_comfy", "SD3"),
        ("wan_comfy", "Wan"),
        ("cascade", "Stable Cascade"),
    ],
)
def test_networks_for_other_models_are_called_so(
    file: str, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = NETWORKS / f"{file}.safetensors"
    assert family_of_file(path) is None
    assert main(["lora", "inspect", str(path)]) == 2
    assert f"{path.name} is a network for {model}; those for Stable Diffusion" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "model"),
    [
        ("transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight", "Flux"),
        ("lora_unet_single_blocks_0_linear1.lora_down.weight", "Flux"),
        ("lora_transformer_single_transformer_blocks_0_attn_to_q.lora_down.weight", "Flux"),
        ("lora_unet_double_blocks_0_img_mlp_fc1.lora_down.weight", "Hunyuan Video"),
        ("diffusion_model.distilled_guidance_layer.in_proj.lora_A.weight", "Chroma"),
        ("lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight", "SD3"),
        ("transformer.transformer_blocks.0.attn.add_q_proj.lora_A.weight", "SD3 or Qwen-Image"),
        ("transformer.transformer_blocks.0.img_mlp.net.0.proj.lora_A.weight", "Qwen-Image"),
        ("lora_unet_blocks_0_cross_attn_k.lora_down.weight", "Wan"),
        ("transformer.blocks.0.attn1.to_q.lora_A.weight", "Wan"),
        ("diffusion_model.double_layers.0.attn.w1q.lora_A.weight", "AuraFlow"),
        ("diffusion_model.layers.0.attention.qkv.lora_A.weight", "Lumina 2 or Z-Image"),
        ("diffusion_model.layers.0.attention.to_q.lora_A.weight", "Z-Image"),
        ("diffusion_model.double_stream_blocks.0.block.attn1.to_q.lora_A.weight", "HiDream"),
        ("diffusion_model.blocks.0.cross_attn.q_linear.lora_A.weight", "PixArt"),
        ("diffusion_model.blocks.0.attn1.Wqkv.lora_A.weight", "Hunyuan DiT"),
        ("lora_te_encoder_layers_0_self_attention_query_key_value.lora_down.weight", "Kolors"),
        ("lora_te3_encoder_block_0_layer_0_SelfAttention_k.lora_down.weight", "SD3 or Flux"),
        ("transformer.transformer_blocks.0.attn1.to_q.lokr_w1", "a transformer such as PixArt"),
    ],
)
def test_neighbours_by_the_names_of_their_layers(tmp_path: Path, key: str, model: str) -> None:
    path = tmp_path / "x.safetensors"
    save_file({key: torch.ones(2, 8)}, path)
    with pytest.raises(BadInput, match=f"x.safetensors is a network for {model}"):
        read_network(path)


def test_what_the_trainer_wrote_tells_the_model_too(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"lora_unet_y.lora_up.weight": torch.ones(2, 8)}, path, {"ss_base_model_version": "kolors_v1"})
    with pytest.raises(BadInput, match="a network for Kolors"):
        read_network(path)


@pytest.mark.parametrize(("file", "model"), [("sd3-t5", "SD3"), ("ot-sd3-t5", "SD3"), ("flux-cl-t5", "Flux")])
def test_embeddings_for_other_models_are_called_so(file: str, model: str) -> None:
    with pytest.raises(BadInput, match=f"{file}.safetensors is an embedding for {model} \\(clip"):
        read_embeddings(EMBEDDINGS / f"{file}.safetensors")


@pytest.mark.parametrize(("file", "what"), [("nonstring_meta", '"step": 500'), ("nested_meta", '"ti": {"a"')])
def test_metadata_that_are_no_text_are_told(file: str, what: str) -> None:
    path = EMBEDDINGS / f"{file}.safetensors"
    for reader in (read_embeddings, read_network, open_checkpoint, read_metadata):
        with pytest.raises(BadInput) as error:
            reader(path)
        assert what in str(error.value)
        assert "metadata of a safetensors file are text" in str(error.value)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("two_words.safetensors", {"cat": 1, "dog": 1}),
        ("cloneofsimo_pti.safetensors", {"s1": 1, "s2": 1}),
        ("two_tokens.pt", {"two_tokens": 2, "two_tokens-2": 1}),
    ],
)
def test_several_words_in_a_file_are_read_as_several(
    file: str, words: dict[str, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = EMBEDDINGS / file
    found = {one.name: one for one in read_embeddings(path)}
    assert {name: one.count for name, one in found.items()} == words
    told = run(capsys, "embedding", "inspect", str(path), "--words", "0")
    assert [one["name"] for one in told["embeddings"]] == [*words]
    assert f"holds {len(words)} words" in told["notes"][0]
    with pytest.raises(BadInput, match="'embedding split' makes a file of each"):
        read_embedding(path)
    made = run(capsys, "embedding", "split", str(path), "--data", str(tmp_path))
    assert sorted(made["words"]) == sorted(words)
    for written in map(Path, made["written"]):
        (vectors,) = read_embedding(written).vectors.values()
        assert torch.equal(vectors, found[written.stem].vectors["clip_l"])


def test_words_of_sdxl_in_two_files_as_diffusers_keeps_them(tmp_path: Path) -> None:
    words = ("<cat>", "<dog>")
    save_file({word: torch.full((768,), 1.0) for word in words}, tmp_path / "learned_embeds.safetensors")
    save_file({word: torch.full((1280,), 2.0) for word in words}, tmp_path / "learned_embeds_2.safetensors")
    cat, dog = read_embeddings(tmp_path / "learned_embeds.safetensors")
    assert (cat.name, dog.name) == ("cat", "dog")
    assert {name: rows.shape[1] for name, rows in cat.vectors.items()} == {"clip_l": 768, "clip_g": 1280}


def test_parts_of_models_are_no_words(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for tensors in (
        {"down.weight": torch.ones(2, 8), "up.weight": torch.ones(2, 8)},
        {"emb_params": torch.ones(2, 8), "extra": torch.ones(2, 8)},
        {"cat": torch.ones(2, 8), "dog": torch.ones(2, 9)},
        {"cat": torch.ones(2, 8), "dog": torch.ones(2, 8, 3, 3)},
    ):
        save_file(tensors, path)
        with pytest.raises(BadInput, match="is no embedding we know"):
            read_embeddings(path)
    save_file({f"word{i}x": torch.ones(4) for i in range(1001)}, path)
    with pytest.raises(BadInput, match="for 1001 words; at most 1000"):
        read_embeddings(path)


def test_a_name_alone_is_found_in_the_folder_of_its_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, here = tmp_path / "data", tmp_path / "here"
    for folder in (data / "embeddings", data / "loras", here):
        folder.mkdir(parents=True)
    monkeypatch.chdir(here)
    shutil.copy(EMBEDDINGS / "two_words.safetensors", data / "embeddings" / "my-cat.safetensors")
    shutil.copy(NETWORKS / "extra_rank.safetensors", data / "loras" / "my-style.safetensors")
    for name in ("my-cat.safetensors", "my-cat"):
        told = run(capsys, "embedding", "inspect", name, "--data", str(data))
        assert [one["name"] for one in told["embeddings"]] == ["cat", "dog"]
    assert run(capsys, "lora", "inspect", "my-style", "--data", str(data))["modules"] == 1
    assert run(capsys, "embedding", "split", "my-cat", "--data", str(data))["words"] == ["cat", "dog"]
    save_file({"emb_params": torch.ones(3, 768)}, here / "my-cat.safetensors")
    told = run(capsys, "embedding", "inspect", "my-cat.safetensors", "--data", str(data))
    assert told["embeddings"][0]["name"] == "my-cat"  # a file that lies here goes before
    assert main(["embedding", "inspect", "nowhere", "--data", str(data)]) == 2
    assert "nowhere cannot be read" in capsys.readouterr().err
