from __future__ import annotations

import logging
import os
import pickletools
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lib_ti.core.errors import BadInput
from lib_ti.core.names import safe_name
from lib_ti.formats.embedding import (
    Embedding,
    read_embedding,
    read_embeddings,
    write_pt,
    write_safetensors,
)
from tests.formats.pipelines import embedding_pipeline

torch.manual_seed(0)
CLIP_L, CLIP_H, CLIP_G, TINY = (torch.randn(3, width) for width in (768, 1024, 1280, 64))
BOTH = {"clip_l": CLIP_L, "clip_g": CLIP_G}
A1111 = {"string_to_token": {"*": 265}, "string_to_param": {"*": CLIP_L}, "name": "first", "step": 499}
LORA = {
    "lora_unet_mid_block.lora_down.weight": torch.ones(4, 8),
    "lora_unet_mid_block.alpha": torch.tensor(4.0),
}


def _same(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> bool:
    return list(found) == list(expected) and all(torch.equal(found[key], expected[key]) for key in expected)


# ---- reading every writer's layout ----

STATES: Mapping[str, tuple[Mapping[str, object], Mapping[str, torch.Tensor]]] = {
    "A1111": ({**A1111, "sd_checkpoint": "cc6cb27103", "sd_checkpoint_name": "v1-5"}, {"clip_l": CLIP_L}),
    "A1111 with a parameter": (
        {**A1111, "string_to_param": {"*": torch.nn.Parameter(CLIP_L)}},
        {"clip_l": CLIP_L},
    ),
    "A1111 of 2022": (
        {
            "string_to_token": {"*": torch.tensor(265)},
            "string_to_param": torch.nn.ParameterDict({"*": CLIP_L}),
        },
        {"clip_l": CLIP_L},
    ),
    "HCP": ({"string_to_param": {"*": CLIP_L}, "name": "first"}, {"clip_l": CLIP_L}),
    "sd-scripts": ({"emb_params": CLIP_H}, {"clip_h": CLIP_H}),
    "sd-scripts SDXL": (BOTH, BOTH),
    "half precision": ({"emb_params": CLIP_L.half()}, {"clip_l": CLIP_L.half().float()}),
    "bfloat16": ({"emb_params": CLIP_L.bfloat16()}, {"clip_l": CLIP_L.bfloat16().float()}),
    "one vector of one dimension": ({"emb_params": CLIP_L[0]}, {"clip_l": CLIP_L[:1]}),
    "diffusers advanced, SD1": ({"clip_l": CLIP_L}, {"clip_l": CLIP_L}),
    "cog": ({"text_encoders_0": CLIP_L, "text_encoders_1": CLIP_G}, BOTH),
    "OneTrainer": ({"emp_params": CLIP_L, "emp_params_out": CLIP_L + 1}, {"clip_l": CLIP_L}),
    "OneTrainer SDXL": ({**BOTH, "clip_l_out": CLIP_L + 1, "clip_g_out": CLIP_G + 1}, BOTH),
    "a token for each vector, as sd-scripts calls them": (
        {"mychar": CLIP_L[0], "mychar2": CLIP_L[2], "mychar1": CLIP_L[1]},
        {"clip_l": CLIP_L},
    ),
    "the same inside A1111's": (
        {**A1111, "string_to_param": {"m": CLIP_L[:1], "m1": CLIP_L[1:2], "m2": CLIP_L[2:]}},
        {"clip_l": CLIP_L},
    ),
    "a token for each vector, as diffusers calls them": (
        {"<mychar>": CLIP_H[:1], "<mychar>_1": CLIP_H[1:2], "<mychar>_2": CLIP_H[2:]},
        {"clip_h": CLIP_H},
    ),
    "the built-in model": ({"emb_params": TINY}, {"clip_l": TINY}),
}


@pytest.mark.parametrize("new", [True, False], ids=["zip", "stream"])
@pytest.mark.parametrize("layout", STATES)
def test_layouts_are_read_from_pickles(tmp_path: Path, layout: str, new: bool) -> None:
    state, expected = STATES[layout]
    torch.save(state, tmp_path / "mychar.pt", _use_new_zipfile_serialization=new)
    embedding = read_embedding(tmp_path / "mychar.pt")
    assert embedding.name == "mychar"
    assert _same(embedding.vectors, expected)


@pytest.mark.parametrize(
    "layout", [layout for layout in STATES if "string_to_param" not in STATES[layout][0]]
)
def test_layouts_are_read_from_safetensors(tmp_path: Path, layout: str) -> None:
    state, expected = STATES[layout]
    path = tmp_path / "mychar.safetensors"
    save_file(dict(state), path)  # type: ignore[arg-type]
    embedding = read_embedding(path)
    assert embedding.name == "mychar"
    assert _same(embedding.vectors, expected)


def test_facts_of_a1111_are_kept(tmp_path: Path) -> None:
    torch.save(STATES["A1111"][0], tmp_path / "mychar.pt")
    embedding = read_embedding(tmp_path / "mychar.pt")
    assert embedding.step == 499
    assert embedding.metadata == {"name": "first", "sd_checkpoint": "cc6cb27103", "base_model": "v1-5"}


def test_what_is_not_used_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save({**STATES["OneTrainer SDXL"][0], "extra": [1], "note": "n"}, tmp_path / "mychar.pt")
    with caplog.at_level(logging.WARNING):
        embedding = read_embedding(tmp_path / "mychar.pt")
    assert embedding.metadata == {"not_used": "clip_g_out, clip_l_out, extra", "note": "n"}
    assert "mychar.pt: not used: clip_g_out, clip_l_out, extra" in caplog.text


@pytest.mark.parametrize(
    ("token", "name"),
    [("<cat-toy>", "cat-toy"), ("cat_toy", "cat_toy"), ("<../x>", "learned_embeds"), ("", "learned_embeds")],
)
def test_diffusers_token_is_the_trigger(tmp_path: Path, token: str, name: str) -> None:
    torch.save({token: CLIP_L[0]}, tmp_path / "learned_embeds.bin")
    embedding = read_embedding(tmp_path / "learned_embeds.bin")
    assert embedding.name == name
    assert embedding.metadata == {"token": token}
    assert _same(embedding.vectors, {"clip_l": CLIP_L[:1]})


@pytest.mark.parametrize("steps", ["", "-steps-500"])
def test_diffusers_sdxl_lies_in_two_files(tmp_path: Path, steps: str) -> None:
    first, second = (tmp_path / f"learned_embeds{number}{steps}.safetensors" for number in ("", "_2"))
    save_file({"<toy>": CLIP_L}, first)
    save_file({"<toy>": CLIP_G}, second)
    embedding = read_embedding(first)
    assert (embedding.name, embedding.family) == ("toy", "sdxl")
    assert _same(embedding.vectors, BOTH)
    with pytest.raises(
        BadInput,
        match=r"toy has vectors for clip_g \(1280 wide\); expected .* clip_l of 768 and clip_g of 1280 tog",
    ):
        read_embedding(second)


def test_bundles_are_read_from_a_lora(tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    tensors = {
        **LORA,
        "bundle_emb.my.char.string_to_param.*": CLIP_L,
        "bundle_emb.toy.clip_l": CLIP_L.clone(),
        "bundle_emb.toy.clip_g": CLIP_G,
        "bundle_emb.other.emp_params": CLIP_H,
    }
    save_file(tensors, path)
    embeddings = {embedding.name: embedding for embedding in read_embeddings(path)}
    assert {name: embedding.family for name, embedding in embeddings.items()} == {
        "my.char": "sd1",
        "toy": "sdxl",
        "other": "sd2",
    }
    assert _same(embeddings["my.char"].vectors, {"clip_l": CLIP_L})
    assert _same(embeddings["toy"].vectors, BOTH)
    assert embeddings["toy"].metadata == {"bundled_in": "lora.safetensors"}
    with pytest.raises(BadInput, match=r"carries 3 embeddings, expected one: .*toy"):
        read_embedding(path)


def test_a_bundle_cannot_choose_a_path_for_a_name(tmp_path: Path) -> None:
    save_file({"bundle_emb.../../x.clip_l": CLIP_L}, tmp_path / "lora.safetensors")
    with pytest.raises(BadInput, match="cannot be a name"):
        read_embeddings(tmp_path / "lora.safetensors")


def test_content_decides_not_the_name(tmp_path: Path) -> None:
    torch.save(A1111, tmp_path / "lie.safetensors")
    save_file({"emb_params": CLIP_L}, tmp_path / "lie.pt")
    assert _same(read_embedding(tmp_path / "lie.safetensors").vectors, {"clip_l": CLIP_L})
    assert _same(read_embedding(tmp_path / "lie.pt").vectors, {"clip_l": CLIP_L})


# ---- refusing what is none ----


class _Harmful:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"echo ran > {self.path}",)


@pytest.mark.parametrize("new", [True, False])
def test_a_harmful_pickle_named_safetensors_does_not_run(tmp_path: Path, new: bool) -> None:
    path, marker = tmp_path / "x.safetensors", tmp_path / "marker"
    torch.save({"emb_params": CLIP_L, "x": _Harmful(marker)}, path, _use_new_zipfile_serialization=new)
    with pytest.raises(BadInput, match=r"it asks for (posix|nt)\.system"):
        read_embeddings(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (LORA, "is a LoRA without an embedding in it"),
        ({"unet.down_blocks.0.lora.up.weight": TINY, "b": TINY}, "is a LoRA"),
        ({"model.diffusion_model.out.2.weight": TINY, "first_stage_model.x": TINY}, "is a checkpoint"),
        ({"down_blocks.0.weight": TINY, "mid_block.weight": TINY}, "is a part of a diffusers model"),
        ({"IN01": CLIP_L, "IN02": CLIP_L}, "is an extended textual inversion"),
        ({"clip_l": CLIP_L, "t5": TINY}, r"for Flux \(clip_l, t5\)"),
        ({"emb_params": TINY.long()}, "type torch.int64"),
        ({"emb_params": torch.ones(2, 3, 4)}, r"shape \(2, 3, 4\)"),
        ({"emb_params": torch.ones(76, 768)}, r"shape \(76, 768\); expected 1 to 75 vectors"),
        ({"emb_params": torch.ones(0, 768)}, r"shape \(0, 768\)"),
        ({"emb_params": torch.ones(1, 4097)}, r"shape \(1, 4097\)"),
        ({"emb_params": torch.tensor(1.0)}, r"shape \(\)"),
        ({"emb_params": torch.full((2, 768), torch.nan)}, "not finite"),
        ({"emb_params": torch.full((2, 768), torch.inf)}, "not finite"),
        ({"clip_l": CLIP_L, "clip_g": CLIP_G[:2]}, "different number of vectors"),
        ({"clip_g": CLIP_G}, r"has vectors for clip_g \(1280 wide\); expected"),
        (
            {**BOTH, "text_encoders_0": CLIP_L},
            "got: clip_g, clip_l, text_encoders_0|got: clip_l, clip_g, text",
        ),
    ],
)
def test_other_files_are_refused_by_name(
    tmp_path: Path, state: dict[str, torch.Tensor], message: str
) -> None:
    save_file({key: tensor.clone() for key, tensor in state.items()}, tmp_path / "x.safetensors")
    torch.save(state, tmp_path / "x.pt")
    for suffix in (".safetensors", ".pt"):
        with pytest.raises(BadInput, match=message):
            read_embeddings(tmp_path / f"x{suffix}")


