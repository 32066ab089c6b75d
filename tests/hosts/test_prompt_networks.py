"""Networks called in a prompt, on the standalone host with the built-in checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib_ti.hosts.base import SampleRequest
from lib_ti.hosts.standalone import StandaloneHost
from lib_ti.networks import prompt_layers
from lib_ti.networks.attach import attach
from lib_ti.networks.files import read_network
from lib_ti.networks.layers import find_layers, trained_layers
from lib_ti.networks.prompt import parse_tag
from lib_ti.networks.prompt_run import Called, PromptNetworks

RANK = 4


@pytest.fixture(scope="module")
def file(host: StandaloneHost, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A C3Lier for every layer, U-Net and text encoder."""
    generator, tensors = torch.Generator().manual_seed(0), {}
    for name, layer in trained_layers(find_layers(host.parts(), "sd1"), conv=True).items():
        shape = layer.weight.shape
        ones = [1] * (len(shape) - 2)
        tensors[f"{name}.lora_down.weight"] = torch.randn(RANK, *shape[1:], generator=generator) * 0.1
        tensors[f"{name}.lora_up.weight"] = torch.randn(shape[0], RANK, *ones, generator=generator) * 0.1
        tensors[f"{name}.alpha"] = torch.tensor(2.0)
    path = tmp_path_factory.mktemp("networks") / "big.safetensors"
    save_file(tensors, path)
    return path


@contextmanager
def hung(
    host: StandaloneHost, file: Path, tags: Sequence[str], negative: Sequence[str] = ()
) -> Iterator[PromptNetworks]:
    calls = [Called.of(parse_tag(tag), file) for tag in tags]
    calls += [Called.of(parse_tag(tag), file, negative=True) for tag in negative]
    networks = PromptNetworks(host.parts(), host.info.family, calls)
    try:
        yield networks
    finally:
        networks.remove()


def latents(host: StandaloneHost, networks: PromptNetworks | None, **more: object) -> torch.Tensor:
    usual: dict[str, Any] = {
        "negative_prompt": "dull",
        "steps": 4,
        "cfg_scale": 3.0,
        "width": 64,
        "height": 64,
    }
    request = SampleRequest(["a red star"] * 2, [3, 4], **{**usual, **more})
    with torch.no_grad():
        return host._denoise(request, request.prompts, request.seeds, networks)


def drawn(host: StandaloneHost, file: Path, *tags: str, negative: Sequence[str] = ()) -> torch.Tensor:
    with hung(host, file, tags, negative) as networks:
        assert networks.refused == networks.told == []
        return latents(host, networks)


@contextmanager
def baked(host: StandaloneHost, file: Path, part: str = "", weight: float = 1.0) -> Iterator[None]:
    """The network in the weights themselves."""
    layers, network = find_layers(host.parts(), "sd1"), read_network(file)
    kept = {}
    with torch.no_grad():
        for name, update in network.updates.items():
            if layers[name].part.startswith(part):
                kept[name] = layers[name].weight.clone()
                layers[name].weight.add_(update.delta(layers[name].weight), alpha=weight)
        yield
        for name, before in kept.items():
            layers[name].weight.copy_(before)


def fingerprint(host: StandaloneHost) -> list[object]:
    modules = [module for part in host.parts().values() for module in part.modules()]
    return [
        [tensor.clone() for part in host.parts().values() for tensor in part.state_dict().values()],
        [(len(m._forward_hooks), len(m._forward_pre_hooks), sorted(vars(m))) for m in modules],
    ]


def same(one: list[object], two: list[object]) -> bool:
    tensors = zip(one[0], two[0], strict=True)  # type: ignore[call-overload]
    return one[1] == two[1] and all(torch.equal(a, b) for a, b in tensors)


def distance(one: torch.Tensor, two: torch.Tensor) -> float:
    return float((one - two).abs().max())


@pytest.fixture(scope="module")
def plain(host: StandaloneHost) -> torch.Tensor:
    return latents(host, None)


