"""sd-scripts' options of pictures and captions."""

from __future__ import annotations

import re
from collections.abc import Mapping

from lib_ti.commands.sd_scripts_entry import (
    Entry,
    Ours,
    becomes,
    missing,
    needless,
    sets,
    switched,
)
from lib_ti.core.errors import BadInput

_LOADING = "nothing is loaded during the steps"


def _size(resolution: str) -> Ours:
    """``512`` or ``512,768``: width and height."""
    found = re.fullmatch(r"(\d+)(?:\s*,\s*(\d+))?", resolution.strip())
    if found is None:
        raise BadInput(f"--resolution={resolution}: expected a number of pixels, or width,height.")
    return {"--width": found[1], "--height": found[2] or found[1]}


# What sd-scripts takes of buckets where a line or a data set file does not say.
_BUCKETS = {"--bucket-min": "256", "--bucket-max": "1024", "--bucket-step": "64"}
_NAMED_BY_FILE = ("train_data_dir", "reg_data_dir", "in_json")


def sources_of(given: Mapping[str, str], ours: Ours) -> tuple[dict[str, str], list[str]]:
    """``ours`` with what the options that name pictures mean beside each other, and what to say of it."""
    found, said = dict(ours), list[str]()
    if "dataset_config" in given:
        # What the file does not say is the line's; what it does say goes before that.
        found = {**_BUCKETS, **found, "--dataset-fallback": "settings"}
        for flag in ("--images", "--reg-images", "--metadata-file"):
            found.pop(flag, None)
        said += [
            f"--{option}: as there, --dataset_config takes its place"
            for option in _NAMED_BY_FILE
            if option in given
        ]
    elif "in_json" in given and "--reg-images" in found:
        del found["--reg-images"]
        said.append("--reg_data_dir: as there, beside --in_json no regularisation pictures are taken")
    elif "dataset_repeats" in given and "in_json" not in given:
        del found["--repeats"]
        said.append("--dataset_repeats: as there, the folders' names say how often, such as 10_mychar")
    return found, said


def masks_of(given: Mapping[str, str]) -> tuple[Ours, list[str]]:
    """The folder of masks, and what to say of masks that nothing comes of."""
    folder = given.get("conditioning_data_dir")
    if folder and "masked_loss" not in given:
        return {}, ["--conditioning_data_dir: as there, masks are taken with --masked_loss alone"]
    if folder:
        told = "--conditioning_data_dir: it is taken, though there only that of a data set file is"
        return {"--mask-folder": folder}, [] if "dataset_config" in given else [told]
    if "masked_loss" in given and not {"alpha_mask", "dataset_config"} & given.keys():
        return {}, ["--masked_loss: there is no mask without --alpha_mask or --conditioning_data_dir"]
    return {}, []


PICTURES: Mapping[str, Entry] = {
    "dataset_config": becomes("--dataset-config"),
    "train_data_dir": becomes("--images"),
    "reg_data_dir": becomes("--reg-images"),
    "prior_loss_weight": becomes("--prior-weight"),
    "in_json": becomes("--metadata-file"),
    "dataset_class": missing(
        "code of one's own is not run; name the pictures by --train_data_dir or --dataset_config"
    ),
    "dataset_repeats": becomes("--repeats"),
    "resolution": Entry(_size),
    "enable_bucket": sets({"--buckets": "", **_BUCKETS}, switch=True),
    "min_bucket_reso": becomes("--bucket-min"),
    "max_bucket_reso": becomes("--bucket-max"),
    "bucket_reso_steps": becomes("--bucket-step"),
    "bucket_no_upscale": switched("--no-bucket-enlarge"),
    "flip_aug": switched("--flip"),
    "random_crop": sets(
        {"--random-crops": "4"}, told="each picture is cut at four places, once for all", switch=True
    ),
    "color_aug": missing(
        "pictures are encoded once, with their colours; nearest is ti-studio train --grey-copies, which "
        "shows every second one in grey",
        switch=True,
    ),
    "face_crop_aug_range": missing(
        "no file tells where faces are; nearest is --random_crop, or cropping to faces beforehand, ti-studio "
        "images make"
    ),
    "resize_interpolation": Entry(
        becomes("--resize").ours,
        choices={
            "linear": sets({"--resize": "bilinear"}),
            "cubic": sets({"--resize": "bicubic"}),
            "area": sets({"--resize": "box"}),
        },
    ),
    "alpha_mask": switched("--alpha-mask"),
    "masked_loss": Entry(switch=True),  # see masks_of
    "conditioning_data_dir": Entry(),
    "cache_latents": needless("pictures are always encoded once", switch=True),
    "cache_latents_to_disk": needless("encoded pictures are always kept", switch=True),
    "cache_info": needless("sizes of pictures are always remembered", switch=True),
    "skip_cache_check": needless("what is kept is checked in no time", switch=True),
    "vae_batch_size": needless("pictures are encoded one by one"),
    "max_data_loader_n_workers": needless(_LOADING),
    "persistent_data_loader_workers": needless(_LOADING, switch=True),
    # Without one of the two the captions are the prompts; with both that for objects goes first.
    "use_style_template": sets(
        {"--template": "official_style"},
        told="the 19 sentences of the official template for styles",
        switch=True,
    ),
    "use_object_template": sets(
        {"--template": "official_object"},
        told="the 27 sentences of the official template for objects",
        switch=True,
    ),
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
    "token_warmup_min": becomes("--tag-warmup-from"),
    "token_warmup_step": becomes("--tag-warmup"),
    "weighted_captions": switched("--emphasis", "sd-scripts"),
}
