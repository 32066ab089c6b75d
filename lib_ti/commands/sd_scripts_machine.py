"""sd-scripts' options of precision, memory and devices."""

from __future__ import annotations

from collections.abc import Mapping

from lib_ti.commands.sd_scripts_entry import (
    Entry,
    missing,
    needless,
    sets,
    switched,
)

_LEARNED_IN_FULL = "what is learned stays in full precision, which is more exact"
_HALF = ("fp16", "bf16")

_DEEPSPEED = "it does nothing without --deepspeed, there either"

MACHINE: Mapping[str, Entry] = {
    # What the machine cannot do of these is told when it trains: see sd_scripts_device.
    "mixed_precision": Entry(
        choices={"no": Entry(), **{name: sets({"--precision": name}) for name in _HALF}},
        instead="use no, fp16 or bf16",
    ),
    **{f"full_{name}": sets({"--precision": name}, told=_LEARNED_IN_FULL, switch=True) for name in _HALF},
    "no_half_vae": needless("the VAE is computed in full precision", switch=True),
    "fp8_base": needless("the model's weights stay in full precision, and take their memory", switch=True),
    "gradient_checkpointing": switched("--checkpointing"),
    "cpu_offload_checkpointing": needless(
        "what is computed again is kept nowhere; --gradient_checkpointing does that", switch=True
    ),
    # As there, of several the last of these.
    "sdpa": switched("--attention", "sdpa"),
    "xformers": switched("--attention", "xformers"),
    "mem_eff_attn": sets({"--attention": "sliced"}, told="it is taken one head after the other", switch=True),
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
    "deepspeed": missing(
        "one device is used; where its memory is short, --gradient_checkpointing makes do with less",
        switch=True,
    ),
    **dict.fromkeys(
        (
            "zero_stage",
            "offload_optimizer_device",
            "offload_optimizer_nvme_path",
            "offload_param_device",
            "offload_param_nvme_path",
        ),
        needless(_DEEPSPEED),
    ),
    **dict.fromkeys(
        ("zero3_init_flag", "zero3_save_16bit_model", "fp16_master_weights_and_gradients"),
        needless(_DEEPSPEED, switch=True),
    ),
    "fused_backward_pass": missing(
        "it is for training a whole model; here the optimizer keeps a few vectors or a network alone, which "
        "is small: leave it out",
        switch=True,
    ),
    **dict.fromkeys(
        ("ddp_gradient_as_bucket_view", "ddp_static_graph"), needless("one device is used", switch=True)
    ),
    "ddp_timeout": needless("one device is used"),
}
