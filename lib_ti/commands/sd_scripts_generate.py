"""sd-scripts' ``gen_img.py``: a line of it as one of ``ti-studio generate``, its networks as tags.

Source of the options: kohya-ss/sd-scripts, gen_img_diffusers.py, sdxl_gen_img.py and gen_img.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lib_ti.core.errors import BadInput
from lib_ti.data.sd_scripts_prompts import read_prompt
from lib_ti.networks.prompt_files import NetworkFolders

# Its option, or what a prompt's flag says -> ours.
_OURS = {
    "ckpt": "--model",
    "outdir": "--out",
    "clip_skip": "--clip-skip",
    "images_per_prompt": "--count",
    "W": "--width",
    "H": "--height",
    "seed": "--seed",
    "steps": "--steps",
    "scale": "--cfg",
    "negative_prompt": "--negative",
    "width": "--width",
    "height": "--height",
    "sample_steps": "--steps",
}
_DEFAULTS = {"--count": "1", "--steps": "50", "--cfg": "7.5"}  # as there
_ONE_LINE = (
    "draw one prompt at a time, "
    'ti-studio generate "a cat <net:NAME:0.8>" --networks FOLDER --model CHECKPOINT'
)
_SWITCHES = (
    *("v2", "v_parameterization", "sdxl", "fp16", "bf16", "xformers", "sdpa", "no_half_vae"),
    *("network_merge", "network_pre_calc", "network_show_meta"),
)
_ALONE = (
    *("ckpt", "outdir", "prompt", "W", "H", "steps", "scale", "seed", "images_per_prompt", "clip_skip"),
    *("batch_size", "vae_batch_size", "sampler", "max_embeddings_multiples", "from_file"),
)
_SEVERAL = ("network_module", "network_weights", "network_mul", "textual_inversion_embeddings")

OPTIONS = (*_ALONE, *_SEVERAL, *_SWITCHES, "interactive")
VALUES: Mapping[str, str | int] = {
    **dict.fromkeys((*_SWITCHES, "interactive"), 0),
    **dict.fromkeys(_SEVERAL, "+"),
}
TOLD = {
    **dict.fromkeys(("v2", "v_parameterization", "sdxl"), "the checkpoint says what it is"),
    **dict.fromkeys(("fp16", "bf16", "no_half_vae"), "the model is computed with as it is stored"),
    **dict.fromkeys(("xformers", "sdpa"), "attention is PyTorch's own, which needs as little memory"),
    **dict.fromkeys(("batch_size", "vae_batch_size"), "pictures are drawn one by one"),
    **dict.fromkeys(("network_merge", "network_pre_calc"), "networks are added while the model computes"),
    "network_show_meta": "ti-studio lora inspect shows it",
    "network_module": "the file says what kind of network it is",
    "sampler": "pictures are drawn by one sampler, so the same seed gives another picture",
    "max_embeddings_multiples": "prompts of any length are read",
}
REFUSED = {"from_file": _ONE_LINE, "interactive": _ONE_LINE}


def generate_words(given: Mapping[str, list[str]]) -> list[str]:
    """The given options as words of ours. Raises BadInput."""
    prompt = read_prompt(given["prompt"][0])
    if prompt.others:
        raise BadInput(f"--prompt: {prompt.others[0]} in it is not to be had here; leave it out.")
    files = [Path(file).expanduser() for file in given.get("network_weights", [])]
    folders = list(dict.fromkeys(file.parent for file in files))
    tags = _tags(files, folders, given.get("network_mul", []))
    told = {option: values[0] for option, values in given.items() if option in _OURS}
    ours = {**_DEFAULTS, **{_OURS[name]: value for name, value in {**told, **prompt.said}.items()}}
    return [
        *("generate", " ".join([prompt.text, *tags])),
        *(word for folder in folders for word in ("--networks", str(folder))),
        *(word for file in given.get("textual_inversion_embeddings", []) for word in ("--embedding", file)),
        # With a sign of its own, for a negative prompt may begin with a dash.
        *(f"{flag}={value}" for flag, value in ours.items()),
    ]


def _tags(files: list[Path], folders: list[Path], multipliers: list[str]) -> list[str]:
    """What calls each of the files in a prompt, by its name."""
    tags = []
    for place, file in enumerate(files):
        if ":" in file.stem or NetworkFolders(folders).find(file.stem).resolve() != file.resolve():
            raise BadInput(
                f"--network_weights {file}: no prompt can call it by its name, {file.stem}, because of a "
                "colon or of another file of that name; rename it."
            )
        multiplier = multipliers[place] if place < len(multipliers) else "1"
        tags.append(f"<net:{file.stem}:{multiplier}>")
    return tags