def test_other_pickles_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    for content, message in [
        ({"state_dict": {"w": TINY}, "epoch": 1}, "is a checkpoint"),
        ({"epoch": 1}, "got: none"),
        ([TINY], "holds a list"),
        ({1: TINY}, "holds a dict"),
        ({"string_to_param": TINY}, "string_to_param of x.pt holds no named tensors"),
        ({"string_to_param": {"*": TINY, 1: TINY}}, r"got: \*, 1"),
    ]:
        torch.save(content, path)
        with pytest.raises(BadInput, match=message):
            read_embeddings(path)


def test_files_of_no_known_format_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    for data, told in (
        (b"", "is no embedding file but empty"),
        (b"\x89PNG\r\n\x1a\n0000", "but a PNG picture"),
        (b"version https://git-lfs", "but a pointer of Git LFS"),
        (b"anything", "neither a safetensors file nor one that torch saved, so no embedding file"),
    ):
        path.write_bytes(data)
        with pytest.raises(BadInput, match=told):
            read_embeddings(path)
    path.write_bytes((100_000_000).to_bytes(8, "little") + b"{" + b" " * 100)
    with pytest.raises(BadInput, match="claims a header of 100000000 bytes"):
        read_embeddings(path)
    with pytest.raises(BadInput, match="cannot be read"):
        read_embeddings(tmp_path / "nowhere.pt")
    with pytest.raises(BadInput, match="cannot be read"):
        read_embeddings(tmp_path)


