"""What is no embedding for Stable Diffusion, by its own name."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

_KINDS = (
    (
        r"^((IN|OUT)\d\d|MID)$",
        "an extended textual inversion (XTI), with vectors for each layer of the U-Net",
    ),
    (r"[._](lora[._](up|down|A|B)|hada_w|lokr_w|oft_|alpha$)", "a LoRA without an embedding in it"),
    (r"(model\.diffusion_model|first_stage_model|cond_stage_model)\.|state_dict$", "a checkpoint"),
    (r"(down_blocks|text_model|encoder|decoder)\.", "a part of a diffusers model"),
)
# Text encoders of other models, as embedding files call them: t5, t5xxl, t5_out.
_ENCODER = re.compile(r"(?:(?:um|by)?t5|llama|gemma|qwen|mistral|chatglm|llm)[\d._v]*(?:_?xx?l)?(?:_out)?")


def kind_of(keys: Iterable[str]) -> str | None:
    """What kind of file other than an embedding's has such keys, with its article."""
    keys = list(keys)
    return next((kind for pattern, kind in _KINDS if any(re.search(pattern, key) for key in keys)), None)


def is_foreign(key: str) -> bool:
    """Whether a tensor is named after a text encoder that no Stable Diffusion 1.x, 2.x or XL has."""
    return _ENCODER.fullmatch(key) is not None


def model_of(keys: Collection[str]) -> str | None:
    """The model of an embedding with such tensors; None where no text encoder of another model is named."""
    foreign = " ".join(filter(is_foreign, keys))
    if not foreign:
        return None
    if "llama" in foreign:
        return "HiDream" if "clip_g" in keys else "Hunyuan Video"
    if "umt5" in foreign:
        return "Wan"
    if "t5" in foreign:
        alone = "Flux" if "clip_l" in keys else "a model that reads with T5, such as SD3 or Flux"
        return "SD3" if "clip_g" in keys else alone
    return "a model with another text encoder"
