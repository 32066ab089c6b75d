"""Checkpoints of one file, in the original layout, as the modules of diffusers and transformers."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, TypeVar

import torch
import yaml
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
    create_unet_diffusers_config_from_ldm,
    create_vae_diffusers_config_from_ldm,
)
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lib_ti.core.errors import BadInput
from lib_ti.formats.checkpoint import TEXT_PREFIXES, checkpoint_family, text_encoders
from lib_ti.formats.family import FAMILY_NAMES
from lib_ti.formats.ldm import (
    CLIP,
    CLIP_HEADS,
    OPEN_CLIP,
    SD2_TEXT_BLOCKS,
    UNET,
    VAE,
    ldm_config,
    sgm_config,
)
from lib_ti.formats.prediction import Settled, evidence_in_file, evidence_of_config
from lib_ti.formats.prediction import settled as settled_prediction
from lib_ti.formats.quantised import converted, open_weights
from lib_ti.hosts.base import Family, Prediction
from lib_ti.hosts.components import (
    KNOWN,
    Components,
    alphas_cumprod_of,
    kind_by_channels,
    pixels_per_latent,
    vae_dtype,
)
from lib_ti.hosts.descriptions import check_blocks, check_fits, check_numbers, read_yaml
from lib_ti.hosts.tokenizer import build_clip_tokenizer

log = logging.getLogger(__name__)

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class _Checkpoint:
    """A single file whose tensors are read one by one, when asked for."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str]
    get: Callable[[str], torch.Tensor]

    def state(self, prefix: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """The weights whose names begin with ``prefix``; CLIP's constant position_ids are no weights."""
        keys = (key for key in self.shapes if key.startswith(prefix) and not key.endswith("position_ids"))
        return {key: converted(self.get(key), dtype) for key in keys}


def _open(path: Path) -> _Checkpoint:
    file = open_weights(path)
    names = _with_text_model(file.plan)
    shapes = {name: tuple(file.plan[key].shape) for name, key in names.items()}
    return _Checkpoint(path, shapes, file.metadata, lambda name: file.read(names[name]))


def _with_text_model(keys: Iterable[str]) -> dict[str, str]:
    """Today's name of each tensor -> its name in the file; some files of 2022 lack ``text_model.``."""
    old = re.compile(rf"{re.escape(CLIP)}(?=embeddings|encoder|final_layer_norm)")
    return {old.sub(f"{CLIP}text_model.", key): key for key in keys}


_MODULES = ("unet_config", "network_config", "first_stage_config")  # of a .yaml
_SDXL_SIDE = 128  # latents; its .yaml has no place for it
_SDXL_ADDED = {
    "class_embed_type": None,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,  # of each of the six numbers of size and crop
}

_OTHER_KINDS = {
    "the SDXL refiner": r"conditioner\.embedders\.0\.model\.",
    "a model on the EDM schedule, such as Playground 2.5": r"edm_",
    "a LoRA file": r"(lora|lycoris)_|.*\.(lora_(up|down|A|B)|lora|hada_w1_a|lokr_w1(_a)?)(\.|$)",
    "a ControlNet": r"control_model\.|controlnet_",
    "one part of a diffusers folder": r"(down_blocks|text_model|(encoder|decoder)\.(down|up)_blocks)\.",
    "a VAE": r"(encoder|decoder)\.conv_in\.",
}


def _family_of(file: _Checkpoint) -> Family:
    """Raises BadInput, by name, for everything that is not a whole checkpoint of a known family."""

    def refuse(kind: str) -> NoReturn:
        raise BadInput(f"{file.path} is {kind}; a whole checkpoint of {KNOWN} is needed here.")

    for kind, pattern in _OTHER_KINDS.items():
        if any(re.match(pattern, key) for key in file.shapes):
            refuse(kind)
    first = file.shapes.get(f"{UNET}input_blocks.0.0.weight")
    has_vae = f"{VAE}decoder.conv_in.weight" in file.shapes
    if first is None:
        refuse("a VAE" if has_vae else "of another kind")
    if first[1] != 4:
        refuse(kind_by_channels(first[1]))
    if not has_vae:
        refuse("a checkpoint without its VAE")
    if not any(text_encoders(file.shapes, family) for family in FAMILY_NAMES):
        refuse("a checkpoint without its text encoder")
    has_sizes = any(key.startswith(f"{UNET}label_emb.") for key in file.shapes)
    if has_sizes and not text_encoders(file.shapes, "sdxl"):
        refuse("a model that listens to more than text, such as unCLIP")
    return checkpoint_family(str(file.path), file.shapes) or refuse("of another kind")


def load_file(path: Path, dtype: torch.dtype, prediction: Prediction | None) -> Components:
    """See ``load_components``."""
    file = _open(path)
    family = _family_of(file)
    plan = _plan_of(file, family, prediction)
    _report_ignored(file)
    unet = convert_ldm_unet_checkpoint(file.state(UNET, dtype), plan.unet.config)
    vae = convert_ldm_vae_checkpoint(file.state(VAE, vae_dtype(family, dtype)), plan.vae.config)
    text_encoder, text_encoder_2 = _load_text_encoders(file, family, dtype)
    return Components(
        unet=_fill(plan.unet, unet, path),
        vae=_fill(plan.vae, vae, path),
        text_encoder=text_encoder,
        tokenizer=build_clip_tokenizer(pad_token="!") if family == "sd2" else build_clip_tokenizer(),
        family=family,
        prediction=plan.prediction.prediction,
        prediction_told=plan.prediction.told,
        alphas_cumprod=plan.alphas_cumprod,
        name=path.stem,
        native_size=plan.vae.config.sample_size,
        file=path,
        text_encoder_2=text_encoder_2,
    )


@dataclass(frozen=True)
class _Plan:
    """What the `.yaml` says; the modules are still without weights."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    prediction: Settled
    alphas_cumprod: torch.Tensor


def _plan_of(file: _Checkpoint, family: Family, prediction: Prediction | None) -> _Plan:
    """From the `.yaml` beside the file, or else from the shapes of its tensors."""
    beside = file.path.with_suffix(".yaml")
    described = beside.is_file()
    try:
        if described:
            config = read_yaml(beside)
        else:
            config = (sgm_config if family == "sdxl" else ldm_config)(file.shapes)
        params = config["model"]["params"]
        check_numbers([params.get(key) for key in _MODULES])
        evidence = [evidence_of_config(config, family)] if described else []
        evidence += evidence_in_file(file.shapes, file.metadata)
        settled = settled_prediction(file.path.stem, family, evidence, prediction)
        side = _SDXL_SIDE if family == "sdxl" else params["image_size"]
        if (family, settled.prediction, side) == ("sd2", "v", 64):
            side = 96  # Stability's own .yaml says 64 of the model they trained at 768 pixels
        unet = _unet_config(config, family) | {"sample_size": side}
        # Without a state dict: diffusers would only guess the image size from it, which we know.
        vae = create_vae_diffusers_config_from_ldm(config, {})
        vae["sample_size"] = side * pixels_per_latent(vae)
        check_blocks(unet)
        check_blocks(vae)
        # What LDM calls linear is linear in the square root of beta.
        start, end = (params["linear_start"], params["linear_end"]) if family != "sdxl" else (0.00085, 0.012)
        alphas_cumprod = alphas_cumprod_of(start, end, "scaled_linear", "ztsnr" in file.shapes)
        with torch.device("meta"):  # accelerate would make each tensor and then let it go
            return _Plan(UNet2DConditionModel(**unet), AutoencoderKL(**vae), settled, alphas_cumprod)
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        IndexError,
        yaml.YAMLError,
        RecursionError,
    ) as error:
        culprit = beside if described else file.path
        raise BadInput(f"{culprit} does not describe a model of {KNOWN} ({error!r}).") from error


def _unet_config(config: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """diffusers' config of the U-Net that a `.yaml` describes."""
    described = create_unet_diffusers_config_from_ldm(config, {})
    params = config["model"]["params"]
    ldm = params["network_config" if family == "sdxl" else "unet_config"]["params"]
    if "num_heads" not in ldm:
        # diffusers calls this number of heads their width, and computes it for the true widths alone.
        widths = described["block_out_channels"]
        described["attention_head_dim"] = [max(1, width // ldm["num_head_channels"]) for width in widths]
    if family == "sdxl":
        described |= {**_SDXL_ADDED, "projection_class_embeddings_input_dim": ldm["adm_in_channels"]}
    return described


def _load_text_encoders(
    file: _Checkpoint, family: Family, dtype: torch.dtype
) -> tuple[CLIPTextModel, CLIPTextModelWithProjection | None]:
    try:
        prefix, *others = text_encoders(file.shapes, family)
        if others:
            second = _open_clip(file, others[0], dtype, CLIPTextModelWithProjection)
            return _clip(file, prefix, dtype), second
        if prefix == OPEN_CLIP:
            return _open_clip(file, prefix, dtype, CLIPTextModel), None
        return _clip(file, prefix, dtype, "gelu" if family == "sd2" else "quick_gelu"), None
    except (KeyError, ValueError, ZeroDivisionError) as error:
        raise BadInput(f"{file.path} holds no text encoder of {KNOWN} ({error!r}).") from error


def _clip(
    file: _Checkpoint, prefix: str, dtype: torch.dtype, activation: str = "quick_gelu"
) -> CLIPTextModel:
    """Under transformers' own names: OpenAI's, or SD2's, of which the last block of 24 is left out."""
    state = {key.removeprefix(prefix): tensor for key, tensor in file.state(prefix, dtype).items()}
    if activation == "gelu":
        unused = re.compile(rf".*\.layers\.{SD2_TEXT_BLOCKS}\..*")
        state = {key: tensor for key, tensor in state.items() if not unused.fullmatch(key)}
    return _fill(_empty_text_model(file, state, CLIPTextModel, activation), state, file.path)


def _open_clip(file: _Checkpoint, prefix: str, dtype: torch.dtype, kind: type[Module]) -> Module:
    # The converter leaves out the last of ViT-H's 24 blocks: SD2 conditions on the one before.
    sized = SimpleNamespace(config=CLIPTextConfig(hidden_size=file.shapes[f"{prefix}ln_final.weight"][0]))
    state = convert_open_clip_checkpoint(sized, file.state(prefix, dtype), prefix=prefix)
    return _fill(_empty_text_model(file, state, kind, "gelu"), state, file.path)


def _empty_text_model(
    file: _Checkpoint, state: Mapping[str, torch.Tensor], kind: type[Module], activation: str
) -> Module:
    """Of the plan that the shapes tell; without weights."""
    tokens, width = state["text_model.embeddings.token_embedding.weight"].shape
    projection = state.get("text_projection.weight")
    layers = {key.split(".")[3] for key in state if ".encoder.layers." in key}
    check_numbers({"num_hidden_layers": len(layers)})
    config = CLIPTextConfig(
        vocab_size=tokens,
        hidden_size=width,
        projection_dim=width if projection is None else len(projection),
        intermediate_size=len(state["text_model.encoder.layers.0.mlp.fc1.bias"]),
        num_hidden_layers=len(layers),
        num_attention_heads=int(file.metadata.get(CLIP_HEADS, width // 64)),
        max_position_embeddings=len(state["text_model.embeddings.position_embedding.weight"]),
        hidden_act=activation,
    )
    with torch.device("meta"):
        check_fits(kind(config), file.shapes.values(), file.path)
    with init_empty_weights():  # but for what is no weight
        return kind(config)


def _fill(module: Module, state: Mapping[str, torch.Tensor], path: Path) -> Module:
    """Give ``module`` its weights without copying them; every parameter must be there."""
    kind, expected = type(module).__name__, dict(module.named_parameters())
    if missing := [key for key in expected if key not in state]:
        raise BadInput(f"{path} lacks {len(missing)} weights of its {kind}: {', '.join(missing[:3])}, ...")
    for key, parameter in expected.items():
        if state[key].shape != parameter.shape:
            raise BadInput(
                f"{path}: {key} of its {kind} has shape {tuple(state[key].shape)}, "
                f"its plan wants {tuple(parameter.shape)}; is the .yaml beside it its own?"
            )
    if unused := [key for key in state if key not in expected]:
        log.info("%s: ignored %d tensors of its %s: %s", path.name, len(unused), kind, ", ".join(unused))
    module.load_state_dict({key: state[key] for key in expected}, strict=False, assign=True)
    return module.eval().requires_grad_(False)


def _report_ignored(file: _Checkpoint) -> None:
    prefixes = (UNET, VAE, *TEXT_PREFIXES)
    groups = Counter(key.split(".")[0] for key in file.shapes if not key.startswith(prefixes))
    if groups:
        listed = ", ".join(f"{name} ({count})" for name, count in groups.most_common(8))
        log.info("%s: ignored %d tensors: %s", file.path.name, groups.total(), listed)
