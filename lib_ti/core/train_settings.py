"""The settings that every training method shares."""

from __future__ import annotations

from dataclasses import dataclass

from lib_ti.core.memory_settings import MemorySettings
from lib_ti.core.metadata_settings import MetadataSettings
from lib_ti.core.objective_settings import ObjectiveSettings
from lib_ti.core.picture_settings import PictureSettings
from lib_ti.core.prompt_settings import PromptSettings
from lib_ti.core.schedule_settings import ScheduleSettings
from lib_ti.core.settings import option


@dataclass(frozen=True)
class LearningSettings(ObjectiveSettings, ScheduleSettings):
    """How long and how it learns."""

    steps: int = option(600, "Optimizer steps in all.", group="length", low=1, high=1_000_000, basic=True)
    epochs: int = option(
        0,
        "Length as so many passes over all pictures, repeats counted; 0: the number of steps.",
        group="length",
        low=0,
        high=100_000,
        label="Length",
        unit="epochs",
    )
    initial_step: int = option(
        0,
        "Steps that are left out at the beginning: the first one has the pictures, prompts and noise of the "
        "next, and the learning rate that a job begins with.",
        group="length",
        low=0,
        high=1_000_000,
        unit="steps",
    )
    initial_epochs: int = option(
        0,
        "As initial-step, in epochs, and before it; 0: the steps count.",
        group="length",
        low=0,
        high=100_000,
        unit="epochs",
        label="Initial epochs",
    )
    evaluate_every: int = option(
        0,
        "Steps between looks at the loss of one fixed batch, whose curve can be read; 0: none.",
        group="length",
        low=0,
        high=1_000_000,
        unit="steps",
    )
    evaluate_every_epochs: int = option(
        0,
        "As evaluate-every, in epochs, and before it; 0: the steps count.",
        group="length",
        low=0,
        high=100_000,
        unit="epochs",
        label="Evaluate every",
    )
    evaluate_pictures: int = option(
        8,
        "Pictures in that batch; with validation-split so many of those held out, each at four timesteps; "
        "0: all of them.",
        group="length",
        low=0,
        high=10_000,
        label="Pictures to evaluate",
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
    stop_window_epochs: int = option(
        0,
        "As stop-window, in epochs, and before it; 0: the steps count.",
        group="length",
        low=0,
        high=100_000,
        unit="epochs",
        label="Stop window",
    )
    stop_threshold: float = option(
        0.15,
        "The job ends below this: the variance of those steps' losses as a share of all variance (dvar), or "
        "what the best loss fell in them as a share of all that it fell (plateau).",
        group="length",
        low=0,
        high=1,
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
    noise_offset_random: bool = option(
        False,
        "Draw the noise offset of each picture anew, from 0 to what it is set to.",
        group="learning",
        label="Random noise offset",
    )
    adaptive_noise: float = option(
        0.0,
        "Add to the noise offset so many times the mean of each channel of a picture's latents, by its size.",
        group="learning",
        low=-10,
        high=10,
        label="Adaptive noise offset",
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
    input_perturbation_random: bool = option(
        False,
        "Draw the input perturbation of each picture anew, from 0 to what it is set to.",
        group="learning",
        label="Random input perturbation",
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
    copy_every_epochs: int = option(
        0,
        "As copy-every, in epochs, and before it; 0: the steps count.",
        group="saving",
        low=0,
        high=100_000,
        unit="epochs",
        label="Copy every",
    )
    copy_count: int = option(
        0,
        "As copy-every, so many over the whole job, at ends of epochs, and before both; 0: those count.",
        group="saving",
        low=0,
        high=10_000,
        label="Copies over the job",
    )
    keep_last: int = option(
        0,
        "Copies to keep: so many of the latest, and the one that did best in evaluation; 0: all.",
        group="saving",
        low=0,
        high=1_000_000,
        label="Copies to keep",
    )
    card: bool = option(
        True,
        "Make a card of the new word at the end: a picture to share that carries it.",
        group="saving",
        label="Make a card",
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
    preview_every_epochs: int = option(
        0,
        "As preview-every, in epochs, and before it; 0: the steps count.",
        group="previews",
        low=0,
        high=100_000,
        unit="epochs",
        label="Preview every",
    )
    preview_first: bool = option(
        False, "Draw a preview before the first step, too.", group="previews", label="Preview at first"
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

    @property
    def previews(self) -> bool:
        """Whether any is drawn."""
        return bool(self.preview_every or self.preview_first)


@dataclass(frozen=True)
class TrainSettings(
    MetadataSettings,
    SavingSettings,
    MemorySettings,
    NoiseSettings,
    LearningSettings,
    PromptSettings,
    PictureSettings,
):
    """What every training method is told."""
