from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from lib_ti.core.errors import BadInput
from lib_ti.hosts.clip_text import ClipText
from lib_ti.hosts.tokenizer import build_clip_tokenizer

WIDTH, LAYERS = 64, 4
CONFIG = CLIPTextConfig(
    hidden_size=WIDTH,
    intermediate_size=128,
    projection_dim=WIDTH,
    num_hidden_layers=LAYERS,
    num_attention_heads=4,
)
PLAIN = "a photo of a small red star, on a blue background"


def random_model(kind: type = CLIPTextModel) -> torch.nn.Module:
    torch.manual_seed(0)
    model = kind(CONFIG).eval().requires_grad_(False)
    # Fresh layer norms give states of mean zero, by which emphasis would have to divide.
    with torch.random.fork_rng():
        bias = model.text_model.final_layer_norm.bias
        bias.copy_(torch.randn_like(bias) * 0.3 - 0.1)
    return model


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return build_clip_tokenizer()


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return random_model()


@pytest.fixture(scope="module")
def clip(model, tokenizer) -> ClipText:
    return ClipText(model, tokenizer)


def live(count: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(count, WIDTH, generator=generator, dtype=dtype) * 0.02).requires_grad_()


def plain(model: torch.nn.Module, *rows: list[int]) -> torch.Tensor:
    """The model's own answer to token ids, each row framed and padded by hand."""
    ids = [[49406, *row, *[49407] * (76 - len(row))] for row in rows]
    return model(input_ids=torch.tensor(ids)).last_hidden_state


@pytest.mark.parametrize("pad_token", ["<|endoftext|>", "!"])
@pytest.mark.parametrize("prompts", [[PLAIN], ["", PLAIN], ["cat " * 75]])
def test_a_plain_prompt_is_encoded_as_diffusers_does(model, pad_token, prompts):
    diffusers = pytest.importorskip("diffusers")
    tokenizer = build_clip_tokenizer(pad_token)
    pipeline = diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(block_out_channels=(32,), norm_num_groups=32),
        text_encoder=model,
        tokenizer=tokenizer,
        unet=diffusers.UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(32,),
            down_block_types=("CrossAttnDownBlock2D",),
            up_block_types=("CrossAttnUpBlock2D",),
            cross_attention_dim=WIDTH,
        ),
        scheduler=diffusers.DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    clip = ClipText(model, tokenizer)
    for ours, theirs in [(1, None), (2, 1), (LAYERS, LAYERS - 1)]:
        expected, _ = pipeline.encode_prompt(prompts, torch.device("cpu"), 1, False, clip_skip=theirs)
        assert torch.equal(clip.encode(prompts, clip_skip=ours), expected)


def test_a_model_with_projection_gives_its_hidden_states(tokenizer):
    model = random_model(CLIPTextModelWithProjection)
    ids = tokenizer(PLAIN, add_special_tokens=False).input_ids
    assert torch.equal(ClipText(model, tokenizer).encode([PLAIN]), plain(model, ids))


def test_chunks_are_encoded_apart_and_joined(clip, model):
    encoded = clip.encode(["cat BREAK dog", "cat", "cat " * 80])
    cat, dog, many, rest, empty = plain(model, [2368], [1929], [2368] * 75, [2368] * 5, [])
    assert encoded.shape == (3, 154, WIDTH)
    expected = torch.stack([torch.cat([cat, dog]), torch.cat([cat, empty]), torch.cat([many, rest])])
    torch.testing.assert_close(encoded, expected, rtol=0, atol=1e-6)


def test_equal_chunks_are_encoded_once(clip, model):
    sizes = []
    handle = model.register_forward_hook(
        lambda module, args, kwargs, out: sizes.append(len(out[0])), with_kwargs=True
    )
    try:
        encoded = clip.encode(["cat", "dog", "cat", "cat BREAK dog"])
    finally:
        handle.remove()
    assert sizes == [3]  # cat, dog and the empty chunk
    assert torch.equal(encoded[0], encoded[2])
    assert torch.equal(encoded[0, :77], encoded[3, :77])
    assert torch.equal(encoded[1, :77], encoded[3, 77:])


def test_the_pad_can_differ_from_the_tokenizers(model, tokenizer):
    """SD2 pads with id 0, yet a "!" that somebody wrote is the word's own token."""
    seen = []
    handle = model.get_input_embeddings().register_forward_hook(
        lambda module, args, output: seen.append(args[0])
    )
    try:
        ClipText(model, tokenizer, pad_id=0).encode(["cat!"])
    finally:
        handle.remove()
    assert seen[0].tolist() == [[49406, 2368, 256, 49407] + [0] * 73]


