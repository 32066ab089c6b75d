"""Whole jobs alone on every family: tiny checkpoints of the true layouts, with random weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from lib_ti.core.objective import q_sample, squared_error, target_of
from lib_ti.data.images import find_images, load_image
from lib_ti.formats import ldm
from lib_ti.formats.embedding import read_embedding, read_embeddings
from lib_ti.hosts.base import SampleRequest
from lib_ti.hosts.checkpoints import load_components
from lib_ti.hosts.standalone import StandaloneHost
from lib_ti.jobs import folders_under, start
from lib_ti.methods.registry import read_settings
from lib_ti.methods.starts import initial_vectors
from lib_ti.methods.vector_settings import InversionSettings
from lib_ti.networks import attach, read_network
from tests.hosts.tiny import SD2_BLOCKS, new_sd2, new_sdxl, sdxl_state, shapes_of, to_open_clip, write

# checkpoint: family, prediction, what it learns by text encoder, what the file's tensors are called
FAMILIES = {
    "sd2": ("sd2", "eps", {"clip_h": 64}, {"emb_params"}),
    "sd2-v": ("sd2", "v", {"clip_h": 64}, {"emb_params"}),
    "sdxl": ("sdxl", "eps", {"clip_l": 64, "clip_g": 128}, {"clip_l", "clip_g"}),
}
Vectors = Mapping[str, torch.Tensor]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def checkpoint(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / f"{family}.safetensors"
    if family == "sdxl":
        return write(path, sdxl_state(new_sdxl()))
    unet, vae, text_encoder = new_sd2()
    state = ldm.to_ldm(unet.state_dict(), vae.state_dict(), {})
    state |= to_open_clip(text_encoder, ldm.OPEN_CLIP, SD2_BLOCKS)
    prediction = "v" if family == "sd2-v" else "eps"
    described = ldm.ldm_config(shapes_of(state), parameterization=prediction)  # type: ignore[arg-type]
    return write(path, state, described)


@pytest.fixture(scope="module")
def alone(checkpoint: Path) -> StandaloneHost:
    return StandaloneHost.load(checkpoint, "cpu")


@pytest.fixture
def exact(checkpoint: Path) -> Iterator[StandaloneHost]:
    """The same in float64; transformers fills its causal mask in the default dtype."""
    torch.set_default_dtype(torch.float64)
    yield StandaloneHost(load_components(checkpoint, torch.float64), torch.device("cpu"))
    torch.set_default_dtype(torch.float32)


def error(host: StandaloneHost, vectors: Vectors, pictures: str) -> torch.Tensor:
    """What training lowers, at fixed noise and timesteps; differentiable."""
    pixels = torch.stack([load_image(path, 64, 64) for path in find_images(Path(pictures))])
    latents = host.encode_images(pixels).mean.repeat(4, 1, 1, 1)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(3))
    timesteps = torch.arange(31, 1000, 62)
    abar = host.info.alphas_cumprod
    host.set_embeddings({"zqx": vectors})
    condition = host.encode_prompts(["a photo of a (zqx:1.3)"] * len(latents))
    predicted = host.predict_noise(q_sample(latents, noise, timesteps, abar), timesteps, condition)
    target = target_of(host.info.prediction, latents, noise, timesteps, abar)
    return squared_error(predicted, target).mean()


def test_the_gradient_of_the_loss_is_that_of_finite_differences(
    exact: StandaloneHost, family: str, pictures: str
) -> None:
    kind, prediction, widths, _ = FAMILIES[family]
    assert (exact.info.family, exact.info.prediction) == (kind, prediction)
    assert dict(exact.info.text_encoders) == widths
    generator = torch.Generator().manual_seed(4)
    vectors = {
        name: (torch.randn(2, width, generator=generator) * 0.02).requires_grad_()
        for name, width in widths.items()
    }
    with exact.lend():
        error(exact, vectors, pictures).backward()
        for tensor in vectors.values():
            assert tensor.grad is not None
            for row, gradient in zip(tensor.data, tensor.grad, strict=True):
                before, step = row.clone(), 5e-4 * gradient / gradient.norm()
                with torch.no_grad():
                    row.copy_(before + step)
                    above = error(exact, vectors, pictures)
                    row.copy_(before - step)
                    below = error(exact, vectors, pictures)
                    row.copy_(before)
                assert float(above - below) / 1e-3 == pytest.approx(float(gradient.norm()), rel=5e-3)


def test_a_short_job_lowers_the_error_and_leaves_the_familys_file(
    alone: StandaloneHost, family: str, pictures: str, tmp_path: Path
) -> None:
    kind, _, widths, keys = FAMILIES[family]
    settings = InversionSettings(
        name="zqx",
        images=pictures,
        init_text="star",
        steps=40,
        learning_rate="0.02",
        batch_size=4,
        accumulation=1,
        weighting="none",
        width=64,
        height=64,
        preview_every=40,
        preview_count=1,
        preview_steps=2,
    )
    outcome = start(
        alone,
        settings,
        folders=folders_under(tmp_path),
        model=family,
        report=lambda event: None,
        stopped=lambda: False,
    )
    assert outcome.status == "done" and len(list(outcome.job.samples.glob("*.png"))) == 1
    with safe_open(outcome.embedding, framework="pt") as file:
        assert set(file.keys()) == keys
        assert file.metadata()["family"] == kind
    made = read_embedding(outcome.embedding)
    assert {name: tuple(v.shape) for name, v in made.vectors.items()} == {
        n: (2, w) for n, w in widths.items()
    }
    first = initial_vectors(alone, settings)
    with alone.lend(), torch.no_grad():
        before, after = (float(error(alone, vectors, pictures)) for vectors in (first, made.vectors))
        assert after < 0.9995 * before
        asked = SampleRequest(["a zqx"], [1], steps=2, width=64, height=64)
        drawn = []
        for vectors in (first, made.vectors):
            alone.set_embeddings({"zqx": vectors})
            drawn.append(np.asarray(alone.sample(asked)[0], dtype=int))
        assert np.abs(drawn[0] - drawn[1]).max() > 5


def test_a_network_and_its_word_learn_in_every_part(
    alone: StandaloneHost, family: str, pictures: str, tmp_path: Path
) -> None:
    kind, _, widths, _ = FAMILIES[family]
    told = {"images": pictures, "steps": 3, "width": 64, "height": 64, "preview_every": 0, "accumulation": 1}
    word = {"trigger_word": "zqx", "word_vectors": 2, "template": "subject"}
    settings = read_settings({"method": "c3lier", "name": "zqx-net", "learning_rate": "0.01", **told, **word})
    before = {part: model.state_dict() for part, model in alone.parts().items()}
    before = {part: {key: value.clone() for key, value in state.items()} for part, state in before.items()}
    outcome = start(
        alone,
        settings,
        folders=folders_under(tmp_path),
        model=family,
        report=lambda event: None,
        stopped=lambda: False,
    )
    for part, model in alone.parts().items():
        assert all(torch.equal(value, before[part][key]) for key, value in model.state_dict().items())
    files = {product.role: file for product, file in outcome.files.items()}
    network = read_network(files["network"])
    assert network.family == kind and not network.unread
    with alone.lend(), attach(alone, files["network"], family=kind) as attached:
        assert not attached.unmatched
    learned = {name for name, update in network.updates.items() if update.up.any()}
    starts = ("lora_unet_", "lora_te1_", "lora_te2_") if kind == "sdxl" else ("lora_unet_", "lora_te_")
    for start_ in starts:
        assert any(name.startswith(start_) for name in learned)
    (inside,) = read_embeddings(files["bundle"])
    # Of so narrow a vector nobody can tell for which text encoder of one it is.
    assert sorted(vectors.shape for vectors in inside.vectors.values()) == sorted(
        (2, width) for width in widths.values()
    )
