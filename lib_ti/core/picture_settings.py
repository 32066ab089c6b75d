"""The settings of what is learned from."""

from __future__ import annotations

from dataclasses import dataclass

from lib_ti.core import limits
from lib_ti.core.settings import option

PRIVATE = frozenset(
    {
        "images",
        "reg_images",
        "dataset_config",
        "metadata_file",
        "mask_folder",
        "weights",
        "network_weights",
        "base_weights",
    }
)  # places on the user's disk: no file that is shared names them


@dataclass(frozen=True)
class PictureSettings:
    """What is learned from."""

    images: str = option(
        "",
        "Folder with the training pictures, or the name of a data set made in Data sets.",
        group="pictures",
        label="Picture folder",
        basic=True,
    )
    dataset_config: str = option(
        "",
        "Instead of a folder: a data set file of sd-scripts (TOML or JSON). What it says goes before these "
        "settings; for its captions as prompts take the template captions.",
        group="pictures",
        label="Data set file",
    )
    dataset_fallback: str = option(
        "sd-scripts",
        "What a data set file does not say. sd-scripts: that program's defaults, but settings that were "
        "changed; settings: these settings as they stand.",
        group="pictures",
        choices=("sd-scripts", "settings"),
        label="Beside a data set file",
    )
    metadata_file: str = option(
        "",
        "In place of text files: a metadata file of sd-scripts (JSON, JSON lines) with captions and tags. "
        "Pictures that it does not name are left out.",
        group="pictures",
    )
    repeats: int = option(
        1,
        "How often an epoch shows each picture, where its folder's name (10_cat) or the data set file does "
        "not say.",
        group="pictures",
        low=1,
        high=limits.REPEATS,
    )
    validation_split: float = option(
        0.0,
        "Share of the pictures that is held out: not learned from, but what evaluate-every looks at.",
        group="pictures",
        low=0,
        high=0.9,
    )
    validation_seed: int = option(
        0,
        "Settles which pictures those are.",
        group="pictures",
        low=0,
        high=2**32 - 1,
    )
    width: int = option(
        0,
        "Width pictures are trained at; 0: the model's own size.",
        group="pictures",
        low=0,
        high=4096,
        unit="pixels",
        label="Picture width",
    )
    height: int = option(
        0,
        "Height pictures are trained at; 0: the model's own size.",
        group="pictures",
        low=0,
        high=4096,
        unit="pixels",
        label="Picture height",
    )
    flip: bool = option(
        False, "Show every second picture mirrored, at random.", group="pictures", label="Mirror pictures"
    )
    random_crops: int = option(
        0,
        "Cuts at random places, kept of each picture whose proportions are not its bucket's; a step takes "
        "one of them. 0: the middle.",
        group="pictures",
        low=0,
        high=64,
    )
    grey_copies: bool = option(
        False,
        "Show every second picture in grey, at random: shapes are learned, not colours.",
        group="pictures",
    )
    mask_files: bool = option(
        True,
        "Weigh the parts of cat.png by cat_att.png beside it, where there is one: black counts nothing, the "
        "middle grey once, white five times.",
        group="pictures",
        label="Masks beside pictures",
    )
    mask_folder: str = option(
        "",
        "Folder with a mask of each picture, by its name: black counts nothing, white once; they go before "
        "masks beside pictures.",
        group="pictures",
    )
    alpha_mask: bool = option(
        False,
        "Let transparent parts of a picture count less, or nothing.",
        group="pictures",
        label="Alpha channel as mask",
    )
    reg_images: str = option(
        "",
        "Folder with regularisation pictures, shown in turn with the others; their prompts are their "
        "captions, without a template.",
        group="pictures",
        label="Regularisation folder",
    )
    make_reg: int = option(
        0,
        "So many regularisation pictures are drawn by the loaded model first: into the folder above, as many "
        "as it lacks, or, where none is named, into one that is kept for jobs alike; 0: none.",
        group="pictures",
        low=0,
        high=10_000,
        label="Regularisation pictures to draw",
    )
    reg_prompt: str = option(
        "a photo of a [name]",
        "What those are drawn of, and their caption. [name] is drawn as the init text and learned as the new "
        "word, which so stays one of its kind.",
        group="pictures",
        label="Regularisation prompt",
    )
    prior_weight: float = option(
        1.0, "What the loss of a regularisation picture counts.", group="pictures", low=0, high=10
    )
    normalise_masks: bool = option(
        True,
        "Scale each mask to a mean of 1, so that a picture of which little counts is learned from as much as "
        "the others; off: masks as they are, as sd-scripts takes them.",
        group="pictures",
    )
    size_conditioning: str = option(
        "trained",
        "What SDXL is told of a picture's size. trained: the size it is trained at, uncut; sd-scripts: its "
        "own size, and the crop by that program's formula.",
        group="pictures",
        choices=("trained", "sd-scripts"),
    )
    resize: str = option(
        "lanczos",
        "How pictures are scaled: lanczos is sharpest, box takes the mean, nearest keeps pixel art as it is.",
        group="pictures",
        choices=("lanczos", "bicubic", "bilinear", "box", "nearest"),
        label="Scale pictures by",
    )
    buckets: bool = option(
        True,
        "Train each picture at the size, of about width x height pixels, that cuts least off it. Off: all "
        "of them are cut to width x height.",
        group="pictures",
        label="Aspect-ratio buckets",
    )
    bucket_enlarge: bool = option(
        True,
        "Scale pictures up that are smaller than their bucket; off: buckets of their own size.",
        group="pictures",
        label="Enlarge small pictures",
    )
    bucket_min: int = option(
        0,
        "Shortest side of a bucket; 0: half the picture size.",
        group="pictures",
        low=0,
        high=4096,
        unit="pixels",
    )
    bucket_max: int = option(
        0,
        "Longest side of a bucket; 0: double the picture size.",
        group="pictures",
        low=0,
        high=8192,
        unit="pixels",
    )
    bucket_step: int = option(
        0,
        "Bucket sides are multiples of this; 0: 64, or less where the picture size asks for it.",
        group="pictures",
        low=0,
        high=512,
        unit="pixels",
    )
    keep_latents: bool = option(
        True,
        "Keep encoded pictures on disk, in .ti-studio/latents, so that the next start need not encode them; "
        "that folder may be deleted at any time.",
        group="pictures",
        label="Keep encoded pictures",
    )
    caption_extension: str = option(
        ".txt", "Ending of the text files with captions, beside the pictures.", group="pictures"
    )
    caption_prefix: str = option("", "Text put before every caption.", group="pictures")
    caption_suffix: str = option("", "Text put after every caption.", group="pictures")
    drop_captions: float = option(
        0.0, "Share of captions left out whole, at random.", group="pictures", low=0, high=1
    )
    drop_captions_every: int = option(
        0,
        "Leave all captions out in every so many-th epoch; 0: in none.",
        group="pictures",
        low=0,
        high=100_000,
        unit="epochs",
    )
    wildcards: bool = option(
        False,
        "Read {a|b} in a caption as a or b, and take one of its lines, anew at every step; {{ and }} are "
        "braces.",
        group="pictures",
        label="Caption wildcards",
    )
    shuffle_tags: bool = option(False, "Shuffle the comma-separated parts of a caption.", group="pictures")
    drop_tags: float = option(
        0.0, "Share of those parts left out at random.", group="pictures", low=0, high=1
    )
    tag_warmup: float = option(
        0.0,
        "Steps over which a caption's parts come in one by one; below 1 a share of all steps; 0: all are "
        "there from the first on.",
        group="pictures",
        low=0,
        high=1_000_000,
        unit="steps",
    )
    tag_warmup_from: int = option(
        1,
        "Parts, beside those that are kept, that the first step of that has.",
        group="pictures",
        low=0,
        high=1000,
    )
    keep_tags: int = option(
        0,
        "Parts at the front of a caption that are neither shuffled nor left out.",
        group="pictures",
        low=0,
        high=75,
    )
    keep_separator: str = option(
        "",
        "Text in a caption, such as |||, before which nothing is shuffled or left out, nor after a second "
        "one; it goes before keep-tags.",
        group="pictures",
    )
    caption_separator: str = option(",", "What stands between the parts of a caption.", group="pictures")
    second_separator: str = option(
        "",
        "Text, such as ;;;, between parts that are shuffled and left out together; it becomes a separator.",
        group="pictures",
    )
    word_regex: str = option(
        "",
        "Which words of a file name are its caption; empty: all of it.",
        group="pictures",
        label="Caption word regex",
    )
    word_join: str = option(
        " ", "What joins the words that the regex finds.", group="pictures", label="Caption word joint"
    )
