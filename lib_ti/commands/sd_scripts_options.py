"""The options of sd-scripts' textual inversion, and what becomes of each in ``ti-studio train``.

Source of the options: kohya-ss/sd-scripts, train_textual_inversion.py and sdxl_train_textual_inversion.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lib_ti.core.errors import BadInput
from lib_ti.data.sd_scripts_prompts import read_prompts

Ours = Mapping[str, str]  # options of ti-studio train; a switch has an empty value


@dataclass(frozen=True)
class Entry:
    """What becomes of one option: options of ours, something to say, or a refusal."""

    ours: Callable[[str], Ours] = lambda value: {}
    told: str = ""
    instead: str = ""  # what to do about it: it is refused
    choices: Mapping[str, Entry] = field(default_factory=dict)  # a value in lower case -> what becomes of it
    switch: bool = False  # takes no value
    several: bool = False  # takes any number of values; each is a line of the value

    def of(self, value: str) -> Entry:
        return self.choices.get(value.lower(), self)


def becomes(flag: str, *, several: bool = False) -> Entry:
    return Entry(lambda value: {flag: value}, several=several)


def sets(ours: Ours, *, told: str = "", switch: bool = False) -> Entry:
    return Entry(lambda _: ours, told=told, switch=switch)


def switched(flag: str, value: str = "") -> Entry:
    return sets({flag: value}, switch=True)


def needless(told: str, *, switch: bool = False) -> Entry:
    return Entry(told=told, switch=switch)


def only(*values: str, instead: str) -> Entry:
    return Entry(choices=dict.fromkeys(values, Entry()), instead=instead)


def missing(instead: str, *, switch: bool = False, several: bool = False) -> Entry:
    return Entry(instead=instead, switch=switch, several=several)


def _size(resolution: str) -> Ours:
    """``512`` or ``512,768``: width and height."""
    found = re.fullmatch(r"(\d+)(?:\s*,\s*(\d+))?", resolution.strip())
    if found is None:
        raise BadInput(f"--resolution={resolution}: expected a number of pixels, or width,height.")
    return {"--width": found[1], "--height": found[2] or found[1]}


def _warmup(text: str) -> Ours:
    """Steps, or a share of them: below 1, or in percent."""
    given = _number("lr_warmup_steps", text.removesuffix("%"))
    if text.endswith("%"):
        return {"--warmup": str(given / 100)}
    return {"--warmup": str(int(given) if given.is_integer() else given)}


def _largest_norm(text: str) -> Ours:
    return {"--clip": "norm", "--clip-at": text} if _number("max_grad_norm", text) else {"--clip": "none"}


def _number(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadInput(f"--{option}={text}: expected a number.") from None


_FEW = "of a few vectors 8 bits and pages save nothing"
_IN_FULL = "everything is computed in full precision"
_ATTENTION = "attention is PyTorch's own, which needs as little memory"
_LOADING = "nothing is loaded during the steps"
_LOSSES = "losses are in the job's folder, loss.csv and loss.png"
_STAGES = "write the stages into the rate, such as --learning_rate=0.005:500,0.001"
_ADAPTIVE = ("DAdaptAdaGrad", "DAdaptAdam", "DAdaptAdan", "DAdaptLion", "DAdaptSGD")

_MODEL: Mapping[str, Entry] = {
    "pretrained_model_name_or_path": becomes("--model"),
    "v2": needless("the checkpoint, or the .yaml beside it, says what it is", switch=True),
    "v_parameterization": needless(
        "the checkpoint, or the .yaml beside it, says what it predicts", switch=True
    ),
    "clip_skip": becomes("--clip-skip"),
    "max_token_length": needless("prompts of any length are read"),
    "tokenizer_cache_dir": needless("the tokenizer is built in"),
    "vae": missing("bake it into the checkpoint"),
}
EMBEDDING: Mapping[str, Entry] = {
    "token_string": becomes("--name"),
    "init_word": Entry(lambda word: {"--init": "text", "--init-text": word}),
    "num_vectors_per_token": becomes("--vectors"),
    "weights": becomes("--weights"),
}
_PICTURES: Mapping[str, Entry] = {
    "dataset_config": becomes("--dataset-config"),
    "train_data_dir": becomes("--images"),
    "reg_data_dir": becomes("--reg-images"),
    "prior_loss_weight": becomes("--prior-weight"),
    "in_json": missing("write a .txt file beside each picture"),
    "dataset_class": missing("leave it out"),
    "dataset_repeats": missing("write the repeats into the folder's name, such as 10_mychar"),
    "resolution": Entry(_size),
    "enable_bucket": sets(
        {"--buckets": "", "--bucket-min": "256", "--bucket-max": "1024", "--bucket-step": "64"}, switch=True
    ),
    "min_bucket_reso": becomes("--bucket-min"),
    "max_bucket_reso": becomes("--bucket-max"),
    "bucket_reso_steps": becomes("--bucket-step"),
    "bucket_no_upscale": switched("--no-bucket-enlarge"),
    "flip_aug": switched("--flip"),
    "random_crop": sets(
        {"--random-crops": "4"}, told="each picture is cut at four places, once for all", switch=True
    ),
    "color_aug": missing("leave it out, since pictures are encoded once, with their colours", switch=True),
    "face_crop_aug_range": missing("leave it out, or use --random_crop"),
    "resize_interpolation": Entry(
        becomes("--resize").ours,
        choices={
            "linear": sets({"--resize": "bilinear"}),
            "cubic": sets({"--resize": "bicubic"}),
            "area": sets({"--resize": "box"}),
        },
    ),
    "alpha_mask": switched("--alpha-mask"),
    "masked_loss": missing(
        "use --alpha_mask, or a mask cat_att.png beside cat.png, which needs no option", switch=True
    ),
    "conditioning_data_dir": missing("write a mask cat_att.png beside cat.png"),
    "cache_latents": needless("pictures are always encoded once", switch=True),
    "cache_latents_to_disk": needless("encoded pictures are always kept", switch=True),
    "skip_cache_check": needless("what is kept is checked in no time", switch=True),
    "vae_batch_size": needless("pictures are encoded one by one"),
    "max_data_loader_n_workers": needless(_LOADING),
    "persistent_data_loader_workers": needless(_LOADING, switch=True),
    # Without one of the two the captions are the prompts; with both that for objects goes first.
    "use_style_template": switched("--template", "style"),
    "use_object_template": switched("--template", "subject"),
    "caption_extension": becomes("--caption-extension"),
    "caption_extention": becomes("--caption-extension"),  # its older spelling
    "caption_prefix": becomes("--caption-prefix"),
    "caption_suffix": becomes("--caption-suffix"),
    "caption_separator": becomes("--caption-separator"),
    "secondary_separator": becomes("--second-separator"),
    "shuffle_caption": switched("--shuffle-tags"),
    "keep_tokens": becomes("--keep-tags"),
    "keep_tokens_separator": becomes("--keep-separator"),
    "enable_wildcard": switched("--wildcards"),
    "caption_dropout_rate": becomes("--drop-captions"),
    "caption_dropout_every_n_epochs": becomes("--drop-captions-every"),
    "caption_tag_dropout_rate": becomes("--drop-tags"),
    "token_warmup_min": missing("leave it out"),
    "token_warmup_step": missing("leave it out"),
    "weighted_captions": missing("leave it out", switch=True),
}
_LEARNING: Mapping[str, Entry] = {
    "max_train_steps": becomes("--steps"),
    "max_train_epochs": becomes("--epochs"),
    "train_batch_size": becomes("--batch-size"),
    "gradient_accumulation_steps": becomes("--accumulation"),
    "seed": becomes("--seed"),
    "learning_rate": becomes("--learning-rate"),
    "lr_scheduler": Entry(
        choices={
            **{name: sets({"--decay": name}) for name in ("constant", "linear", "cosine")},
            "constant_with_warmup": sets({"--decay": "constant"}),
            "cosine_with_restarts": sets({"--decay": "cosine-restarts"}),
            "polynomial": sets({"--decay": "polynomial", "--decay-power": "1"}),
        },
        instead=f"use constant, linear, cosine, cosine_with_restarts or polynomial, or {_STAGES}",
    ),
    "lr_warmup_steps": Entry(_warmup),
    "lr_scheduler_num_cycles": becomes("--decay-cycles"),
    "lr_scheduler_power": becomes("--decay-power"),
    "lr_scheduler_type": missing("use --lr_scheduler"),
    "lr_scheduler_args": missing("use --lr_scheduler", several=True),
    "lr_scheduler_timescale": missing(_STAGES),
    "lr_scheduler_min_lr_ratio": missing(_STAGES),
    "lr_decay_steps": missing(_STAGES),
    "optimizer_type": Entry(
        becomes("--optimizer").ours,
        choices={
            **dict.fromkeys(
                ("adamw8bit", "pagedadamw", "pagedadamw8bit", "pagedadamw32bit"),
                sets({"--optimizer": "AdamW"}, told=f"AdamW it is: {_FEW}"),
            ),
            **dict.fromkeys(
                ("lion8bit", "pagedlion8bit"), sets({"--optimizer": "Lion"}, told=f"Lion it is: {_FEW}")
            ),
            **{name.lower(): sets({"--optimizer": f"dadaptation.{name}"}) for name in _ADAPTIVE},
            **{
                name.lower(): sets({"--optimizer": f"schedulefree.{name}"})
                for name in ("RAdamScheduleFree", "SGDScheduleFree")
            },
            "dadaptation": missing("use DAdaptAdam"),
            "sgdnesterov": missing("use torch.optim.SGD with --optimizer_args momentum=0.9 nesterov=True"),
            "adafactor": sets(
                {"--optimizer": "Adafactor"},
                told="its rate is that of --learning_rate, as relative_step=False",
            ),
        },
    ),
    "use_8bit_adam": sets({"--optimizer": "AdamW"}, told=f"AdamW it is: {_FEW}", switch=True),
    "use_lion_optimizer": switched("--optimizer", "Lion"),
    "optimizer_args": Entry(lambda lines: {"--optimizer-args": " ".join(lines.splitlines())}, several=True),
    "max_grad_norm": Entry(_largest_norm),
    "loss_type": Entry(
        choices={
            **{name: sets({"--loss": name}) for name in ("l2", "l1", "huber")},
            "smooth_l1": sets({"--loss": "smooth-l1"}),
        },
        instead="use l2, l1, huber or smooth_l1",
    ),
    "huber_schedule": becomes("--huber-schedule"),
    "huber_c": becomes("--huber-c"),
    "huber_scale": only("1", "1.0", instead="set the threshold itself, --huber_c"),
    "min_snr_gamma": Entry(lambda gamma: {"--weighting": "min-snr", "--min-snr-gamma": gamma}),
    "debiased_estimation_loss": switched("--weighting", "debiased"),
    "scale_v_pred_loss_like_noise_pred": missing("use --min_snr_gamma", switch=True),
    "v_pred_like_loss": missing("use --debiased_estimation_loss"),
    "noise_offset": becomes("--noise-offset"),
    "noise_offset_random_strength": missing("leave it out; --noise_offset is constant", switch=True),
    "adaptive_noise_scale": missing("leave it out; --noise_offset is constant"),
    "multires_noise_iterations": becomes("--multires-iterations"),
    "multires_noise_discount": becomes("--multires-discount"),
    "ip_noise_gamma": becomes("--input-perturbation"),
    "ip_noise_gamma_random_strength": missing("leave it out; --ip_noise_gamma is constant", switch=True),
    "zero_terminal_snr": switched("--zero-terminal-snr"),
    "min_timestep": becomes("--min-timestep"),
    "max_timestep": becomes("--max-timestep"),
}
_MACHINE: Mapping[str, Entry] = {
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
_SAVING: Mapping[str, Entry] = {
    "output_dir": becomes("--data"),
    "output_name": Entry(),
    "save_model_as": only("safetensors", "pt", instead="use safetensors or pt"),
    "save_precision": needless("the vectors are saved in float32, they are small"),
    "save_every_n_steps": becomes("--copy-every"),
    "save_every_n_epochs": becomes("--copy-every-epochs"),
    "save_n_epoch_ratio": missing("use --save_every_n_epochs"),
    "save_last_n_epochs": becomes("--keep-last"),
    "save_last_n_steps": Entry(),  # see kept_copies
    **dict.fromkeys(
        ("save_last_n_steps_state", "save_last_n_epochs_state"),
        needless("what a job resumes from is one file, the latest"),
    ),
    **dict.fromkeys(
        ("save_state", "save_state_on_train_end"),
        needless("what a job resumes from is always saved", switch=True),
    ),
    "resume": missing("go on with ti-studio train --resume JOB"),
    "sample_every_n_steps": becomes("--preview-every"),
    "sample_every_n_epochs": becomes("--preview-every-epochs"),
    "sample_at_first": missing("leave it out", switch=True),
    "sample_prompts": needless("previews are drawn of its first prompt"),  # see preview_of
    "sample_sampler": needless("previews are drawn by one sampler; see ti-studio train --preview-sampler"),
    **dict.fromkeys(("logging_dir", "log_with", "log_prefix", "log_tracker_name"), needless(_LOSSES)),
    **dict.fromkeys(("log_tracker_config", "wandb_run_name", "wandb_api_key"), needless(_LOSSES)),
    "log_config": needless("the settings are in the job's folder, settings.json", switch=True),
    **dict.fromkeys(
        ("console_log_level", "console_log_file"), needless("what there is to say goes to standard error")
    ),
    "console_log_simple": needless("what there is to say goes to standard error", switch=True),
    "training_comment": needless("the file does not hold it"),
    **dict.fromkeys(
        [f"metadata_{name}" for name in ("title", "author", "description", "license", "tags")],
        needless("the file does not hold it"),
    ),
    "huggingface_repo_id": missing("upload the file yourself"),
    "debug_dataset": missing("the prompts with the new word are counted before every start", switch=True),
    "config_file": Entry(),  # see sd_scripts_file
    "output_config": missing("the settings are in the job's folder, settings.json", switch=True),
}

# In the order in which they are translated: of two that set the same option of ours the later one wins.
OPTIONS: Mapping[str, Entry] = {
    **_MODEL, **EMBEDDING, **_PICTURES, **_LEARNING, **_MACHINE, **_SAVING,
}  # fmt: skip


def kept_copies(given: Mapping[str, str]) -> Ours:
    """How many copies ``save_last_n_steps`` keeps: those of so many steps before the last one, and that.

    Raises BadInput where there is no telling how many those are.
    """
    if "save_last_n_steps" not in given:
        return {}
    if "save_every_n_steps" not in given:
        raise BadInput("--save_last_n_steps is missing --save_every_n_steps: add it, or leave both out.")
    span, every = (_number(name, given[name]) for name in ("save_last_n_steps", "save_every_n_steps"))
    return {"--keep-last": str(int(span // every) + 1)} if every >= 1 else {}


# What a preview takes from a prompt's flags.
_PREVIEW = {
    "negative_prompt": "--preview-negative",
    "width": "--preview-width",
    "height": "--preview-height",
    "seed": "--preview-seed",
    "sample_steps": "--preview-steps",
    "scale": "--preview-cfg",
}


def preview_of(given: Mapping[str, str]) -> Ours:
    """What the first prompt of ``sample_prompts`` asks for: a preview is drawn of one. Raises BadInput."""
    if "sample_prompts" not in given:
        return {}
    prompt = read_prompts(Path(given["sample_prompts"]).expanduser())[0]
    return {"--preview-prompt": prompt.text, **{_PREVIEW[name]: value for name, value in prompt.said.items()}}


# Options that mean something together which there is no saying here, and what to do instead.
NOT_TOGETHER = (
    ("train_data_dir", "dataset_config", "leave out --train_data_dir, the file names the pictures"),
    ("reg_data_dir", "dataset_config", "leave out --reg_data_dir, the file names the pictures"),
    ("enable_bucket", "dataset_config", "write enable_bucket = true into the file"),
    ("caption_extension", "dataset_config", "write caption_extension into the file"),
    ("caption_extention", "dataset_config", "write caption_extension into the file"),
    ("save_every_n_steps", "save_every_n_epochs", "choose one of the two"),
    ("debiased_estimation_loss", "min_snr_gamma", "choose one of these weightings"),
)

# What sd-scripts does where it is told nothing.
DEFAULTS: Ours = {
    "--steps": "1600",
    "--learning-rate": "2e-6",
    "--batch-size": "1",
    "--accumulation": "1",
    "--clip": "norm",
    "--clip-at": "1.0",
    "--vectors": "1",
    "--init": "random",
    "--template": "captions",
    "--caption-extension": ".caption",
    "--no-buckets": "",
    "--weighting": "none",
    "--copy-every": "0",
    "--preview-every": "0",
    "--overwrite": "",
}