# ---- writing ----

METADATA = {
    "base_model": "v1-5-pruned",
    "base_model_sha256": "cc6cb27103417325ff94f52b7a5d2dde45a7515b",
    "settings": '{"rate": 1}',
}
SD1 = Embedding("my-char", {"clip_l": CLIP_L}, 1600, METADATA)
ALL = {
    "sd1": SD1,
    "sd2": Embedding("my-char", {"clip_h": CLIP_H}),
    "sdxl": Embedding("my-char", BOTH),
    "tiny": Embedding("my-char", {"clip_l": TINY}),
    "tiny sd2": Embedding("my-char", {"clip_h": TINY}),
}


@pytest.mark.parametrize("kind", ALL)
def test_safetensors_round_trip_is_exact(tmp_path: Path, kind: str) -> None:
    first, again = tmp_path / "my-char.safetensors", tmp_path / "again" / "my-char.safetensors"
    write_safetensors(ALL[kind], first)
    embedding = read_embedding(first)
    assert (embedding.name, embedding.step, embedding.family) == ("my-char", ALL[kind].step, ALL[kind].family)
    assert _same(embedding.vectors, ALL[kind].vectors)
    assert embedding.metadata.items() >= ALL[kind].metadata.items()
    write_safetensors(embedding, again)
    assert again.read_bytes() == first.read_bytes()


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl", "tiny"])
def test_pt_round_trip_is_exact(tmp_path: Path, kind: str) -> None:
    first, again = tmp_path / "my-char.pt", tmp_path / "again" / "my-char.pt"
    write_pt(ALL[kind], first)
    embedding = read_embedding(first)
    assert _same(embedding.vectors, ALL[kind].vectors)
    assert embedding.step == ALL[kind].step
    write_pt(embedding, again)
    assert again.read_bytes() == first.read_bytes()


