"""On the built-in checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch

from lib_ti.bench.step import fill_zeros
from lib_ti.core.errors import BadInput
from lib_ti.core.loop import Loop
from lib_ti.core.schedule import parse_learning_rate
from lib_ti.core.settings import options_of
from lib_ti.data.samples import LatentCache, TrainingSet
from lib_ti.hosts.base import Embeddings
from lib_ti.hosts.checkpoints import Components
from lib_ti.hosts.standalone import StandaloneHost
from lib_ti.hosts.tokenizer import build_clip_tokenizer
from lib_ti.methods.starts import initial_vectors
from lib_ti.methods.textual_inversion import (
    TextualInversion,
    as_embedding,
    check_name,
    noise_schedule,
    preflight,
    relative_travel,
)
from lib_ti.methods.vector_settings import InversionSettings
from lib_ti.tinyworld.train_autoencoder import new_autoencoder
from lib_ti.tinyworld.train_denoiser import new_scheduler, new_text_encoder, new_unet

SETTINGS = InversionSettings(name="zqx-cat", vectors=3, init_text="star", steps=100)


@pytest.fixture
def lent(host: StandaloneHost) -> Iterator[StandaloneHost]:
    with host.lend():
        yield host


def know(host: StandaloneHost, settings: InversionSettings) -> None:
    live: Embeddings = {settings.name: {"clip_l": torch.zeros(settings.vectors, 64)}}
    host.set_embeddings(live)


def make(host: StandaloneHost, settings: InversionSettings, lines: list[str]) -> TextualInversion:
    generator = torch.Generator().manual_seed(3)
    cache = LatentCache(torch.randn(4, 1, 4, 8, 8, generator=generator), torch.full((4, 1, 4, 8, 8), 0.1))
    return TextualInversion(
        host, settings, TrainingSet(cache, ["a", "b", "c", "d"], lines, settings.name, settings)
    )


class TestChecks:
    def test_an_ordinary_word_is_no_name(self, lent: StandaloneHost) -> None:
        with pytest.raises(BadInput, match="'cat' is an ordinary word"):
            check_name(lent, "cat")
        check_name(lent, "zqx-cat")

    def test_a_trigger_in_no_prompt_is_refused(self, lent: StandaloneHost) -> None:
        know(lent, SETTINGS)
        with pytest.raises(BadInput, match="occurs in none of the 2 prompts"):
            preflight(lent, SETTINGS, ["a photo", "a drawing"])

    def test_found_prompts_are_counted(self, lent: StandaloneHost) -> None:
        know(lent, SETTINGS)
        said = preflight(lent, SETTINGS, ["a zqx-cat", "a drawing of (ZQX-cat:1.2)", "a dog"])
        assert said[0].startswith("trigger 'zqx-cat' found in 2 of 3 prompts")
        assert len(said) == 2
        assert "warning" not in said[1]

    def test_a_rate_that_cannot_learn_is_said(self, lent: StandaloneHost) -> None:
        know(lent, SETTINGS)
        hopeless = replace(SETTINGS, learning_rate="1e-6", steps=1600)
        assert relative_travel(lent, hopeless) < 0.1
        assert preflight(lent, hopeless, ["zqx-cat"])[1].startswith("warning")

    def test_reach_is_told_only_where_the_rate_settles_it(self, lent: StandaloneHost) -> None:
        know(lent, SETTINGS)
        plain = replace(SETTINGS, optimizer="torch.optim.SGD")
        assert len(preflight(lent, plain, ["zqx-cat"])) == 1
        prodigy = replace(SETTINGS, optimizer="prodigy")
        assert "should be about 1.0" in preflight(lent, prodigy, ["zqx-cat"])[1]
        assert len(preflight(lent, replace(prodigy, learning_rate="1"), ["zqx-cat"])) == 1

    def test_decay_and_shares_count_for_the_reach(self, lent: StandaloneHost) -> None:
        whole = relative_travel(lent, replace(SETTINGS, learning_rate="0.01"))
        falling = relative_travel(lent, replace(SETTINGS, learning_rate="0.01", decay="linear"))
        half = relative_travel(lent, replace(SETTINGS, learning_rate="0.01:0.5, 1e-9"))
        assert falling == pytest.approx(0.505 * whole)
        assert half == pytest.approx(0.5 * whole, rel=1e-4)


class TestLearning:
    def test_only_the_vectors_get_gradient_and_only_they_change(self, lent: StandaloneHost) -> None:
        modules = lent._modules()
        before = [p.detach().clone() for module in modules for p in module.parameters()]
        method = make(lent, SETTINGS, ["a photo of zqx-cat"])
        start = method.vectors["clip_l"].detach().clone()
        Loop(method, parse_learning_rate("0.005"), None).run(
            3, due=lambda s: False, on_progress=lambda p: None, stopped=lambda: False
        )
        after = [p for module in modules for p in module.parameters()]
        assert all(p.grad is None and torch.equal(p, old) for p, old in zip(after, before, strict=True))
        assert (method.vectors["clip_l"] != start).any(1).all()

    def test_no_memory_is_kept_for_frozen_weights(self, lent: StandaloneHost) -> None:
        """The graph holds less than with weights that learn, and no more than bare torch's."""
        method = make(lent, SETTINGS, ["a photo of zqx-cat"])
        batch = method.draw(1)[0]
        weights = {p.untyped_storage().data_ptr() for module in lent._modules() for p in module.parameters()}

        def bare() -> torch.Tensor:
            hidden = lent.encode_prompts(batch.prompts).hidden
            predicted = lent._unet(batch.latents, batch.timesteps, encoder_hidden_states=hidden).sample
            return (predicted - batch.noise).pow(2).mean()

        def saved_bytes(loss: Callable[[], torch.Tensor]) -> int:
            kept: dict[int, int] = {}

            def pack(tensor: torch.Tensor) -> torch.Tensor:
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in weights:  # they are in memory anyhow
                    kept[storage.data_ptr()] = storage.nbytes()
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                loss()
            return sum(kept.values())

        frozen, floor = saved_bytes(lambda: method.losses(batch).sum()), saved_bytes(bare)
        for module in lent._modules():
            module.requires_grad_(True)
        unfrozen = saved_bytes(lambda: method.losses(batch).sum())
        for module in lent._modules():
            module.requires_grad_(False)
        assert frozen < 0.9 * unfrozen
        assert frozen <= 1.02 * floor

    def test_accumulated_gradients_equal_the_larger_batch(self, lent: StandaloneHost) -> None:
        """In float64, same noise and timesteps, to 1e-9 (DESIGN of the loop: drawn whole, then cut)."""
        modules, info = lent._modules(), lent.info
        gradients = []
        try:
            torch.set_default_dtype(torch.float64)  # transformers makes its causal mask in it
            for module in modules:
                module.double()
            object.__setattr__(info, "dtype", torch.float64)
            for batch_size, accumulation in ((4, 1), (2, 2), (1, 4)):
                settings = replace(SETTINGS, batch_size=batch_size, accumulation=accumulation)
                method = make(lent, settings, ["a photo of zqx-cat", "a small zqx-cat"])
                method.vectors["clip_l"].data = method.vectors["clip_l"].data.double()
                Loop(method, parse_learning_rate("0.005"), None).take_step()
                gradients.append(method.vectors["clip_l"].grad)
        finally:
            torch.set_default_dtype(torch.float32)
            for module in modules:
                module.float()
            object.__setattr__(info, "dtype", torch.float32)
        assert gradients[0] is not None and gradients[0].abs().max() > 1e-6
        for other in gradients[1:]:
            torch.testing.assert_close(other, gradients[0], rtol=0, atol=1e-9)

    def test_gradient_equals_a_finite_difference(self, lent: StandaloneHost) -> None:
        method = make(lent, SETTINGS, ["a photo of zqx-cat"])
        batch = method.draw(1)[0]
        method.losses(batch).sum().backward()
        vectors = method.vectors["clip_l"]
        gradient = vectors.grad
        assert gradient is not None
        direction = gradient / gradient.norm()
        step = 1e-2
        with torch.no_grad():
            sides = []
            for sign in (1, -1):
                vectors += sign * step * direction
                sides.append(float(method.losses(batch).sum()))
                vectors -= sign * step * direction
        assert (sides[0] - sides[1]) / (2 * step) == pytest.approx(float(gradient.norm()), rel=0.05)

    def test_half_precision_gives_nearly_the_same_gradient(self, lent: StandaloneHost) -> None:
        gradients = []
        for precision in ("model", "bf16"):
            method = make(lent, SETTINGS, ["a photo of zqx-cat"])
            Loop(
                method, parse_learning_rate("0.005"), None, replace(SETTINGS, precision=precision)
            ).take_step()
            gradient = method.vectors["clip_l"].grad
            assert gradient is not None and gradient.dtype == torch.float32
            gradients.append(gradient.flatten())
        assert not torch.equal(*gradients)
        assert float(torch.cosine_similarity(*gradients, dim=0)) > 0.99


