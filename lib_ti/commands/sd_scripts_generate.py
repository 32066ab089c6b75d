"""sd-scripts' ``gen_img.py``: a line of it as one of ``ti-studio generate``, its networks as tags.

Source of the options: kohya-ss/sd-scripts, gen_img_diffusers.py, sdxl_gen_img.py and gen_img.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lib_ti.commands.sd_scripts_entry import number
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
    *("v1", "v2", "v_parameterization", "sdxl", "fp16", "bf16", "xformers", "diffusers_xformers", "sdpa"),
    *("no_half_vae", "opt_channels_last", "network_merge", "network_pre_calc", "network_show_meta"),
    *("no_preview", "sequential_file_name", "use_original_file_name", "iter_same_seed", "shuffle_prompts"),
    *("console_log_simple", "force_scheduler_zero_steps_offset"),
)
_ALONE = (
    *("ckpt", "outdir", "prompt", "W", "H", "steps", "scale", "seed", "images_per_prompt", "clip_skip"),
    *("batch_size", "vae_batch_size", "vae_slices", "sampler", "max_embeddings_multiples", "n_iter"),
    *("network_merge_n_models", "tokenizer_cache_dir", "console_log_level", "console_log_file"),
)
_SEVERAL = (
    "network_module",
    "network_weights",
    "network_mul",
    "network_args",
    "textual_inversion_embeddings",
)

_LOGGED = "what there is to say goes to standard error"
_ADDED = "networks are added while the model computes"
TOLD = {
    **dict.fromkeys(("v1", "v2", "sdxl"), "the widths of the checkpoint say what it is"),
    **dict.fromkeys(("fp16", "bf16", "no_half_vae"), "the model is computed with as it is stored"),
    **dict.fromkeys(
        ("xformers", "diffusers_xformers", "sdpa", "opt_channels_last"),
        "attention is PyTorch's own, which needs as little memory",
    ),
    **dict.fromkeys(("batch_size", "vae_batch_size", "vae_slices"), "pictures are drawn one by one"),
    **dict.fromkeys(("network_merge", "network_pre_calc", "network_merge_n_models"), _ADDED),
    "network_show_meta": "ti-studio lora inspect shows it",
    **dict.fromkeys(("network_module", "network_args"), "the file says what kind of network it is"),
    **dict.fromkeys(
        ("sampler", "force_scheduler_zero_steps_offset"),
        "pictures are drawn by one sampler, so the same seed gives another picture",
    ),
    "max_embeddings_multiples": "prompts of any length are read",
    "no_preview": "nothing is shown while pictures are drawn",
    **dict.fromkeys(
        ("sequential_file_name", "use_original_file_name"), "files are called by the names in the answer"
    ),
    "iter_same_seed": "one prompt is drawn, each picture of it with a seed of its own",
    "shuffle_prompts": "one prompt is drawn",
    "tokenizer_cache_dir": "the tokenizer is built in",
    **dict.fromkeys(("console_log_level", "console_log_file", "console_log_simple"), _LOGGED),
}

_FROM_PICTURE = "pictures are drawn from noise alone; img2img and inpainting are the WebUI's"
_TWO_PASSES = "pictures are drawn in one pass, at --W and --H; Hires. fix is the WebUI's"
_CONTROL = "no ControlNet is read; it is an extension of the WebUI"
_GUIDED = "nothing but prompts guides a picture"
_NOISE = "the noise is drawn as it is; a network or word that was trained with other noise needs none here"
_SIZES = "SDXL is told the size that is drawn, and no crop; leave it out, or set --W and --H"
_REFUSED_SEVERAL = {
    "guide_image_path": _GUIDED,
    **dict.fromkeys([f"control_net_lllite_{name}" for name in ("models",)], _CONTROL),
    **dict.fromkeys(
        [f"control_net_{name}" for name in ("models", "preps", "weights", "multipliers", "ratios")], _CONTROL
    ),
}
_REFUSED_ALONE = {
    "from_file": _ONE_LINE,
    "vae": "the checkpoint's own is used; bake the other one into it, as the WebUI's checkpoint merger does",
    **dict.fromkeys(("image_path", "mask_path", "strength"), _FROM_PICTURE),
    **dict.fromkeys(
        [f"original_{side}{negative}" for side in ("height", "width") for negative in ("", "_negative")],
        _SIZES,
    ),
    **dict.fromkeys(("crop_top", "crop_left"), _SIZES),
    **dict.fromkeys(
        [f"highres_fix_{name}" for name in ("scale", "steps", "strength", "upscaler")], _TWO_PASSES
    ),
    **dict.fromkeys(
        [
            f"gradual_latent_{name}"
            for name in ("timesteps", "ratio", "ratio_step", "every_n_steps", "s_noise", "unsharp_params")
        ],
        _TWO_PASSES,
    ),
    **dict.fromkeys(
        ("ds_depth_1", "ds_timesteps_1", "ds_depth_2", "ds_timesteps_2", "ds_ratio"), _TWO_PASSES
    ),
    **dict.fromkeys(("pyramid_noise_prob", "noise_offset_prob"), _NOISE),
    **dict.fromkeys(("clip_guidance_scale", "clip_image_guidance_scale", "clip_vision_strength"), _GUIDED),
    **dict.fromkeys(("vgg16_guidance_scale", "vgg16_guidance_layer"), _GUIDED),
    "highres_fix_upscaler_args": _TWO_PASSES,
    "prompter_module_args": "code of one's own is not run; write the prompt into --prompt",
    "from_module": "code of one's own is not run; write the prompt into --prompt",
    "negative_scale": "the negative prompt has the scale of the prompt; set --scale",
    "emb_normalize_mode": "emphasis in brackets is read as the WebUI reads it; write other weights",
    "network_regional_mask_max_color_codes": "a network acts on the whole picture; see ti-studio generate "
    "for blocks and steps that it acts on",
}
_REFUSED_SEVERAL |= {
    **dict.fromkeys(("pyramid_noise_discount_range", "noise_offset_range"), _NOISE),
    "XTI_embeddings": "an embedding has the same vectors for every layer; give one of those that do",
}
_REFUSED_SWITCHES = {
    "interactive": _ONE_LINE,
    "zero_terminal_snr": "the noise levels are those that the checkpoint was made with",
    **dict.fromkeys(
        [f"highres_fix_{name}" for name in ("save_1st", "latents_upscaling", "disable_control_net")],
        _TWO_PASSES,
    ),
}
REFUSED = {**_REFUSED_SEVERAL, **_REFUSED_ALONE, **_REFUSED_SWITCHES}
OPTIONS = (*_ALONE, *_SEVERAL, *_SWITCHES, *REFUSED)
VALUES: Mapping[str, str | int] = {
    **dict.fromkeys((*_SWITCHES, *_REFUSED_SWITCHES), 0),
    **dict.fromkeys((*_SEVERAL, *_REFUSED_SEVERAL), "+"),
}


def generate_words(given: Mapping[str, list[str]]) -> list[str]:
    """The given options as words of ours. Raises BadInput."""
    prompt = read_prompt(given["prompt"][0])
    if prompt.others:
        raise BadInput(f"--prompt: {prompt.others[0]} in it is not to be had here; leave it out.")
    files = [Path(file).expanduser() for file in given.get("network_weights", [])]
    folders = list(dict.fromkeys(file.parent for file in files))
    tags = _tags(files, folders, given.get("network_mul", []))
    predicts = {"--prediction": "v" if "v_parameterization" in given else "eps"}
    told = {option: values[0] for option, values in given.items() if option in (*_OURS, "n_iter")}
    if "n_iter" in told:
        times, each = (int(number(name, told.get(name, "1"))) for name in ("n_iter", "images_per_prompt"))
        told = {**told, "images_per_prompt": str(times * each)}
    ours = {
        **_DEFAULTS,
        **predicts,
        **{_OURS[name]: value for name, value in {**told, **prompt.said}.items() if name in _OURS},
    }
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
