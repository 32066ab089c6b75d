"""A few words beside a checkpoint cannot make a model of a million blocks."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from lib_ti.core.errors import BadInput
from lib_ti.formats.ldm import ldm_config, ldm_yaml
from lib_ti.formats.safetensors_file import read_shapes
from lib_ti.hosts.checkpoints import BUILTIN, load_components


@pytest.fixture
def described(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A checkpoint, and what a .yaml beside it would say."""
    path = tmp_path / "tiny.safetensors"
    shutil.copyfile(BUILTIN, path)
    return path, ldm_config(read_shapes(path))


def _refused_at_once(path: Path, match: str) -> None:
    start = time.process_time()
    with pytest.raises(BadInput, match=match) as caught:
        load_components(path)
    assert time.process_time() - start < 10
    assert len(str(caught.value)) < 600


def test_its_own_yaml_is_read(described: tuple[Path, dict[str, Any]]) -> None:
    path, config = described
    path.with_suffix(".yaml").write_text(ldm_yaml(config))
    assert load_components(path).family == "sd1"


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("unet_config", "num_res_blocks", 200),
        ("unet_config", "num_res_blocks", 10**12),
        ("unet_config", "channel_mult", [1] * 60),
        ("unet_config", "channel_mult", [1] * 1000),
        ("unet_config", "channel_mult", [10**9, 10**9]),
        ("unet_config", "model_channels", "x" * 1000),
        ("unet_config", "model_channels", 10**12),
        ("unet_config", "transformer_depth", 60),
        ("unet_config", "context_dim", 10**15),
        ("first_stage_config", "num_res_blocks", 10_000),
        ("first_stage_config", "ch_mult", [1] * 64),
        ("first_stage_config", "ch", "x" * 1000),
    ],
)
def test_a_yaml_of_too_many(
    described: tuple[Path, dict[str, Any]], part: str, key: str, value: object
) -> None:
    path, config = described
    settings = config["model"]["params"][part]["params"]
    settings = settings.get("ddconfig", settings)
    settings[key] = value
    path.with_suffix(".yaml").write_text(yaml.safe_dump(config))
    _refused_at_once(path, r"tiny\.yaml does not describe a model|tiny\.safetensors lacks \d+ weights")


@pytest.mark.parametrize(
    "text",
    [
        "model: &a\n  params: *a\n",
        "a: &a [1, 1]\n" + "".join(f"{n}: &{n} [*{p}, *{p}]\n" for p, n in ("ab", "bc", "cd", "de", "ef")),
        "[" * 20_000,
        "model: {params: " + "{a: " * 200 + "}" * 201,
        "x: " + "9" * 20_000,
    ],
    ids=["itself", "doubled", "deep", "nested", "digits"],
)  # fmt: skip
def test_a_yaml_of_tricks(described: tuple[Path, dict[str, Any]], text: str) -> None:
    path, _ = described
    path.with_suffix(".yaml").write_text(text)
    _refused_at_once(path, r"tiny\.yaml does not describe a model")


def test_a_yaml_of_megabytes(described: tuple[Path, dict[str, Any]]) -> None:
    path, _ = described
    path.with_suffix(".yaml").write_text("# nothing\n" * 10_000)
    _refused_at_once(path, "at most")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, parts = tmp_path_factory.mktemp("models") / "tiny", load_components("builtin")
    for part in ("unet", "vae", "text_encoder", "tokenizer"):
        getattr(parts, part).save_pretrained(folder / part)
    schedule = {"prediction_type": "epsilon", "beta_start": 0.00085, "beta_end": 0.012}
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(
        json.dumps({"_class_name": "DDPMScheduler", **schedule, "beta_schedule": "scaled_linear"})
    )
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    return folder


def test_a_folder_is_read(folder: Path) -> None:
    assert load_components(folder).family == "sd1"


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("unet", {"layers_per_block": 200}),
        ("unet", {"cross_attention_dim": 10**9}),
        ("unet", {"cross_attention_dim": 100_000}),
        ("unet", {"block_out_channels": [131_072] * 4}),
        ("unet", {"transformer_layers_per_block": 60}),
        ("vae", {"layers_per_block": 60}),
        ("text_encoder", {"num_hidden_layers": 10**6}),
        ("text_encoder", {"vocab_size": 10**10}),
        ("text_encoder", {"vocab_size": 131_072, "hidden_size": 131_072, "num_attention_heads": 2}),
        ("text_encoder", {"hidden_size": "x"}),
    ],
)
def test_a_folder_that_describes_more_than_it_holds(
    tmp_path: Path, folder: Path, part: str, changes: dict[str, Any]
) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(folder, changed)
    file = changed / part / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    _refused_at_once(changed, r"config\.json describes? a model|config\.json does not describe")


def test_a_vocabulary_of_gigabytes(tmp_path: Path, folder: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(folder, changed)
    with (changed / "tokenizer" / "merges.txt").open("wb") as file:
        file.truncate(1 << 32)
    _refused_at_once(changed, "at most")
