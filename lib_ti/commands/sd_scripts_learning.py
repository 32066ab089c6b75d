"""sd-scripts' options of steps, rate, optimizer, loss and noise."""

from __future__ import annotations

from collections.abc import Mapping

from lib_ti.commands.sd_scripts_entry import (
    Entry,
    Ours,
    becomes,
    missing,
    number,
    sets,
    switched,
)
from lib_ti.commands.sd_scripts_schedule import SCHEDULE
from lib_ti.core.optimizers import known_as, parse_arguments

_FEW = "of a few vectors 8 bits and pages save nothing"
_ADAPTIVE = ("DAdaptAdaGrad", "DAdaptAdam", "DAdaptAdan", "DAdaptLion", "DAdaptSGD")


def _largest_norm(text: str) -> Ours:
    return {"--clip": "norm", "--clip-at": text} if number("max_grad_norm", text) else {"--clip": "none"}


def _is_set(option: str, text: str) -> bool:
    return number(option, text) != 0


def _min_snr(gamma: str) -> Ours:
    return {"--min-snr-gamma": gamma} if _is_set("min_snr_gamma", gamma) else {}


# What they limit the ratio of signal to noise to; there only timestep 0 is above.
_SNR_LIMIT = "1000"


def weighting_of(given: Mapping[str, str]) -> Ours:
    """The loss weighting of all options that change it: there each multiplies what the others leave."""
    by_snr = _is_set("min_snr_gamma", given.get("min_snr_gamma", "0"))
    debiased = "debiased_estimation_loss" in given
    weighting = "-".join(name for name, there in (("min-snr", by_snr), ("debiased", debiased)) if there)
    limited = debiased or {"scale_v_pred_loss_like_noise_pred", "v_pred_like_loss"} & given.keys()
    return {"--weighting": weighting or "none", **({"--snr-limit": _SNR_LIMIT} if limited else {})}


def learning_told(given: Mapping[str, str]) -> list[str]:
    """What to say of options that nothing comes of, there either."""
    if "huber_scale" in given and given.get("huber_schedule", "snr") == "snr":
        return ["--huber_scale: there too it does nothing to the schedule snr, which is the default"]
    return []


# Of these sd-scripts, and the packages it takes them from, have decay where they are told nothing; ours none.
_DECAYING = ("adamw", "adamw8bit", "pagedadamw", "pagedadamw8bit", "bitsandbytes.optim.pagedadamw32bit")
_DECAY = "0.01"
_NESTEROV = {"momentum": "0.9", "nesterov": "True"}


def _optimizer(name: str) -> Ours:
    """A name without a package is PyTorch's, if it is none of the known."""
    return {"--optimizer": name if "." in name or known_as(name) else f"torch.optim.{name}"}


def optimizer_args(given: Mapping[str, str], ours: Ours) -> Ours:
    """What the optimizer is told beside what the line tells it, so that it is the one that it is there."""
    usual = {"weight_decay": _DECAY} if ours.get("--optimizer", "AdamW").lower() in _DECAYING else {}
    if given.get("optimizer_type", "").lower().startswith("sgdnesterov"):
        usual = _NESTEROV
    told = ours.get("--optimizer-args", "")
    known = parse_arguments(told)
    more = [f"{name}={value}" for name, value in usual.items() if name not in known]
    return {"--optimizer-args": " ".join(filter(None, (*more, told)))} if more else {}


LEARNING: Mapping[str, Entry] = {
    "max_train_steps": becomes("--steps"),
    "max_train_epochs": becomes("--epochs"),
    "train_batch_size": becomes("--batch-size"),
    "gradient_accumulation_steps": becomes("--accumulation"),
    "seed": becomes("--seed"),
    "learning_rate": becomes("--learning-rate"),
    **SCHEDULE,
    "optimizer_type": Entry(
        _optimizer,
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
            "dadaptation": missing("its preprint cannot be had; use DAdaptAdam, which it became"),
            "sgdnesterov": sets({"--optimizer": "torch.optim.SGD"}),
            "sgdnesterov8bit": sets({"--optimizer": "torch.optim.SGD"}, told="it keeps 32 bits"),
            "adafactor": sets({"--optimizer": "Adafactor"}),  # see sd_scripts_schedule for its rate
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
    "huber_scale": becomes("--huber-scale"),
    # See weighting_of for these four.
    "min_snr_gamma": Entry(_min_snr),
    "debiased_estimation_loss": Entry(switch=True),
    "scale_v_pred_loss_like_noise_pred": switched("--scale-v-loss"),
    "v_pred_like_loss": becomes("--v-like-loss"),
    "noise_offset": becomes("--noise-offset"),
    "noise_offset_random_strength": switched("--noise-offset-random"),
    "adaptive_noise_scale": becomes("--adaptive-noise"),
    "multires_noise_iterations": becomes("--multires-iterations"),
    "multires_noise_discount": becomes("--multires-discount"),
    "ip_noise_gamma": becomes("--input-perturbation"),
    "ip_noise_gamma_random_strength": switched("--input-perturbation-random"),
    "zero_terminal_snr": switched("--zero-terminal-snr"),
    "min_timestep": becomes("--min-timestep"),
    "max_timestep": becomes("--max-timestep"),
}
