"""diffusers folders, here or on a hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, DiffusionPipeline, UNet2DConditionModel
from safetensors import SafetensorError
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from lib_ti.core.errors import BadInput
from lib_ti.formats.prediction import Evidence, settled
from lib_ti.formats.quantised import refuse_packed, refuse_scaled
from lib_ti.formats.streaming import open_tensors
from lib_ti.hosts.base import Prediction
from lib_ti.hosts.components import (
    KNOWN,
    Components,
    alphas_cumprod_of,
    kind_by_channels,
    pixels_per_latent,
    vae_dtype,
)
from lib_ti.hosts.descriptions import check_part, check_small_files
from lib_ti.networks.layers import family_of
from lib_ti.networks.names import PARTS

_PARTS: dict[str, Any] = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
_SDXL_PARTS: dict[str, Any] = {**_PARTS, "text_encoder_2": CLIPTextModelWithProjection}
_NO_SCALES = "are applied in checkpoints of one file alone: give one, or weights that are not quantised"


def load_folder(folder: Path, dtype: torch.dtype, prediction: Prediction | None) -> Components:
    """See ``load_components``."""
    if not (folder / "model_index.json").is_file():
        raise BadInput(f"{folder} has no model_index.json; give a diffusers folder, or a single file.")
    parts = [part for part in _SDXL_PARTS if (folder / part).is_dir()]
    names = {part: [path.name for path in (folder / part).glob("*.safetensors")] for part in parts}
    for part, weights in names.items():
        if not weights:
            raise BadInput(
                f"{folder / part} holds no .safetensors weights, and pickled ones are not read; "
                f"convert the folder with diffusers: save_pretrained(folder, safe_serialization=True)."
            )
        for name in weights:
            plan = open_tensors(folder / part / name).plan
            refuse_packed(folder / part / name, plan)
            refuse_scaled(folder / part / name, plan, _NO_SCALES)
    check_small_files(folder)
    for part in parts:
        check_part(folder / part, _SDXL_PARTS[part])
    half = all(".fp16." in name for weights in names.values() for name in weights)
    return load_pretrained(str(folder), dtype, prediction, variant="fp16" if half else None)


def load_pretrained(
    where: str, dtype: torch.dtype, prediction: Prediction | None, *, variant: str | None = None
) -> Components:
    """``where``: a folder, which is read without a network, or a hub id. See ``load_components``."""
    local = Path(where).is_dir()
    source: dict[str, Any] = {"pretrained_model_name_or_path": where, "local_files_only": local}
    try:
        sdxl = _is_sdxl(where, source)
        schedule = DDPMScheduler.load_config(**source, subfolder="scheduler")
        parts = {part: _load_part(part, source, variant) for part in (_SDXL_PARTS if sdxl else _PARTS)}
        living = [parts[part] for part in ("unet", "text_encoder", "text_encoder_2") if part in parts]
        family = family_of(dict(zip(PARTS["sdxl" if sdxl else "sd1"], living, strict=True)), where)
        evidence = Evidence(schedule["prediction_type"], "its scheduler_config.json")
        name = Path(where).resolve().name if local else where
        told = settled(name, family, [evidence], prediction)
        return Components(
            **{
                part: model.to(vae_dtype(family, dtype) if part == "vae" else dtype)
                for part, model in parts.items()
            },
            tokenizer=CLIPTokenizer.from_pretrained(**source, subfolder="tokenizer"),
            family=family,
            prediction=told.prediction,
            prediction_told=told.told,
            alphas_cumprod=alphas_cumprod_of(
                schedule["beta_start"],
                schedule["beta_end"],
                schedule["beta_schedule"],
                schedule.get("rescale_betas_zero_snr", False),
            ),
            name=name,
            native_size=parts["unet"].config.sample_size * pixels_per_latent(parts["vae"].config),
            file=None,
        )
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        problem = "is no complete diffusers folder" if local else "is not here, and no hub gave it"
        reason = str(error).strip().split("\n")[0]
        raise BadInput(f"{where} {problem}: {type(error).__name__}, {reason}") from error


def _load_part(part: str, source: Mapping[str, Any], variant: str | None) -> Any:
    where = source["pretrained_model_name_or_path"]
    if how := _quantisation(part, source):
        raise BadInput(
            f"{where}: its {part} is quantised by {how}; expected weights in float32, float16 or bfloat16: "
            "take the model that it was made from."
        )
    model, report = _SDXL_PARTS[part].from_pretrained(
        **source, subfolder=part, variant=variant, use_safetensors=True, output_loading_info=True
    )
    refuse_scaled(Path(where) / part, report["unexpected_keys"], _NO_SCALES)
    if report["missing_keys"]:
        raise KeyError(f"{part} lacks {', '.join(sorted(report['missing_keys'])[:3])}")
    return model.eval().requires_grad_(False)


def _quantisation(part: str, source: Mapping[str, Any]) -> str:
    """The method by which the part's description says that its weights are quantised; "": it says none."""
    if part.startswith("text_encoder"):
        config = CLIPTextConfig.from_pretrained(**source, subfolder=part).to_dict()
    else:
        config = _SDXL_PARTS[part].load_config(**source, subfolder=part)
    told = config.get("quantization_config")
    return str(told.get("quant_method", "an unknown method")) if isinstance(told, Mapping) else ""


def _is_sdxl(where: str, source: Mapping[str, Any]) -> bool:
    """Whether it is SDXL. Raises BadInput for what is none of the known families."""
    unet = UNet2DConditionModel.load_config(**source, subfolder="unet")
    _, first_encoder = DiffusionPipeline.load_config(**source).get("text_encoder") or (None, None)
    added = unet.get("addition_embed_type")
    kind = None
    if added not in (None, "text_time"):
        kind = f"a model that listens to more than text ({added})"
    elif added and first_encoder is None:
        kind = "the SDXL refiner"
    elif unet.get("class_embed_type") is not None:
        kind = "an unCLIP model"
    elif unet["in_channels"] != 4:
        kind = kind_by_channels(unet["in_channels"])
    if kind is not None:
        raise BadInput(f"{where} is {kind}; a model of {KNOWN} is needed here.")
    return added is not None
