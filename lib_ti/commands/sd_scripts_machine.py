"""sd-scripts' options of precision, memory and devices."""

from __future__ import annotations

from collections.abc import Mapping

from lib_ti.commands.sd_scripts_entry import (
    Entry,
    missing,
    needless,
    switched,
)

_IN_FULL = "everything is computed in full precision"
_ATTENTION = "attention is PyTorch's own, which needs as little memory"

MACHINE: Mapping[str, Entry] = {
    "mixed_precision": Entry(told=_IN_FULL, choices={"no": Entry()}),
    **dict.fromkeys(("full_fp16", "full_bf16", "no_half_vae", "fp8_base"), needless(_IN_FULL, switch=True)),
    "gradient_checkpointing": switched("--checkpointing"),
    "cpu_offload_checkpointing": needless(
        "what is computed again is kept nowhere; --gradient_checkpointing does that", switch=True
    ),
    **dict.fromkeys(("xformers", "sdpa", "mem_eff_attn"), needless(_ATTENTION, switch=True)),
    **dict.fromkeys(
        ("cache_text_encoder_outputs", "cache_text_encoder_outputs_to_disk"),
        needless("prompts are encoded at every step, for their vectors change", switch=True),
    ),
    **dict.fromkeys(
        ("lowram", "highvram", "disable_mmap_load_safetensors"),
        needless("memory is used as there is need", switch=True),
    ),
    "torch_compile": needless("nothing is compiled", switch=True),
    "dynamo_backend": needless("nothing is compiled"),
    "deepspeed": missing("train on one device", switch=True),
    **dict.fromkeys(
        ("ddp_gradient_as_bucket_view", "ddp_static_graph"), needless("one device is used", switch=True)
    ),
    "ddp_timeout": needless("one device is used"),
}
