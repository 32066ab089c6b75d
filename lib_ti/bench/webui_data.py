"""What a WebUI's data folder needs for measurements and tests: a checkpoint and this extension."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import yaml
from transformers import CLIPTextConfig

import lib_ti
from lib_ti.hosts.checkpoints import BUILTIN, load_components
from lib_ti.hosts.tokenizer import write_tokenizer_files


def install_clip(models: Path, config: CLIPTextConfig) -> Path:
    """The files by which a WebUI builds the text encoder without a network; their folder."""
    folder = models / "clip"
    write_tokenizer_files(folder)
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    told = {"model_type": "clip_text_model", **{name: getattr(config, name) for name in sizes}}
    (folder / "config.json").write_text(json.dumps(told))
    return folder


def install_builtin(data: Path) -> Path:
    """The built-in checkpoint, byte for byte, among the WebUI's; its file there."""
    models = data / "models"
    checkpoints = models / "Stable-diffusion"
    checkpoints.mkdir(parents=True)
    clip = install_clip(models, load_components("builtin").text_encoder.config)
    plan = yaml.safe_load(BUILTIN.with_suffix(".yaml").read_text(encoding="utf-8"))
    plan["model"]["params"]["cond_stage_config"]["params"]["version"] = str(clip)
    (checkpoints / BUILTIN.name).with_suffix(".yaml").write_text(yaml.safe_dump(plan))
    return Path(shutil.copy(BUILTIN, checkpoints))


def install_extension(data: Path) -> None:
    """This project among the WebUI's extensions."""
    folder = data / "extensions"
    folder.mkdir(exist_ok=True)
    (folder / "ti-studio").symlink_to(Path(lib_ti.__path__[0]).resolve().parent, target_is_directory=True)