@pytest.mark.parametrize("dear", [0.0, 1e9], ids=["merged", "added"])
@pytest.mark.parametrize(
    ("tag", "part", "weight"),
    [("big:0.8", "", 0.8), ("big:te=0", "unet", 1.0), ("big:unet=0:te=0.7", "te", 0.7)],
)
def test_a_call_draws_what_the_weights_with_it_draw(
    host: StandaloneHost,
    file: Path,
    plain: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
    dear: float,
    tag: str,
    part: str,
    weight: float,
) -> None:
    monkeypatch.setattr(prompt_layers, "_DEAR", dear)
    before = fingerprint(host)
    ours = drawn(host, file, tag)
    assert same(fingerprint(host), before)
    with baked(host, file, part, weight):
        theirs = latents(host, None)
    assert distance(ours, theirs) < 1e-3 < 0.1 < distance(ours, plain)
    assert torch.equal(latents(host, None), plain)


@pytest.mark.parametrize("tag", ["big:start=1", "big:stop=0", "big:0", "big:blocks=NONE", "big:hr=only"])
def test_a_call_that_never_acts_changes_nothing(
    host: StandaloneHost, file: Path, plain: torch.Tensor, tag: str
) -> None:
    assert torch.equal(drawn(host, file, tag), plain)


def test_start_and_stop_are_shares_of_sampling(host: StandaloneHost, file: Path, plain: torch.Tensor) -> None:
    whole = drawn(host, file, "big:te=0")
    assert torch.equal(drawn(host, file, "big:te=0:start=0:stop=1"), whole)
    assert distance(drawn(host, file, "big:te=0:stop=0.3", "big:te=0:start=0.3"), whole) < 1e-3
    pictures = [plain, whole, drawn(host, file, "big:te=0:start=0.5"), drawn(host, file, "big:te=0:stop=0.5")]
    assert min(distance(a, b) for i, a in enumerate(pictures) for b in pictures[:i]) > 1e-2


def test_blocks_part_the_network(host: StandaloneHost, file: Path) -> None:
    whole = drawn(host, file, "big:0.5")
    parts = ["big:0.5:blocks=INALL", "big:0.5:te=0:blocks=OUTALL"]
    middle = "big:0.5:te=0:blocks=" + ",".join(["0"] * 13 + ["1"] + ["0"] * 12)
    assert distance(drawn(host, file, *parts, middle), whole) < 1e-4
    assert distance(drawn(host, file, *parts), whole) > 2e-4


def test_in_the_negative_prompt_the_unconditional_half_alone_changes(
    host: StandaloneHost, file: Path, plain: torch.Tensor
) -> None:
    texts = ["dull", "dull", "a star", "a star"]
    x, t = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor(500)
    halves = [True, True, False, False]
    with torch.no_grad():
        condition = host.encode_prompts(texts)
        before = host.predict_noise(x, t, condition)
        with baked(host, file, "unet"):
            everywhere = host.predict_noise(x, t, condition)
        with hung(host, file, [], ["big"]) as networks:
            with networks.reading(negative=False) as key:
                assert key == () and torch.equal(host.encode_prompts(texts).hidden, condition.hidden)
            with networks.reading(negative=True) as key:
                assert len(key) == 1 and distance(host.encode_prompts(texts).hidden, condition.hidden) > 0.1
            networks.denoise(0.0, halves)
            half = host.predict_noise(x, t, condition)
            networks.denoise(0.0, halves)  # the same batch in pieces, as a program may give it
            pieces = [host.predict_noise(x[i : i + 2], t, condition[slice(i, i + 2)]) for i in (0, 2)]
    assert distance(half[2:], before[2:]) < 1e-5 < 0.1 < distance(half[:2], before[:2])
    assert distance(half[:2], everywhere[:2]) < 1e-4
    assert distance(torch.cat(pieces), half) < 1e-4
    assert distance(drawn(host, file, negative=["big"]), plain) > 0.1
    # Taken back in that half, the network acts on the other alone.
    assert distance(drawn(host, file, "big", negative=["big:-1"]), drawn(host, file, "big")) > 0.1


