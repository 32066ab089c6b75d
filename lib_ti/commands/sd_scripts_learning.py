"""sd-scripts' options of steps, rate, optimizer, loss and noise."""

from __future__ import annotations

from collections.abc import Mapping

from lib_ti.commands.sd_scripts_entry import (
    Entry,
    Ours,
    becomes,
    missing,
    number,
    only,
    sets,
    switched,
)
from lib_ti.commands.sd_scripts_schedule import SCHEDULE

_FEW = "of a few vectors 8 bits and pages save nothing"
_ADAPTIVE = ("DAdaptAdaGrad", "DAdaptAdam", "DAdaptAdan", "DAdaptLion", "DAdaptSGD")


def _largest_norm(text: str) -> Ours:
    return {"--clip": "norm", "--clip-at": text} if number("max_grad_norm", text) else {"--clip": "none"}


LEARNING: Mapping[str, Entry] = {
    "max_train_steps": becomes("--steps"),
    "max_train_epochs": becomes("--epochs"),
    "train_batch_size": becomes("--batch-size"),
    "gradient_accumulation_steps": becomes("--accumulation"),
    "seed": becomes("--seed"),
    "learning_rate": becomes("--learning-rate"),
    **SCHEDULE,
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
