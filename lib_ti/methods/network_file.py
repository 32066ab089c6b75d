"""What the file of a trained network says of itself: sd-scripts' ss_ keys, and our own."""

from __future__ import annotations

import json
import time

from lib_ti.core.schedule import learning_rate_of
from lib_ti.data.samples import TrainingSet
from lib_ti.hosts.base import Host
from lib_ti.methods.network_settings import DyLoraSettings, NetworkSettings
from lib_ti.methods.picture_metadata import picture_metadata
from lib_ti.networks.files import network_metadata


def metadata_of(
    host: Host, settings: NetworkSettings, samples: TrainingSet, step: int, job: str, started: float
) -> dict[str, str]:
    """After so many steps of the job of this id, which began at the time ``started``."""
    info = host.info
    by_block = settings.dim_from_weights or settings.block_dims or settings.block_alphas
    usual = network_metadata(
        info.family,
        prediction=info.prediction,
        dim="Dynamic" if by_block else settings.rank,
        alpha="Dynamic" if by_block else settings.alpha or settings.rank,
        args=network_args(settings),
        title=settings.name,
        module="networks.dylora" if settings.rank_unit else "networks.lora",
    )
    of_pictures = picture_metadata(samples) if settings.picture_metadata else {}
    return (
        usual
        | of_pictures
        | _lengths(samples, step)
        | _rates(settings)
        | {
            "job": job,
            "settings": json.dumps(settings.for_others, ensure_ascii=False, sort_keys=True),
            "modelspec.date": time.strftime("%Y-%m-%dT%H:%M:%S"),
            "ss_session_id": job,
            "ss_training_started_at": str(started),
            "ss_training_finished_at": str(time.time()),
            "ss_training_comment": "",
            "ss_resolution": _resolution(samples, info.native_size),
            "ss_sd_model_name": info.name,
            "ss_new_sd_model_hash": info.sha256,
            "ss_network_dropout": str(settings.dropout),
            "ss_optimizer": settings.optimizer,
            "ss_lr_scheduler": settings.scheduler or settings.decay,
            "ss_seed": str(settings.seed),
            "ss_clip_skip": str(settings.clip_skip or None),
            "ss_min_snr_gamma": str(settings.min_snr_gamma if settings.weighting == "min-snr" else None),
            "ss_noise_offset": str(settings.noise_offset or None),
        }
        | settings.metadata
    )


def _rates(settings: NetworkSettings) -> dict[str, str]:
    """As they are before warm-up and decay."""
    rate = learning_rate_of(settings).base
    return {
        "ss_learning_rate": str(rate),
        "ss_unet_lr": str(rate * settings.unet_rate),
        "ss_text_encoder_lr": str(rate * settings.text_rate),
    }


def _lengths(samples: TrainingSet, step: int) -> dict[str, str]:
    settings = samples.settings  # with the batch size of a data set file
    whole = settings.batch_size * settings.accumulation
    return {
        "ss_max_train_steps": str(settings.steps),
        "ss_steps": str(step),
        "ss_num_epochs": str(-(-settings.steps // samples.steps_of_epoch)),
        "ss_epoch": str(-(-step // samples.steps_of_epoch)),
        "ss_num_batches_per_epoch": str(samples.steps_of_epoch * settings.accumulation),
        "ss_batch_size_per_device": str(settings.batch_size),
        "ss_gradient_accumulation_steps": str(settings.accumulation),
        "ss_total_batch_size": str(whole),
    }


def _resolution(samples: TrainingSet, native: int) -> str:
    """As sd-scripts writes it: (512, 768); of several the first folder's."""
    bucketing = samples.subsets[0].bucketing
    return f"({bucketing.width or native}, {bucketing.height or native})"


def network_args(settings: NetworkSettings) -> dict[str, str]:
    """The settings that sd-scripts takes as network_args, by its names."""
    told: dict[str, object] = {}
    if settings.conv_rank:
        told |= {"conv_dim": settings.conv_rank, "conv_alpha": settings.conv_alpha or settings.conv_rank}
    if isinstance(settings, DyLoraSettings):
        told["unit"] = settings.unit
    names = ("block_dims", "block_alphas", "conv_block_dims", "conv_block_alphas")
    weights = ("down_lr_weight", "mid_lr_weight", "up_lr_weight", "block_lr_zero_threshold")
    for name in (*names, *weights, "rank_dropout", "module_dropout"):
        told |= {name: value} if (value := getattr(settings, name)) else {}
    told |= {"loraplus_lr_ratio": settings.up_rate} if settings.up_rate != 1 else {}
    for part, ratio in (("unet", settings.unet_up_rate), ("text_encoder", settings.text_up_rate)):
        told |= {f"loraplus_{part}_lr_ratio": ratio} if ratio else {}
    return {name: str(value) for name, value in told.items()}