def test_safetensors_content(tmp_path: Path) -> None:
    """One tensor, or clip_l and clip_g: what every host accepts."""
    path = tmp_path / "x.safetensors"
    for kind, keys in [("sd1", ["emb_params"]), ("sd2", ["emb_params"]), ("sdxl", ["clip_g", "clip_l"])]:
        write_safetensors(ALL[kind], path)
        assert sorted(load_file(path)) == keys
    write_safetensors(SD1, path)
    with safe_open(path, framework="pt") as content:
        assert content.metadata() == {
            **METADATA,
            "family": "sd1",
            "step": "1600",
            "trigger": "my-char",
            "modelspec.sai_model_spec": "1.0.1",
            "modelspec.architecture": "stable-diffusion-v1/textual-inversion",
            "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
            "modelspec.title": "my-char",
            "modelspec.trigger_phrase": "my-char",
        }


def test_a_renamed_file_changes_its_trigger_only(tmp_path: Path) -> None:
    write_safetensors(SD1, tmp_path / "my-char.safetensors")
    (tmp_path / "my-char.safetensors").rename(tmp_path / "other.safetensors")
    write_safetensors(read_embedding(tmp_path / "other.safetensors"), tmp_path / "new.safetensors")
    with safe_open(tmp_path / "new.safetensors", framework="pt") as content:
        metadata = content.metadata()
    assert (metadata["trigger"], metadata["modelspec.title"]) == ("other", "my-char")


def test_architecture_follows_the_prediction(tmp_path: Path) -> None:
    embedding = Embedding("x", {"clip_h": CLIP_H}, None, {"modelspec.prediction_type": "v"})
    write_safetensors(embedding, tmp_path / "x.safetensors")
    metadata = read_embedding(tmp_path / "x.safetensors").metadata
    assert metadata["modelspec.architecture"] == "stable-diffusion-v2-768-v/textual-inversion"


