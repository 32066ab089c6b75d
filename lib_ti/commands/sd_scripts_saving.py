"""sd-scripts' options of what is written: files, copies, previews, what is said."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lib_ti.commands.sd_scripts_entry import (
    Entry,
    Ours,
    becomes,
    missing,
    needless,
    number,
    only,
    switched,
)
from lib_ti.core.errors import BadInput
from lib_ti.data.sd_scripts_prompts import read_prompts

_LOSSES = "losses are in the job's folder, loss.csv and loss.png"

SAVING: Mapping[str, Entry] = {
    "output_dir": becomes("--data"),
    "output_name": Entry(),
    "save_model_as": only("safetensors", "pt", "ckpt", instead="use safetensors, pt or ckpt"),
    "save_precision": needless("the vectors are saved in float32, they are small"),
    "save_every_n_steps": becomes("--copy-every"),
    "save_every_n_epochs": becomes("--copy-every-epochs"),
    "save_n_epoch_ratio": becomes("--copy-count"),
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
    "resume": missing(
        "a state of sd-scripts is pickled, and nothing here unpickles one; begin anew from its last file "
        "with --weights or --network_weights; a job of ours goes on with ti-studio train --resume JOB"
    ),
    "sample_every_n_steps": becomes("--preview-every"),
    "sample_every_n_epochs": becomes("--preview-every-epochs"),
    "sample_at_first": switched("--preview-first"),
    "sample_prompts": needless("previews are drawn of its first prompt"),  # see preview_of
    "sample_sampler": needless("previews are drawn by one sampler here, DPM++ 2M Karras"),
    **dict.fromkeys(("logging_dir", "log_with", "log_prefix", "log_tracker_name"), needless(_LOSSES)),
    **dict.fromkeys(("log_tracker_config", "wandb_run_name", "wandb_api_key"), needless(_LOSSES)),
    "log_config": needless("the settings are in the job's folder, settings.json", switch=True),
    **dict.fromkeys(
        ("console_log_level", "console_log_file"), needless("what there is to say goes to standard error")
    ),
    "console_log_simple": needless("what there is to say goes to standard error", switch=True),
    "training_comment": becomes("--training-comment"),
    **{
        f"metadata_{name}": becomes(f"--metadata-{name}")
        for name in ("title", "author", "description", "license", "tags")
    },
    **dict.fromkeys(
        [f"metadata_{name}" for name in ("usage_hint", "trigger_phrase", "merged_from", "preprocessor")],
        missing("write it into --metadata_description"),
    ),
    "metadata_thumbnail": missing("leave it out: cards carry pictures, see ti-studio train --card"),
    "metadata_is_negative_embedding": missing("leave it out: ti-studio train --negative writes it"),
    "huggingface_repo_id": missing(
        "nothing is sent anywhere; upload the file that is made, with huggingface-cli upload"
    ),
    **dict.fromkeys(
        [f"huggingface_{name}" for name in ("repo_type", "path_in_repo", "token", "repo_visibility")],
        needless("nothing is sent anywhere, as without --huggingface_repo_id there"),
    ),
    "save_state_to_huggingface": missing(
        "nothing is sent anywhere; the state is in the job's folder, upload it from there", switch=True
    ),
    "resume_from_huggingface": missing(
        "nothing is fetched; begin anew from the last file with --weights or --network_weights", switch=True
    ),
    "async_upload": needless("nothing is sent anywhere", switch=True),
    "debug_dataset": Entry(switch=True),  # see shown_dataset
    "config_file": Entry(),  # see sd_scripts_file
    "output_config": missing(
        "write the options into a TOML file, one a line as name = value; --config_file reads it", switch=True
    ),
}


def saving_told(given: Mapping[str, str]) -> list[str]:
    """What to say of a file in another form than ours."""
    if given.get("save_model_as", "").lower() in ("pt", "ckpt") and "network_module" in given:
        return ["--save_model_as: a pickle holds the tensors alone, without metadata, as there"]
    return []


def kept_copies(given: Mapping[str, str]) -> Ours:
    """How many copies ``save_last_n_steps`` keeps: those of so many steps before the last one, and that.

    Raises BadInput where there is no telling how many those are.
    """
    if "save_last_n_steps" not in given:
        return {}
    if "save_every_n_steps" not in given:
        raise BadInput("--save_last_n_steps is missing --save_every_n_steps: add it, or leave both out.")
    span, every = (number(name, given[name]) for name in ("save_last_n_steps", "save_every_n_steps"))
    return {"--keep-last": str(int(span // every) + 1)} if every >= 1 else {}


def metadata_told(given: Mapping[str, str], suffix: str) -> list[str]:
    """What to say of options for a file that cannot hold what they give."""
    if suffix not in ("pt", "ckpt"):
        return []
    instead = "the job's own file does, and so does --save_model_as=safetensors"
    return [
        f"--{option}: a .{suffix} file does not hold it; {instead}"
        for option in given
        if option.startswith("metadata_") or option == "training_comment"
    ]


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