def test_emphasis_scales_states_and_keeps_their_mean(clip, model):
    encoded = clip.encode(["cat (dog:1.5) BREAK cat"])[0]
    states, cat = plain(model, [2368, 1929], [2368])
    weighted = states.clone()
    weighted[2] *= 1.5
    torch.testing.assert_close(encoded[:77], weighted * states.mean() / weighted.mean(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(encoded[:77].mean(), states.mean(), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(encoded[77:], cat, rtol=0, atol=1e-6)


def test_emphasis_of_one_leaves_the_bits(clip):
    assert torch.equal(clip.encode(["(cat:1.0) ([dog])"]), clip.encode(["cat dog"]))


def test_a_prompt_does_not_depend_on_its_neighbours_emphasis(clip):
    alone = clip.encode(["(cat:1.5) dog"])[0]
    together = clip.encode(["(cat:1.5) dog", "(dog:0.2)"])[0]
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-6)


def test_a_splice_equals_a_larger_vocabulary(clip, model):
    zorbo, x200, x2000 = live(3, 1), live(1, 2), live(2, 3)
    larger = copy.deepcopy(model)
    larger.resize_token_embeddings(49408 + 6)
    larger.get_input_embeddings().weight.data[49408:] = torch.cat([zorbo, x200, x2000]).detach()
    reference = plain(
        larger,
        [2368, 49408, 49409, 49410, 1929, 49412, 49413],
        [49411, 2368, 49408, 49409, 49410, 49408, 49409, 49410],
    )
    embeddings = {"zorbo": zorbo, "x-200": x200, "x-2000": x2000}
    encoded = clip.encode(["cat zorbo dog x-2000", "x-200 cat Zorbo zorbo"], embeddings)
    assert torch.equal(encoded, reference)


@pytest.fixture
def float64_by_default() -> Iterator[None]:
    """transformers fills its causal mask in the default dtype, where the least float64 must fit."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("float64_by_default")
@pytest.mark.parametrize("clip_skip", [1, 2])
def test_the_gradient_of_live_vectors_is_that_of_finite_differences(tokenizer, clip_skip):
    clip = ClipText(random_model().double(), tokenizer)
    prompts = ["a (zorbo:1.3) cat", "zorbo zorbo BREAK [zorbo]", "a (zorbo:1.3) cat", "cat"]
    vectors = live(2, dtype=torch.float64)
    readout = torch.randn(4, 154, WIDTH, generator=torch.Generator().manual_seed(5), dtype=torch.float64)

    def value(at: torch.Tensor) -> torch.Tensor:
        return (clip.encode(prompts, {"zorbo": at}, clip_skip) * readout).sum()

    (gradient,) = torch.autograd.grad(value(vectors), vectors)
    assert gradient.abs().min() > 0
    for seed in range(6):
        direction = live(2, 10 + seed, torch.float64).detach()
        step = 1e-4 * direction / direction.norm()
        with torch.no_grad():
            difference = (value(vectors + step) - value(vectors - step)) / 2
        assert difference.item() == pytest.approx((gradient * step).sum().item(), rel=1e-6)


def test_half_precision_models_take_float32_vectors(tokenizer):
    model = random_model().bfloat16()
    vectors = live(2)
    encoded = ClipText(model, tokenizer).encode(["a (zorbo) cat"], {"zorbo": vectors})
    encoded.float().square().sum().backward()
    assert encoded.dtype == torch.bfloat16
    assert vectors.grad.dtype == torch.float32
    assert vectors.grad.abs().sum() > 0


def test_encoding_leaves_the_model_as_it_was(tokenizer):
    model = random_model()
    clip = ClipText(model, tokenizer)
    before = copy.deepcopy(model.state_dict())
    clip.encode(["a (zorbo) cat"], {"zorbo": live(4)}, clip_skip=2).square().sum().backward()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(
        clip.encode([PLAIN + " zorbo"]), ClipText(random_model(), tokenizer).encode([PLAIN + " zorbo"])
    )


def test_a_failing_forward_leaves_no_splice_behind(tokenizer):
    model = random_model()
    clip = ClipText(model, tokenizer)
    expected = clip.encode(["zorbo"])

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    handle = model.text_model.encoder.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        clip.encode(["zorbo"], {"zorbo": live(1)})
    handle.remove()
    assert torch.equal(clip.encode(["zorbo"]), expected)


def test_token_vectors(clip, model):
    vectors = clip.token_vectors()
    assert vectors.shape == (49408, WIDTH)
    assert vectors.dtype == torch.float32
    assert not vectors.requires_grad
    assert torch.equal(vectors, model.get_input_embeddings().weight)


def test_triggers_are_counted(clip):
    assert clip.count_triggers("zorbo, (zorbo) cat", {"zorbo": live(3), "quux": live(1)}) == {
        "zorbo": 2,
        "quux": 0,
    }


@pytest.mark.parametrize("shape", [(2, 768), (WIDTH,)])
def test_vectors_of_another_family_are_refused(clip, shape):
    with pytest.raises(BadInput, match=r"zorbo.*64"):
        clip.encode(["zorbo"], {"zorbo": torch.zeros(shape)})


@pytest.mark.parametrize("clip_skip", [0, LAYERS + 1])
def test_a_clip_skip_past_the_layers_is_refused(clip, clip_skip):
    with pytest.raises(BadInput, match="choose 1 to 4"):
        clip.encode(["cat"], clip_skip=clip_skip)
