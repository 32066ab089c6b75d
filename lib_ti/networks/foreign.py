"""What is no network for Stable Diffusion, or of no algorithm that is supported here, by its own name.

Sources of the keys: kohya-ss/sd-scripts networks/oft.py, LyCORIS lycoris/modules, huggingface/peft
src/peft/tuners, OneTrainer modules/module/LoRAModule.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

SUPPORTED = "LoRA (LoCon, DyLoRA), LoHa, LoKr, (IA)3, full and norm, each with DoRA"

# How a key ends or what it holds -> the algorithm.
_ALGORITHMS: Sequence[tuple[str, str]] = (
    (r"(^|[._])oft_unet_|(^|[._])oft_te\d?_", "OFT (sd-scripts)"),
    (r"(^|\.)(oft_blocks|oft_diag)$", "diag-OFT or BOFT (LyCORIS)"),
    (r"(^|\.)boft_[Rs](\.|$)", "BOFT (PEFT)"),
    (r"(^|\.)oft_[rR](\.|$)", "OFT (PEFT, OneTrainer)"),
    (r"(^|\.)(a1|a2|b1|b2|bm)\.weight$", "GLoRA"),
    (r"(^|\.)vera_(A|B|lambda_[bd])(\.|$)", "VeRA"),
    (r"(^|\.)ia3_l(\.|$)", "(IA)3 as PEFT writes it"),
    (r"(^|\.)lora_E(\.|$)", "AdaLoRA"),
    (r"(^|\.)(hra_u)(\.|$)", "HRA"),
    (r"(^|\.)(bone_|miss_)\w*(\.|$)", "MiSS (Bone)"),
    (r"(^|\.)fourierft_spectrum(\.|$)", "FourierFT"),
    (r"(^|\.)randlora_\w+(\.|$)", "RandLoRA"),
    (r"(^|\.)vblora_\w+(\.|$)", "VB-LoRA"),
    (r"(^|\.)delora_\w+(\.|$)", "DeLoRA"),
    (r"(^|\.)c3a_kernel(\.|$)", "C3A"),
    (r"(^|\.)shira_\w+(\.|$)", "SHiRA"),
    (r"(^|\.)road_\w+(\.|$)", "RoAd"),
)
_COMPILED = tuple((re.compile(pattern), name) for pattern, name in _ALGORITHMS)


def algorithm_of(keys: Iterable[str]) -> str | None:
    """Which unsupported algorithm one of ``keys``, whole or what follows a layer's name, belongs to."""
    keys = list(keys)
    return next((name for pattern, name in _COMPILED if any(map(pattern.search, keys))), None)
