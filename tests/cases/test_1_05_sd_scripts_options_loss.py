"""Options of sd-scripts' loss, noise and captions: what a step of the loop is fed and how it is weighed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lib_ti.cli import build_parser
from lib_ti.commands.sd_scripts import translate, words_of
from lib_ti.commands.shared import given_settings
from lib_ti.core.errors import BadInput
from lib_ti.core.noise import check_noise, draw_noise
from lib_ti.core.objective import Prediction, pseudo_huber, weighted_losses
from lib_ti.data.samples import TrainingSet
from lib_ti.data.source import find_source, first_prompts
from lib_ti.hosts.standalone import StandaloneHost
from lib_ti.methods.denoising import noise_schedule
from lib_ti.methods.kind import JobSettings
from lib_ti.methods.registry import read_settings

LINE = [
    *("train_textual_inversion.py", "--pretrained_model_name_or_path=builtin", "--token_string=zqx-word"),
    "--max_train_steps=20",
]
T = torch.tensor([0, 1, 200, 600, 999])
ABAR = torch.linspace(0.9999, 0.005, 1000, dtype=torch.float64).float()
SNR = (ABAR / (1 - ABAR))[T].numpy()
CAPPED = np.minimum(SNR, 1000)


def settings_of(*options: str, folder: str = "data") -> JobSettings:
    line = [*LINE, f"--train_data_dir={folder}", *options]
    words = words_of(translate(line, Path()).ours)
    return read_settings(given_settings(build_parser().parse_args(["train", *words])))


@pytest.mark.parametrize(
    ("options", "prediction", "weight"),
    [
        ("--min_snr_gamma=5", "eps", np.minimum(SNR, 5) / SNR),
        ("--min_snr_gamma=5", "v", np.minimum(SNR, 5) / (SNR + 1)),
        ("--min_snr_gamma=0", "eps", np.ones(5)),
        ("--debiased_estimation_loss", "eps", CAPPED**-0.5),
        ("--debiased_estimation_loss", "v", 1 / (CAPPED + 1)),
        ("--min_snr_gamma=5 --debiased_estimation_loss", "eps", np.minimum(SNR, 5) / SNR * CAPPED**-0.5),
        ("--debiased_estimation_loss --min_snr_gamma=2", "v",
         np.minimum(SNR, 2) / (SNR + 1) / (CAPPED + 1)),
        ("--scale_v_pred_loss_like_noise_pred", "v", CAPPED / (CAPPED + 1)),
        ("--scale_v_pred_loss_like_noise_pred --min_snr_gamma=5", "v",
         np.minimum(SNR, 5) / (SNR + 1) * CAPPED / (CAPPED + 1)),
        ("--v_pred_like_loss=0.5", "eps", 1 + 0.5 * (CAPPED + 1) / CAPPED),
        ("--v_pred_like_loss=0.5 --debiased_estimation_loss", "eps",
         (1 + 0.5 * (CAPPED + 1) / CAPPED) * CAPPED**-0.5),
    ],
)  # fmt: skip
def test_weightings_multiply_as_there(options: str, prediction: Prediction, weight: np.ndarray) -> None:
    """On errors of size one, so that a loss is its weight."""
    predicted, target = torch.ones(5, 4, 2, 2), torch.zeros(5, 4, 2, 2)
    losses = weighted_losses(predicted, target, T, prediction, ABAR, settings_of(*options.split()))
    np.testing.assert_allclose(losses.numpy(), weight, rtol=2e-4)


@pytest.mark.parametrize("loss", ["huber", "smooth_l1"])
@pytest.mark.parametrize(
    ("schedule", "threshold"),
    [
        ("constant", np.full(5, 0.2 * 3)),
        ("exponential", 0.2 ** (T.numpy() / 1000) * 3),
        ("snr", 0.8 / (1 + SNR**-0.5) ** 2 + 0.2),
    ],
)
def test_huber_scale_multiplies_the_thresholds_that_it_does_there(
    loss: str, schedule: str, threshold: np.ndarray
) -> None:
    options = (f"--loss_type={loss}", f"--huber_schedule={schedule}", "--huber_c=0.2", "--huber_scale=3")
    predicted, target = torch.full((5, 4, 2, 2), 0.7), torch.zeros(5, 4, 2, 2)
    c = torch.from_numpy(threshold).float()
    expected = pseudo_huber(predicted, target, c) / (c if loss == "smooth_l1" else 1)
    losses = weighted_losses(predicted, target, T, "eps", ABAR, settings_of(*options))
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=0)
    told = translate([*LINE, "--train_data_dir=data", *options], Path()).told
    assert any("--huber_scale" in sentence for sentence in told) == (schedule == "snr")


def test_a_loss_of_another_prediction_is_refused_before_the_start(host: StandaloneHost) -> None:
    assert host.info.prediction == "eps"
    with pytest.raises(BadInput, match="scale-v-loss belongs to a model that predicts v"):
        noise_schedule(host, settings_of("--scale_v_pred_loss_like_noise_pred"))
    noise_schedule(host, settings_of("--v_pred_like_loss=0.1"))


def test_noise_offset_of_a_random_strength_differs_from_picture_to_picture() -> None:
    settings = settings_of("--noise_offset=0.8", "--noise_offset_random_strength")
    noise, _ = draw_noise(torch.zeros(4000, 4, 8, 8), torch.Generator().manual_seed(0), settings)
    means = noise.mean((2, 3))  # of variance offset^2 + 1/64 in each channel
    strengths = (means.var(1) - 1 / 64).clamp(min=0).sqrt()
    assert float(means.var()) == pytest.approx(0.8**2 / 3 + 1 / 64, rel=0.08)  # E[u^2] is a third
    assert float(strengths.std()) > 0.2
    steady = settings_of("--noise_offset=0.8")
    noise, _ = draw_noise(torch.zeros(4000, 4, 8, 8), torch.Generator().manual_seed(0), steady)
    assert float(noise.mean((2, 3)).var()) == pytest.approx(0.8**2 + 1 / 64, rel=0.05)


def test_adaptive_noise_adds_what_the_channels_mean() -> None:
    latents = torch.zeros(3000, 4, 4, 4)
    latents[:, 1] -= 2  # its mean has the size 2
    for scale, expected in ((0.5, 0.2 + 0.5 * 2), (-1, 0.0)):
        settings = settings_of("--noise_offset=0.2", f"--adaptive_noise_scale={scale}")
        noise, _ = draw_noise(latents, torch.Generator().manual_seed(0), settings)
        variance = noise.mean((2, 3)).var(0) - 1 / 16
        assert float(variance[1]) == pytest.approx(expected**2, rel=0.07, abs=0.01)
        assert float(variance[0]) == pytest.approx(0.2**2, rel=0.2)


def test_input_perturbation_of_a_random_strength() -> None:
    settings = settings_of("--ip_noise_gamma=0.5", "--ip_noise_gamma_random_strength")
    asked, given = draw_noise(torch.zeros(2000, 4, 8, 8), torch.Generator().manual_seed(0), settings)
    strengths = (given - asked).flatten(1).std(1)
    assert float(strengths.min()) < 0.01 and 0.48 < float(strengths.max()) < 0.6
    assert float(strengths.mean()) == pytest.approx(0.25, rel=0.05)


@pytest.mark.parametrize(
    ("option", "said"),
    [("--adaptive_noise_scale=1", "noise-offset is 0"), ("--ip_noise_gamma_random_strength", "perturbation")],
)
def test_what_varies_nothing_is_refused(option: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        check_noise(settings_of(option))


def test_tags_come_in_over_the_steps(pictures: str, tmp_path: Path) -> None:
    """After s of 10 steps there are floor(s (n - min) / 10) + min of n tags, beside those that are kept."""
    for picture in Path(pictures).glob("*.png"):
        picture.with_suffix(".caption").write_text("zqx-word, a, b, c, d, e", encoding="utf-8")
    options = ("--token_warmup_step=0.5", "--token_warmup_min=2", "--keep_tokens=1")
    settings = settings_of(*options, folder=pictures)
    source = find_source(settings, ["[filewords]"], tmp_path / "kept")
    from lib_ti.data.latents import LatentCache

    captions = [picture.caption for picture in source.pictures]
    subsets = [picture.subset for picture in source.pictures]
    samples = TrainingSet(LatentCache([], []), captions, ["[filewords]"], "zqx-word", settings, 1000, subsets)
    counts = [len(samples.prompts(step)[0].split(", ")) for step in range(1, 21)]
    assert counts == [1 + (s * 3 // 10 + 2 if s < 10 else 5) for s in range(20)]
    assert first_prompts(source, settings, "zqx-word")[0] == "zqx-word, a, b"
