"""The settings that every training method shares."""

from __future__ import annotations

from dataclasses import dataclass

from lib_ti.core.settings import option

PRIVATE = frozenset(
    {"images", "reg_images", "dataset_config"}
)  # folders of the user's: no file that is shared names them


@dataclass(frozen=True)
class PictureSettings:
    """What is learned from."""

    images: str = option(
        "", "Folder with the training pictures.", group="pictures", label="Picture folder", basic=True
    )
    dataset_config: str = option(
        "",
        "Instead of a folder: a data set file of sd-scripts (TOML or JSON). What it says goes before these "
        "settings; for its captions as prompts take the template captions.",
        group="pictures",
        label="Data set file",
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
    prior_weight: float = option(
        1.0, "What the loss of a regularisation picture counts.", group="pictures", low=0, high=10
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


@dataclass(frozen=True)
class LearningSettings:
    """How long and how it learns."""

    steps: int = option(600, "Optimizer steps in all.", group="length", low=1, high=1_000_000, basic=True)
    evaluate_every: int = option(
        0,
        "Steps between looks at the loss of one fixed batch, whose curve can be read; 0: none.",
        group="length",
        low=0,
        high=1_000_000,
        unit="steps",
    )
    evaluate_pictures: int = option(
        8, "Pictures in that batch.", group="length", low=1, high=256, label="Pictures to evaluate"
    )
    stop_rule: str = option(
        "none",
        "End the job when the fixed batch's losses hardly vary any more (dvar) or hardly fall (plateau), and "
        "keep the best vectors in place of the last.",
        group="length",
        choices=("none", "dvar", "plateau"),
    )
    stop_window: int = option(
        200, "Steps that a stop rule looks back.", group="length", low=1, high=1_000_000, unit="steps"
    )
    stop_threshold: float = option(
        0.15,
        "The job ends below this: the variance of those steps' losses as a share of all variance (dvar), or "
        "what the best loss fell in them as a share of all that it fell (plateau).",
        group="length",
        low=0,
        high=1,
    )
    learning_rate: str = option(
        "0.01:300, 0.002",
        "A rate, or stages as rate:last step, e.g. 0.005:100, 1e-3:1000, 1e-4. An end with a point is a "
        "share of all steps: 0.1:0.2, 0.01:0.5, 0.001.",
        group="learning",
        basic=True,
    )
    decay: str = option(
        "constant",
        "How the learning rate falls over the job, on top of its stages.",
        group="learning",
        choices=("constant", "linear", "cosine", "cosine-restarts", "polynomial"),
        label="Learning rate decay",
    )
    warmup: str = option(
        "0",
        "Steps over which the learning rate rises from zero; with a point a share of all steps, e.g. 0.1.",
        group="learning",
        label="Learning rate warm-up",
    )
    decay_cycles: int = option(
        1, "Falls of cosine-restarts.", group="learning", low=1, high=1000, label="Cosine restarts"
    )
    decay_power: float = option(
        2.0, "Exponent of polynomial.", group="learning", low=0.1, high=10, label="Polynomial power"
    )
    optimizer: str = option(
        "AdamW",
        "AdamW, AdamW8bit, PagedAdamW, PagedAdamW8bit, Lion, Adafactor, Prodigy (learning rate 1.0), "
        "AdamWScheduleFree, or a class by its full name, e.g. torch.optim.RAdam. What AdamW saves in 8 bits "
        "is nothing for a few vectors.",
        group="learning",
    )
    optimizer_args: str = option(
        "",
        "More for the optimizer, e.g. betas=(0.9, 0.99) eps=1e-6, or a JSON object.",
        group="learning",
        label="Optimizer arguments",
    )
    precision: str = option(
        "model",
        "fp16 and bf16 save memory and time of a model loaded in full precision; vectors are always float32. "
        "fp16 scales its losses, so use it for a model loaded in fp16 too.",
        group="learning",
        choices=("model", "fp16", "bf16"),
    )
    ema: float = option(
        0.0,
        "Save and show a moving average of the vectors with this decay, such as 0.98; 0: the last vectors.",
        group="learning",
        low=0,
        high=0.99999,
        label="EMA decay",
    )
    clip: str = option(
        "none",
        "Limit gradients: every value of them, or the norm of all together.",
        group="learning",
        choices=("none", "value", "norm"),
        label="Clip gradients by",
    )
    clip_at: str = option(
        "1.0",
        "The limit: a number, or stages as for the learning rate.",
        group="learning",
        label="Clip gradients at",
    )
    batch_size: int = option(
        1,
        "Pictures that go through the model together.",
        group="learning",
        low=1,
        high=256,
        label="Pictures at once",
    )
    accumulation: int = option(
        4,
        "Batches whose gradients make one step: a larger batch without its memory.",
        group="learning",
        low=1,
        high=256,
        label="Batches a step",
    )
    latents: str = option(
        "sampled",
        "sampled draws from the VAE's distribution at every step, mean takes its middle.",
        group="learning",
        choices=("sampled", "mean"),
    )
    weighting: str = option(
        "x0",
        "x0 measures the error of the clean picture the model has in mind, none that of the noise; min-snr "
        "and debiased lie between the two.",
        group="learning",
        choices=("x0", "none", "min-snr", "debiased"),
        label="Loss weighting",
    )
    min_snr_gamma: float = option(
        5.0,
        "Ratio of signal to noise above which min-snr gives no more weight.",
        group="learning",
        low=0.01,
        high=100,
        label="Min-SNR gamma",
    )
    loss: str = option(
        "l2",
        "How an error is measured: squared (l2), absolute (l1), or squared while small, then absolute.",
        group="learning",
        choices=("l2", "l1", "huber", "smooth-l1"),
        label="Loss type",
    )
    huber_c: float = option(
        0.1,
        "Where huber and smooth-l1 bend; with a schedule, at the noisiest timestep.",
        group="learning",
        low=1e-4,
        high=10,
        label="Huber threshold",
    )
    huber_schedule: str = option(
        "snr",
        "How that threshold depends on the timestep.",
        group="learning",
        choices=("constant", "exponential", "snr"),
    )
    seed: int = option(
        1,
        "Settles everything random of the job.",
        group="learning",
        low=0,
        high=2**32 - 1,
        label="Training seed",
    )
    clip_skip: int = option(
        0,
        "Take the text encoder's answer this many layers before its end; 0: as pictures are generated.",
        group="learning",
        low=0,
        high=12,
    )


@dataclass(frozen=True)
class NoiseSettings:
    """What noise the model has to see through."""

    noise_offset: float = option(
        0.0, "Lets all of a picture become darker or lighter; 0.1 is usual.", group="learning", low=0, high=1
    )
    multires_iterations: int = option(
        0,
        "Layers of coarser and coarser noise on top; 6 to 10 are usual.",
        group="learning",
        low=0,
        high=10,
        label="Multi-resolution noise layers",
    )
    multires_discount: float = option(
        0.3,
        "Weight of each such layer against the one before.",
        group="learning",
        low=0,
        high=1,
        label="Multi-resolution noise discount",
    )
    input_perturbation: float = option(
        0.0,
        "Share of extra noise that the model is not asked to find; 0.1 is usual.",
        group="learning",
        low=0,
        high=1,
    )
    min_timestep: int = option(
        0, "First timestep of training; later ones are noisier.", group="learning", low=0, high=999
    )
    max_timestep: int = option(
        1000, "The timestep after the last of training.", group="learning", low=1, high=1000
    )
    zero_terminal_snr: bool = option(
        False,
        "Make the noisiest timestep noise alone; for models that predict v and were made so.",
        group="learning",
        label="Zero terminal SNR",
    )


@dataclass(frozen=True)
class SavingSettings:
    """What is saved and shown on the way."""

    save_every: int = option(
        50,
        "Steps between saved states a job can resume from.",
        group="saving",
        low=1,
        high=1_000_000,
        unit="steps",
    )
    copy_every: int = option(
        100,
        "Steps between copies of the result in the job's folder, to choose from; 0: the last only.",
        group="saving",
        low=0,
        high=1_000_000,
        unit="steps",
    )
    preview_every: int = option(
        100,
        "Steps between preview pictures; 0: none.",
        group="previews",
        low=0,
        high=1_000_000,
        unit="steps",
        basic=True,
    )
    preview_prompt: str = option(
        "",
        "Prompt of the previews, with [name] for the new word; empty: the first line of the template.",
        group="previews",
        basic=True,
    )
    preview_negative: str = option(
        "", "Negative prompt of the previews.", group="previews", label="Preview negative prompt"
    )
    preview_count: int = option(
        2, "Pictures in a preview.", group="previews", low=1, high=64, label="Preview pictures"
    )
    preview_steps: int = option(
        20, "Sampling steps of a preview.", group="previews", low=1, high=1000, label="Preview sampling steps"
    )
    preview_sampler: str = option(
        "", "Sampler of a preview, by the program's name for it; empty: DPM++ 2M Karras.", group="previews"
    )
    preview_cfg: float = option(
        5.0,
        "Classifier-free guidance scale of a preview.",
        group="previews",
        low=1,
        high=50,
        label="Preview CFG scale",
    )
    preview_seed: int = option(
        1,
        "Seed of a preview's first picture; the others follow.",
        group="previews",
        low=0,
        high=2**32 - 1,
    )
    preview_width: int = option(
        0,
        "Width of a preview; 0: as trained.",
        group="previews",
        low=0,
        high=4096,
        unit="pixels",
    )
    preview_height: int = option(
        0,
        "Height of a preview; 0: as trained.",
        group="previews",
        low=0,
        high=4096,
        unit="pixels",
    )


@dataclass(frozen=True)
class TrainSettings(SavingSettings, NoiseSettings, LearningSettings, PictureSettings):
    """What every training method is told."""
