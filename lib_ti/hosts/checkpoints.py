"""Stable Diffusion models from disk, or a hub, as the modules of diffusers and transformers."""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, TypeVar

import torch
import yaml
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
    create_unet_diffusers_config_from_ldm,
    create_vae_diffusers_config_from_ldm,
)
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from lib_ti.core.errors import BadInput
from lib_ti.formats.ldm import CLIP, CLIP_HEADS, OPEN_CLIP, UNET, VAE, ldm_config
from lib_ti.formats.pickles import read_torch_pickle
from lib_ti.hosts.base import Family, Prediction
from lib_ti.hosts.tokenizer import build_clip_tokenizer

log = logging.getLogger(__name__)

BUILTIN = Path(__file__).parent.parent / "tinyworld" / "weights" / "tinyworld.safetensors"

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
Module = TypeVar("Module", bound=nn.Module)


@dataclass
class Components:
    """A loaded model: on the CPU, in evaluation mode, without gradients."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    family: Family
    prediction: Prediction
    alphas_cumprod: torch.Tensor  # float32, (1000,)
    name: str
    native_size: int  # pixels
    file: Path | None  # None where the model is not one file

    @cached_property
    def sha256(self) -> str:
        """Of the checkpoint file, in hexadecimal; "" where the model is not one file."""
        if self.file is None:
            return ""
        digest = hashlib.sha256()
        with self.file.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        return digest.hexdigest()


def load_components(
    model: str | Path, dtype: torch.dtype = torch.float32, *, prediction: Prediction | None = None
) -> Components:
    """``model``: "builtin", a single file, a diffusers folder, or a hub id ``organisation/name``.

    ``prediction`` overrules what the model says of itself. Only a hub id reaches for the network.
    Raises BadInput where there is no such model, or it is none of SD1.x or SD2.x.
    """
    path = BUILTIN if str(model) == "builtin" else Path(model).expanduser()
    if path.is_dir():
        return _load_folder(path, dtype, prediction)
    if path.is_file():
        return _load_file(path, dtype, prediction)
    if HUB_ID.fullmatch(str(model)) and path.suffix not in (".safetensors", ".ckpt"):
        return _load_pretrained(str(model), dtype, prediction)
    raise BadInput(
        f"There is no model at {path}: give a .safetensors or .ckpt file, a diffusers folder, "
        f"a hub id such as organisation/name, or 'builtin'."
    )


# ---- single files ----


@dataclass(frozen=True)
class _Checkpoint:
    """A single file whose tensors are read one by one, when asked for."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str]
    get: Callable[[str], torch.Tensor]

    def state(self, prefix: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """The weights whose names begin with ``prefix``; CLIP's constant position_ids are no weights.

        Copies, since a view of the mapped file would change with it, and lies unaligned in memory:
        the same weights of another file would then give other last bits.
        """
        keys = (key for key in self.shapes if key.startswith(prefix) and not key.endswith("position_ids"))
        return {key: self.get(key).to(dtype, copy=True) for key in keys}


def _open(path: Path) -> _Checkpoint:
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:] == b"{":
        return _open_safetensors(path)
    if start.startswith((b"PK", b"\x80")):
        return _open_pickle(path)
    raise BadInput(
        f"{path} is neither a safetensors file nor a torch checkpoint, it begins with {start!r}: "
        f"the download failed, or fetched a pointer to a file kept elsewhere; download it again."
    )


def _open_safetensors(path: Path) -> _Checkpoint:
    try:
        handle = safe_open(path, framework="pt")
    except SafetensorError as error:
        raise BadInput(f"{path} is damaged ({error}); download or copy it again.") from error
    names = _with_text_model(handle.keys())
    shapes = {name: tuple(handle.get_slice(key).get_shape()) for name, key in names.items()}
    return _Checkpoint(path, shapes, handle.metadata() or {}, lambda name: handle.get_tensor(names[name]))