def test_the_negative_half_does_not_matter_without_guidance(host: StandaloneHost, file: Path) -> None:
    without = latents(host, None, cfg_scale=1)
    with hung(host, file, [], ["big"]) as networks:
        assert torch.equal(latents(host, networks, cfg_scale=1), without)


def test_a_rank_in_the_prompt_is_the_network_extracted_at_that_rank(
    host: StandaloneHost, file: Path, tmp_path: Path
) -> None:
    cut = {}
    for key, tensor in load_file(file).items():
        down, up = key.endswith("lora_down.weight"), key.endswith("lora_up.weight")
        cut[key] = tensor[:2] if down else tensor[:, :2] if up else tensor
    extracted = tmp_path / "cut.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in cut.items()}, extracted)
    assert torch.equal(drawn(host, file, "big:rank=2"), drawn(host, extracted, "big"))
    assert torch.equal(drawn(host, file, f"big:rank={RANK}"), drawn(host, file, "big"))
    assert torch.equal(drawn(host, file, "big:rank=99"), drawn(host, file, "big"))


def test_an_error_in_the_middle_leaves_the_model_as_it_was(
    host: StandaloneHost, file: Path, plain: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fingerprint(host)
    calls = iter(range(100))

    def fail(*_: object) -> None:
        if next(calls) == 3:
            raise MemoryError

    handle = host.parts()["unet"].register_forward_hook(fail)
    with pytest.raises(MemoryError):
        drawn(host, file, "big")
    handle.remove()
    assert same(fingerprint(host), before)
    assert torch.equal(latents(host, None), plain)


def test_what_is_used_is_reported_in_the_words_of_attach(host: StandaloneHost, file: Path) -> None:
    attached = attach(host, file)
    attached.remove()
    assert attached.report.startswith("applied ") and attached.report.endswith(", rank 4, alpha 2")
    with hung(host, file, ["big:0.5"]) as networks:
        assert [*networks.reports.values()] == [f"big: {attached.report}"]


def test_what_cannot_be_used_is_told(host: StandaloneHost, file: Path, tmp_path: Path) -> None:
    tensors = load_file(file)
    first = next(key for key in tensors if key.endswith("attn1_to_q.lora_down.weight"))
    odd = {**tensors, first: torch.zeros(RANK, 7)}
    save_file(odd, tmp_path / "odd.safetensors")
    save_file(tensors, tmp_path / "xl.safetensors", {"ss_base_model_version": "sdxl_base_v1-0"})
    save_file({"model.diffusion_model.x": torch.zeros(1)}, tmp_path / "model.safetensors")
    strange = {first: torch.full((RANK, 128), torch.nan), "glora.a1.weight": torch.zeros(1)}
    save_file({**tensors, **strange}, tmp_path / "strange.safetensors")
    told = {}
    for name in ("odd", "xl", "model", "strange"):
        with hung(host, tmp_path / f"{name}.safetensors", [name]) as networks:
            told[name] = " ".join([*networks.refused, *networks.told])
    layer = first.partition(".")[0]
    assert told["odd"].startswith("odd: 1 of ") and told["odd"].endswith(f"or of another size: {layer}.")
    assert told["xl"] == "xl is not used: it was made for sdxl, and the checkpoint is sd1."
    assert "model.safetensors is a checkpoint" in told["model"]
    assert "strange: 1 of its 302 layers are not understood and left out" in told["strange"]
    assert "glora.a1.weight (of GLoRA, which is not supported)" in told["strange"]
    calls = [Called.of(parse_tag("big:blocks=" + ",".join("1" * 12)), file)]
    assert "12 block weights were given" in PromptNetworks(host.parts(), "sd1", calls).refused[0]