def test_metadata_that_looks_like_json_must_be(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(BadInput, match="metadata note begins with a brace and is not JSON"):
        write_safetensors(Embedding("x", {"clip_l": TINY}, None, {"note": "{a|b}"}), path)
    assert not path.exists()


def test_text_without_utf8_is_written(tmp_path: Path) -> None:
    torch.save({**A1111, "note": "\ud800"}, tmp_path / "x.pt")
    write_safetensors(read_embedding(tmp_path / "x.pt"), tmp_path / "x.safetensors")
    assert read_embedding(tmp_path / "x.safetensors").metadata["note"] == "?"


def test_pt_content(tmp_path: Path) -> None:
    write_pt(SD1, tmp_path / "x.pt")
    content = torch.load(tmp_path / "x.pt", weights_only=True)
    assert torch.equal(content.pop("string_to_param")["*"], CLIP_L)
    assert content == {
        "string_to_token": {"*": 265},
        "name": "my-char",
        "step": 1600,
        "sd_checkpoint": "cc6cb27103",
        "sd_checkpoint_name": "v1-5-pruned",
    }
    write_pt(ALL["sdxl"], tmp_path / "x.pt")
    assert _same(torch.load(tmp_path / "x.pt", weights_only=True), BOTH)


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_pt_passes_the_check_of_a1111(tmp_path: Path, kind: str) -> None:
    """Its loader wants no zip, five pickles, and in them no other names than these."""
    path = tmp_path / "x.pt"
    write_pt(ALL[kind], path)
    assert not zipfile.is_zipfile(path)
    with path.open("rb") as file:
        programs = [list(pickletools.genops(file)) for _ in range(5)]
    names = {argument for program in programs for opcode, argument, _ in program if opcode.name == "GLOBAL"}
    assert names == {"torch._utils _rebuild_tensor_v2", "torch FloatStorage", "collections OrderedDict"}


@pytest.mark.parametrize("write", [write_safetensors, write_pt])
def test_diffusers_loads_what_we_write(tmp_path: Path, write: object) -> None:
    pipeline, tokenizer, encoder = embedding_pipeline()
    path = tmp_path / ("x.safetensors" if write is write_safetensors else "x.pt")
    write(ALL["tiny"], path)  # type: ignore[operator]
    pipeline.load_textual_inversion(str(path), token="my-char")
    ids = tokenizer(pipeline.maybe_convert_prompt("my-char", tokenizer), add_special_tokens=False).input_ids
    assert len(ids) == 3
    assert torch.equal(encoder.get_input_embeddings().weight[ids], TINY)


# ---- the type and its names ----


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ({}, "no text encoder"),
        ({"clip_l": CLIP_L, "clip_h": CLIP_H}, r"clip_h \(1024 wide\), clip_l \(768"),
        ({"clip_l": CLIP_L[0]}, r"shape \(768,\)"),
        ({"clip_l": CLIP_L.half()}, "has the type torch.float16; expected torch.float32"),
    ],
)
def test_embedding_checks_its_vectors(vectors: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Embedding("x", vectors)


def test_embedding_knows_its_count_and_family() -> None:
    assert {kind: (embedding.count, embedding.family) for kind, embedding in ALL.items()} == {
        "sd1": (3, "sd1"),
        "sd2": (3, "sd2"),
        "sdxl": (3, "sdxl"),
        "tiny": (3, "sd1"),
        "tiny sd2": (3, "sd2"),
    }


@pytest.mark.parametrize("name", ["a", "my-char", "My char 2.1_x", "猫", "é" * 100, "console", "com10"])
def test_names_that_are_safe(name: str) -> None:
    assert safe_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", ".x", "x.", " x", "x ", "a/b", "a\\b", "c:x", "a\0b", "a\nb", "<x>", "x" * 101),
        *("con", "NUL", "Com1", "lpt9.pt", "aux.x.y"),
    ],
)
def test_names_that_are_not(name: str) -> None:
    with pytest.raises(BadInput, match="cannot be a name"):
        safe_name(name)
