"""Every layout is written as its program writes it, and read again; what it loses is found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lib_ti.core.errors import BadInput
from lib_ti.formats.embedding import IS_NEGATIVE, Embedding, read_embedding, read_embeddings
from lib_ti.formats.embedding_layouts import (
    LAYOUTS,
    lost_in,
    renamed,
    write_bundle,
    write_embedding,
)
from tests.formats.pipelines import embedding_pipeline

torch.manual_seed(0)
CLIP_L, CLIP_H, CLIP_G = (torch.randn(3, width) for width in (768, 1024, 1280))
SAID = {"base_model": "v1-5", "settings": '{"rate": 1}'}
ALL = {
    "sd1": Embedding("my-cat", {"clip_l": CLIP_L}, 500, SAID),
    "sd2": Embedding("my-cat", {"clip_h": CLIP_H}, 500, SAID),
    "sdxl": Embedding("my-cat", {"clip_l": CLIP_L, "clip_g": CLIP_G}, 500, SAID),
}


def same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize(
    ("layout", "suffix"), [(name, suffix) for name in LAYOUTS for suffix in LAYOUTS[name].suffixes]
)
def test_every_layout_is_read_again(
    tmp_path: Path, layout: str, suffix: str, family: str, precision: str
) -> None:
    embedding, path = ALL[family], tmp_path / f"learned_embeds{suffix}"
    files = write_embedding(embedding, path, layout, precision)
    assert sorted(tmp_path.iterdir()) == sorted(files)
    again, lost = read_embedding(path), lost_in(embedding, files)
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    wanted = {encoder: rows.to(dtype).float() for encoder, rows in embedding.vectors.items()}
    assert same(again.vectors, wanted)
    assert any("precision" in one for one in lost) == (precision != "fp32")
    if suffix == ".safetensors":
        assert again.metadata.items() >= SAID.items() and again.step == 500
    else:
        assert any("(base_model, settings)" in one or "(settings)" in one for one in lost)
    assert ("the steps it was trained for" in lost) == (again.step is None)


def test_the_names_are_those_of_the_programs(tmp_path: Path) -> None:
    keys = {}
    for layout in ("studio", "cog", "onetrainer", "diffusers"):
        for family in ("sd1", "sdxl"):
            path = tmp_path / "learned_embeds.safetensors"
            files = write_embedding(ALL[family], path, layout)
            keys[layout, family] = [sorted(load_file(file)) for file in files]
    assert keys == {
        ("studio", "sd1"): [["emb_params"]],
        ("studio", "sdxl"): [["clip_g", "clip_l"]],
        ("cog", "sd1"): [["text_encoders_0"]],
        ("cog", "sdxl"): [["text_encoders_0", "text_encoders_1"]],
        ("onetrainer", "sd1"): [["emp_params"]],
        ("onetrainer", "sdxl"): [["clip_g", "clip_l"]],
        ("diffusers", "sd1"): [["my-cat"]],
        ("diffusers", "sdxl"): [["my-cat"], ["my-cat"]],
    }
    write_embedding(ALL["sd1"], tmp_path / "x.pt", "sd-scripts")
    assert list(torch.load(tmp_path / "x.pt", weights_only=True)) == ["emb_params"]


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_diffusers_loads_its_own_layout(tmp_path: Path, suffix: str) -> None:
    pipeline, tokenizer, encoder = embedding_pipeline()
    vectors = torch.randn(3, 64)
    path = tmp_path / f"learned_embeds{suffix}"
    write_embedding(Embedding("<my-cat>", {"clip_l": vectors}), path, "diffusers")
    pipeline.load_textual_inversion(str(path))  # the token is the file's
    ids = tokenizer(pipeline.maybe_convert_prompt("<my-cat>", tokenizer), add_special_tokens=False).input_ids
    assert torch.equal(encoder.get_input_embeddings().weight[ids], vectors)


@pytest.mark.parametrize(
    ("name", "layout", "said"),
    [
        ("x.pt", "cog", "layout cog: got the name x.pt; expected one ending in .safetensors"),
        ("x.safetensors", "diffusers", "such as learned_embeds.safetensors"),
    ],
)
def test_what_cannot_be_written_leaves_nothing(tmp_path: Path, name: str, layout: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        write_embedding(ALL["sdxl"], tmp_path / name, layout)
    huge = Embedding("huge", {"clip_l": torch.full((1, 768), 1e5)})
    with pytest.raises(BadInput, match="too large for fp16"):
        write_embedding(huge, tmp_path / "x.pt", precision="fp16")
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_keeps_what_each_says_of_itself(tmp_path: Path) -> None:
    negative = renamed(ALL["sd1"], "my-cat-neg")
    negative = Embedding(negative.name, {"clip_l": -CLIP_L}, 7, {**negative.metadata, IS_NEGATIVE: "true"})
    write_bundle([ALL["sd1"], negative, renamed(ALL["sdxl"], "my.dog")], tmp_path / "b.safetensors")
    found = {embedding.name: embedding for embedding in read_embeddings(tmp_path / "b.safetensors")}
    assert {name: (one.step, one.is_negative, one.family) for name, one in found.items()} == {
        "my-cat": (500, False, "sd1"),
        "my-cat-neg": (7, True, "sd1"),
        "my.dog": (500, False, "sdxl"),
    }
    assert same(found["my.dog"].vectors, ALL["sdxl"].vectors)
    assert found["my-cat"].metadata.items() >= {**SAID, "bundled_in": "b.safetensors"}.items()


def test_a_new_name_is_said_everywhere(tmp_path: Path) -> None:
    write_embedding(ALL["sd1"], tmp_path / "my-cat.safetensors")
    other = renamed(read_embedding(tmp_path / "my-cat.safetensors"), "my-dog")
    write_embedding(other, tmp_path / "my-dog.safetensors")
    assert b"my-cat" not in (tmp_path / "my-dog.safetensors").read_bytes()