def _open_pickle(path: Path) -> _Checkpoint:
    content = read_torch_pickle(path, unknown="ignore")
    if isinstance(content, Mapping):
        content = content.get("state_dict", content)
    pairs = content.items() if isinstance(content, Mapping) else ()
    tensors = {str(key): value for key, value in pairs if isinstance(value, torch.Tensor)}
    names = _with_text_model(tensors)
    shapes = {name: tuple(tensors[key].shape) for name, key in names.items()}
    return _Checkpoint(path, shapes, {}, lambda name: tensors[names[name]])


def _with_text_model(keys: Iterable[str]) -> dict[str, str]:
    """Today's name of each tensor -> its name in the file; some files of 2022 lack ``text_model.``."""
    old = re.compile(rf"{re.escape(CLIP)}(?=embeddings|encoder|final_layer_norm)")
    return {old.sub(f"{CLIP}text_model.", key): key for key in keys}


_OTHER_KINDS = {
    "an SDXL checkpoint": r"conditioner\.embedders\.",
    "a model that listens to more than text, such as SDXL or unCLIP": r"model\.diffusion_model\.label_emb\.",
    "a LoRA file": r"(lora|lycoris)_|.*\.(lora_(up|down|A|B)|lora|hada_w1_a|lokr_w1(_a)?)(\.|$)",
    "a ControlNet": r"control_model\.|controlnet_",
    "one part of a diffusers folder": r"(down_blocks|text_model|(encoder|decoder)\.(down|up)_blocks)\.",
    "a VAE": r"(encoder|decoder)\.conv_in\.",
}


def _refuse_other_kinds(file: _Checkpoint) -> None:
    def refuse(kind: str) -> NoReturn:
        raise BadInput(f"{file.path} is {kind}; a whole checkpoint of SD1.x or SD2.x is needed here.")

    for kind, pattern in _OTHER_KINDS.items():
        if any(re.match(pattern, key) for key in file.shapes):
            refuse(kind)
    first = file.shapes.get(f"{UNET}input_blocks.0.0.weight")
    has_vae = f"{VAE}decoder.conv_in.weight" in file.shapes
    if first is None:
        refuse("a VAE" if has_vae else "of another kind")
    if first[1] != 4:
        refuse(_kind_by_channels(first[1]))
    if not has_vae:
        refuse("a checkpoint without its VAE")
    if not any(key.startswith((CLIP, OPEN_CLIP)) for key in file.shapes):
        refuse("a checkpoint without its text encoder")


def _load_file(path: Path, dtype: torch.dtype, prediction: Prediction | None) -> Components:
    file = _open(path)
    _refuse_other_kinds(file)
    family: Family = "sd2" if any(key.startswith(OPEN_CLIP) for key in file.shapes) else "sd1"
    plan = _plan_of(file, family, prediction)
    _report_ignored(file)
    unet = convert_ldm_unet_checkpoint(file.state(UNET, dtype), plan.unet.config)
    vae = convert_ldm_vae_checkpoint(file.state(VAE, dtype), plan.vae.config)
    return Components(
        unet=_fill(plan.unet, unet, path),
        vae=_fill(plan.vae, vae, path),
        text_encoder=_load_text_encoder(file, family, dtype),
        tokenizer=build_clip_tokenizer() if family == "sd1" else build_clip_tokenizer(pad_token="!"),
        family=family,
        prediction=plan.prediction,
        alphas_cumprod=plan.alphas_cumprod,
        name=path.stem,
        native_size=plan.vae.config.sample_size,
        file=path,
    )


_PARAMETERIZATIONS: dict[str, Prediction] = {"eps": "eps", "v": "v"}  # LDM knows x0 too; we do not


