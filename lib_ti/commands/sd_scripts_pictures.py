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


PICTURES: Mapping[str, Entry] = {
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
    "token_warmup_min": becomes("--tag-warmup-from"),
    "token_warmup_step": becomes("--tag-warmup"),
    "weighted_captions": switched("--emphasis", "sd-scripts"),
}