class TestNoise:
    def test_with_every_option_off_a_step_sees_what_it_saw_before_there_were_any(
        self, lent: StandaloneHost
    ) -> None:
        """The numbers of the version before noise had options."""
        settings = replace(SETTINGS, batch_size=2, accumulation=2)
        first, second = make(lent, settings, ["a photo of zqx-cat", "a small zqx-cat"]).draw(3)
        assert first.timesteps.tolist() == [889, 450]
        assert second.timesteps.tolist() == [194, 313]
        assert first.noise[:, 0, 0, 0].tolist() == pytest.approx([-0.47611016, 0.53047264])
        assert second.latents[:, 0, 0, 0].tolist() == pytest.approx([-0.07635924, -2.26012850])
        assert torch.equal(first.input_noise, first.noise)

    def test_the_model_is_given_the_perturbed_noise_and_asked_for_the_other(
        self, lent: StandaloneHost, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        method = make(lent, replace(SETTINGS, input_perturbation=0.5, weighting="none"), ["zqx-cat"])
        batch, given = method.draw(1)[0], []

        def answer(latents: torch.Tensor, timesteps: torch.Tensor, condition: object) -> torch.Tensor:
            given.append(latents)
            return batch.noise

        monkeypatch.setattr(lent, "predict_noise", answer)
        assert method.losses(batch).tolist() == [0.0]
        abar = lent.info.alphas_cumprod[batch.timesteps].view(-1, 1, 1, 1)
        mixed = abar.sqrt() * batch.latents + (1 - abar).sqrt() * batch.input_noise
        torch.testing.assert_close(given[0], mixed)
        assert not torch.allclose(batch.input_noise, batch.noise)

    def test_a_terminal_snr_of_zero_is_for_models_that_predict_v(
        self, lent: StandaloneHost, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = replace(SETTINGS, zero_terminal_snr=True)
        with pytest.raises(BadInput, match="predicts noise"):
            noise_schedule(lent, settings)
        monkeypatch.setattr(lent, "info", replace(lent.info, prediction="v"))
        assert float(make(lent, settings, ["zqx-cat"]).alphas_cumprod[-1]) == 0
        assert float(lent.info.alphas_cumprod[-1]) > 0


class TestExport:
    def test_metadata_tell_the_training_and_nothing_private(self, lent: StandaloneHost) -> None:
        settings = replace(SETTINGS, images="/home/somebody/secret")
        embedding = as_embedding(initial_vectors(lent, settings), lent, settings, 50)
        assert embedding.name == "zqx-cat"
        assert embedding.step == 50
        assert embedding.metadata["base_model"] == "tinyworld"
        assert "secret" not in str(dict(embedding.metadata))

    def test_every_setting_tells_of_itself(self) -> None:
        assert all(told.help and told.group for _, told, _ in options_of(InversionSettings).values())


def test_sd2_with_v_prediction_learns_too() -> None:
    """Random weights at tiny width: gradient reaches the vectors, the file says SD2."""
    torch.manual_seed(0)
    unet = new_unet()
    fill_zeros(unet, torch.Generator().manual_seed(0))
    components = Components(
        unet=unet,
        vae=new_autoencoder(),
        text_encoder=new_text_encoder(),
        tokenizer=build_clip_tokenizer(),
        family="sd2",
        prediction="v",
        alphas_cumprod=new_scheduler().alphas_cumprod,
        name="random-sd2",
        native_size=64,
        file=None,
    )
    host = StandaloneHost(components, torch.device("cpu"))
    with host.lend():
        method = make(host, SETTINGS, ["a photo of zqx-cat"])
        loop = Loop(method, parse_learning_rate("0.005"), None)
        start = method.vectors["clip_h"].detach().clone()
        loop.run(12, due=lambda s: False, on_progress=lambda p: None, stopped=lambda: False)
        assert (method.vectors["clip_h"] != start).any(1).all()
        assert as_embedding(method.vectors, host, SETTINGS, 12).family == "sd2"