@dataclass(frozen=True)
class _Plan:
    """What the `.yaml` says; the modules are still without weights."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    prediction: Prediction
    alphas_cumprod: torch.Tensor


def _plan_of(file: _Checkpoint, family: Family, prediction: Prediction | None) -> _Plan:
    """From the `.yaml` beside the file, or else from the shapes of its tensors."""
    beside = file.path.with_suffix(".yaml")
    described = beside.is_file()
    try:
        config = yaml.safe_load(beside.read_text(encoding="utf-8")) if described else ldm_config(file.shapes)
        params = config["model"]["params"]
        if prediction is None:
            # A .yaml that does not name the parameterization means eps, as in LDM.
            said = params.get("parameterization", "eps") if described else _hinted_prediction(file, family)
            prediction = _PARAMETERIZATIONS[said]
        side = params["image_size"]
        if (family, prediction, side) == ("sd2", "v", 64):
            side = 96  # Stability's own .yaml says 64 of the model they trained at 768 pixels
        # Without a state dict: diffusers would only guess the image size from it, which we know.
        unet = create_unet_diffusers_config_from_ldm(config, {}) | {"sample_size": side}
        vae = create_vae_diffusers_config_from_ldm(config, {})
        vae["sample_size"] = side * _pixels_per_latent(vae)
        # What LDM calls linear is linear in the square root of beta.
        start, end, zero_snr = params["linear_start"], params["linear_end"], "ztsnr" in file.shapes
        alphas_cumprod = _alphas_cumprod(start, end, "scaled_linear", zero_snr)
        with init_empty_weights():
            return _Plan(UNet2DConditionModel(**unet), AutoencoderKL(**vae), prediction, alphas_cumprod)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, yaml.YAMLError) as error:
        culprit = beside if described else file.path
        raise BadInput(f"{culprit} does not describe a model of SD1.x or SD2.x ({error!r}).") from error


def _hinted_prediction(file: _Checkpoint, family: Family) -> Prediction:
    """By the metadata of the modelspec standard, or the mark ``v_pred`` that merges carry as a key."""
    hint = file.metadata.get("modelspec.prediction_type", "v" if "v_pred" in file.shapes else None)
    if hint is not None:
        return "v" if hint.startswith("v") else "eps"
    if family == "sd1":
        return "eps"
    log.warning(
        "%s does not say whether it predicts eps or v: taking v, right for SD 2.1 (768 pixels). "
        "For an eps model such as SD 2.1 base, put its .yaml beside it or name the prediction.",
        file.path.name,
    )
    return "v"


def _load_text_encoder(file: _Checkpoint, family: Family, dtype: torch.dtype) -> CLIPTextModel:
    try:
        if family == "sd1":
            state = convert_ldm_clip_checkpoint(file.state(CLIP, dtype))
        else:
            # The converter leaves out the last of ViT-H's 24 blocks: SD2 conditions on the one before.
            width = file.shapes[f"{OPEN_CLIP}ln_final.weight"][0]
            sized = SimpleNamespace(config=CLIPTextConfig(hidden_size=width))
            state = convert_open_clip_checkpoint(sized, file.state(OPEN_CLIP, dtype), prefix=OPEN_CLIP)
        tokens, width = state["text_model.embeddings.token_embedding.weight"].shape
        config = CLIPTextConfig(
            vocab_size=tokens,
            hidden_size=width,
            projection_dim=width,
            intermediate_size=len(state["text_model.encoder.layers.0.mlp.fc1.bias"]),
            num_hidden_layers=len({key.split(".")[3] for key in state if ".encoder.layers." in key}),
            num_attention_heads=int(file.metadata.get(CLIP_HEADS, width // 64)),
            max_position_embeddings=len(state["text_model.embeddings.position_embedding.weight"]),
            hidden_act="quick_gelu" if family == "sd1" else "gelu",
        )
        with init_empty_weights():
            text_encoder = CLIPTextModel(config)
    except (KeyError, ValueError, ZeroDivisionError) as error:
        raise BadInput(f"{file.path} holds no text encoder of SD1.x or SD2.x ({error!r}).") from error
    return _fill(text_encoder, state, file.path)


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
    prefixes = (UNET, VAE, CLIP, OPEN_CLIP)
    groups = Counter(key.split(".")[0] for key in file.shapes if not key.startswith(prefixes))
    if groups:
        listed = ", ".join(f"{name} ({count})" for name, count in groups.most_common(8))
        log.info("%s: ignored %d tensors: %s", file.path.name, groups.total(), listed)


# ---- diffusers folders, here or on a hub ----

_PARTS: dict[str, Any] = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
_PREDICTIONS: dict[str, Prediction] = {"epsilon": "eps", "v_prediction": "v"}


def _load_folder(folder: Path, dtype: torch.dtype, prediction: Prediction | None) -> Components:
    if not (folder / "model_index.json").is_file():
        raise BadInput(f"{folder} has no model_index.json; give a diffusers folder, or a single file.")
    names = {part: [path.name for path in (folder / part).glob("*.safetensors")] for part in _PARTS}
    for part, weights in names.items():
        if not weights:
            raise BadInput(
                f"{folder / part} holds no .safetensors weights, and pickled ones are not read; "
                f"convert the folder with diffusers: save_pretrained(folder, safe_serialization=True)."
            )
    half = all(".fp16." in name for weights in names.values() for name in weights)
    return _load_pretrained(str(folder), dtype, prediction, variant="fp16" if half else None)


def _load_pretrained(
    where: str, dtype: torch.dtype, prediction: Prediction | None, *, variant: str | None = None
) -> Components:
    """``where``: a folder, which is read without a network, or a hub id."""
    local = Path(where).is_dir()
    source: dict[str, Any] = {"pretrained_model_name_or_path": where, "local_files_only": local}
    try:
        _refuse_other_unets(where, UNet2DConditionModel.load_config(**source, subfolder="unet"))
        schedule = DDPMScheduler.load_config(**source, subfolder="scheduler")
        parts = {part: _load_part(part, source, variant).to(dtype) for part in _PARTS}
        return Components(
            **parts,
            tokenizer=CLIPTokenizer.from_pretrained(**source, subfolder="tokenizer"),
            # OpenAI's CLIP, of SD1, is the one CLIP with this activation.
            family="sd1" if parts["text_encoder"].config.hidden_act == "quick_gelu" else "sd2",
            prediction=prediction or _PREDICTIONS[schedule["prediction_type"]],
            alphas_cumprod=_alphas_cumprod(
                schedule["beta_start"],
                schedule["beta_end"],
                schedule["beta_schedule"],
                schedule.get("rescale_betas_zero_snr", False),
            ),
            name=Path(where).resolve().name if local else where,
            native_size=parts["unet"].config.sample_size * _pixels_per_latent(parts["vae"].config),
            file=None,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        problem = "is no complete diffusers folder" if local else "is not here, and no hub gave it"
        reason = str(error).strip().split("\n")[0]
        raise BadInput(f"{where} {problem}: {type(error).__name__}, {reason}") from error


def _load_part(part: str, source: Mapping[str, Any], variant: str | None) -> Any:
    model, report = _PARTS[part].from_pretrained(
        **source, subfolder=part, variant=variant, use_safetensors=True, output_loading_info=True
    )
    if report["missing_keys"]:
        raise KeyError(f"{part} lacks {', '.join(sorted(report['missing_keys'])[:3])}")
    return model.eval().requires_grad_(False)


def _refuse_other_unets(where: str, config: Mapping[str, Any]) -> None:
    kind = None
    if config.get("addition_embed_type") is not None:
        kind = "an SDXL model"
    elif config.get("class_embed_type") is not None:
        kind = "an unCLIP model"
    elif config["in_channels"] != 4:
        kind = _kind_by_channels(config["in_channels"])
    if kind is not None:
        raise BadInput(f"{where} is {kind}; a model of SD1.x or SD2.x is needed here.")


# ---- both ----


def _kind_by_channels(channels: int) -> str:
    kind = "an inpainting model" if channels == 9 else "a model"
    return f"{kind} with {channels} input channels instead of 4"


def _pixels_per_latent(vae_config: Mapping[str, Any]) -> int:
    return 2 ** (len(vae_config["block_out_channels"]) - 1)


def _alphas_cumprod(beta_start: float, beta_end: float, schedule: str, zero_snr: bool) -> torch.Tensor:
    """float32, (1000,)"""
    scheduler = DDPMScheduler(
        beta_start=beta_start, beta_end=beta_end, beta_schedule=schedule, rescale_betas_zero_snr=zero_snr
    )
    return scheduler.alphas_cumprod
