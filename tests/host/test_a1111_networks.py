"""Networks called in a prompt, in a real WebUI, against the WebUI's own LoRAs; and what they leave behind."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from lib_ti.bench.webui import Refused, WebUI, running_webui
from tests.host.test_a1111_families import loaded
from tests.webui import probe, write_data

pytestmark = pytest.mark.host

HIRES = {"enable_hr": True, "hr_scale": 2, "denoising_strength": 0.6, "hr_upscaler": "Latent", "steps": 2}
BELOW = "dull <net:two>"
SLOTS = "Networks (TI Studio)"


@pytest.fixture(scope="module")
def own(webui: WebUI) -> WebUI:
    """With two networks of ours for the built-in checkpoint."""
    probe(webui, "write_network", name="one", seed=1)
    probe(webui, "write_network", name="two", seed=2)
    return webui


def draw(webui: WebUI, prompt: str, **more: Any) -> np.ndarray:
    return pixels(webui.txt2img(prompt, **{"negative_prompt": "dull", **more}))


def draw_all(webui: WebUI, **told: Any) -> list[np.ndarray]:
    """The pictures of several, without the grid of them all."""
    pictures = webui.txt2img_all(**told, override_settings={"return_grid": False})
    return [pixels(picture) for picture in pictures]


def pixels(image: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image)), dtype=int)


def distance(one: np.ndarray, two: np.ndarray) -> int:
    """The greatest difference of a value 0..255."""
    return int(np.abs(one - two).max())


@contextmanager
def nothing_left(webui: WebUI) -> Iterator[None]:
    """Weights to the byte, hooks, and the picture of a plain prompt are afterwards as they were."""
    state, plain = probe(webui, "model_state"), draw(webui, "a star")
    yield
    left = probe(webui, "model_state")
    assert left == state and left["shadowed"] == [] and not left["hanging"]
    assert np.array_equal(draw(webui, "a star"), plain)


@pytest.mark.parametrize("weights", ["0.8", "0.3:0.9", "-0.5", "te=0:unet=1", "unet=0:te=1", "0:te=1:unet=1"])
def test_a_call_draws_what_the_webuis_own_tag_draws(own: WebUI, weights: str) -> None:
    theirs = draw(own, f"a star <lora:one:{weights}>")
    with nothing_left(own):
        ours = draw(own, f"a star <net:one:{weights}>")
    assert distance(ours, theirs) <= 2
    assert distance(ours, draw(own, "a star")) > 20


@pytest.mark.parametrize("functional", [False, True])
def test_two_of_ours_and_the_webuis_own_on_the_same_layers(own: WebUI, functional: bool) -> None:
    """``functional``: the WebUI's setting by which its own are added too, and not written into weights."""

    def drawn(prompt: str) -> np.ndarray:
        return draw(own, prompt, override_settings={"lora_functional": functional})

    theirs = drawn("a star <lora:strong:0.5><lora:one:0.6><lora:two:-0.4>")
    with nothing_left(own):
        ours = drawn("a star <net:one:0.6><lora:strong:0.5><net:two:-0.4>")
        assert distance(ours, theirs) <= 2
        # The WebUI's own changes its weights at the first use of each layer, ours or not.
        other = drawn("a star <lora:strong:1><net:one:0.6>")
        assert distance(other, drawn("a star <lora:strong:1><lora:one:0.6>")) <= 2
    assert distance(ours, other) > 20


@pytest.mark.parametrize("many", [{"n_iter": 3}, {"batch_size": 3}], ids=["batches", "a batch"])
def test_each_of_three_pictures_is_the_one_that_is_drawn_alone(own: WebUI, many: dict[str, int]) -> None:
    called = {"prompt": "a star <net:one:0.6><lora:strong:0.5>", "negative_prompt": "dull <net:two:0.5>"}
    alone = [draw(own, **called, seed=seed) for seed in (7, 8, 9)]
    with nothing_left(own):
        pictures = draw_all(own, **called, **many)
    assert [distance(one, two) <= 2 for one, two in zip(pictures, alone, strict=True)] == [True] * 3
    assert min(distance(alone[i], alone[i - 1]) for i in range(3)) > 20


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_other_families_with_fused_attention_in_their_text_encoders(own: WebUI, family: str) -> None:
    with loaded(own, family):
        probe(own, "write_network", name=f"for-{family}", seed=3, size=0.2)
        for weights in ("te=0:unet=1", "unet=0:te=1"):
            theirs = draw(own, f"a star <lora:for-{family}:{weights}>", steps=2)
            with nothing_left(own):
                ours = draw(own, f"a star <net:for-{family}:{weights}>", steps=2)
            assert distance(ours, theirs) <= 2
            assert distance(ours, draw(own, "a star", steps=2)) > 2
        path = Path(probe(own, "write_network", name=f"plain-{family}", seed=3))
        save_file(load_file(path), path)  # without metadata
        cards = {name: card["description"] for name, card in probe(own, "cards").items()}
        assert "one" not in cards and cards[f"for-{family}"] == {"sd2": "SD 2.x", "sdxl": "SDXL"}[family]
        assert cards[f"plain-{family}"] == {"sd2": "unknown family", "sdxl": "SDXL"}[family]
        with nothing_left(own):
            another_family = draw(own, "a star <net:one>")
            assert f"made for sd1, and the checkpoint is {family}" in own.log_tail()
            assert np.array_equal(another_family, draw(own, "a star"))


def broken_off(webui: WebUI) -> None:
    probe(webui, "failing_unet", after=2)
    with pytest.raises(Refused):
        draw(webui, "a star <lora:strong:0.5><net:one>", negative_prompt=BELOW)


def another_checkpoint(webui: WebUI) -> None:
    folder = webui.data / "models" / "Stable-diffusion"
    tensors = load_file(folder / "tinyworld.safetensors")
    unet = "model.diffusion_model."
    save_file(
        {k: v * 1.01 if k.startswith(unet) else v for k, v in tensors.items()}, folder / "other.safetensors"
    )
    (folder / "other.yaml").write_text((folder / "tinyworld.yaml").read_text())
    webui.call("/sdapi/v1/refresh-checkpoints", {})
    prompt = "a star <lora:strong:0.5><net:one>"
    first = draw(webui, prompt)
    switched = draw(webui, prompt, override_settings={"sd_model_checkpoint": "other"})
    assert distance(first, switched) > 0
    assert np.array_equal(draw(webui, prompt), first)


DISTURBANCES: dict[str, Callable[[WebUI], object]] = {
    "three batches": lambda webui: draw(
        webui, "a <net:one:start=0.3><lora:strong:0.5>", n_iter=3, negative_prompt="<net:two>"
    ),
    "hires fix": lambda webui: draw(webui, "a <net:one:hr=only><lora:strong:0.5><net:two>", **HIRES),
    "an exception": broken_off,
    "another checkpoint": another_checkpoint,
}


@pytest.mark.parametrize("disturbance", DISTURBANCES)
def test_nothing_is_left_after(own: WebUI, disturbance: str) -> None:
    with nothing_left(own):
        DISTURBANCES[disturbance](own)


def test_in_the_negative_prompt_it_acts_on_that_half_alone(own: WebUI) -> None:
    plain, everywhere = draw(own, "a star"), draw(own, "a star <net:one>")
    below = draw(own, "a star", negative_prompt="dull <net:one>")
    assert min(distance(below, plain), distance(below, everywhere)) > 20
    # With a guidance scale of 1 the negative prompt's half counts nothing.
    for tag in ("<net:one>", "<net:one:te=0>"):
        once = draw(own, "a star", negative_prompt=f"dull{tag}", cfg_scale=1)
        assert distance(once, draw(own, "a star", cfg_scale=1)) <= 2
    # The tag is no part of the text.
    assert np.array_equal(draw(own, "a star", negative_prompt="dull<net:one:0>"), plain)
    assert np.array_equal(draw(own, "a star", negative_prompt="dull<net:one:start=1>"), plain)


def test_start_stop_and_passes(own: WebUI) -> None:
    plain, whole = draw(own, "a star"), draw(own, "a star <net:one:te=0>")
    first, last = (draw(own, f"a star <net:one:te=0:{part}>") for part in ("stop=0.5", "start=0.5"))
    assert np.array_equal(draw(own, "a star <net:one:start=1>"), plain)
    assert np.array_equal(draw(own, "a star <net:one:hr=only>"), plain)
    assert np.array_equal(draw(own, "a star <net:one:te=0:hr=no>"), whole)
    pictures = [plain, whole, first, last]
    assert min(distance(a, b) for i, a in enumerate(pictures) for b in pictures[:i]) > 5
    pictures = [draw(own, f"a star <net:one:0.5:hr={when}>", **HIRES) for when in ("both", "only", "no")]
    pictures.append(draw(own, "a star", **HIRES))
    assert min(distance(a, b) for i, a in enumerate(pictures) for b in pictures[:i]) > 5


def test_a_kept_condition_is_not_that_of_other_weights(own: WebUI) -> None:
    """The WebUI keeps the last prompt's; a file that changed, another half, another pass are other ones."""
    first = draw(own, "a star <net:one:unet=0:te=1>")
    assert not np.array_equal(draw(own, "a star <net:one:unet=0:te=0.5>"), first)
    assert np.array_equal(draw(own, "a star <net:one:unet=0:te=1>"), first)
    below = draw(own, "a star", negative_prompt="dull<net:one:unet=0:te=1>")
    assert not np.array_equal(below, draw(own, "a star"))
    probe(own, "write_network", name="changing", seed=4)
    before = draw(own, "a star <net:changing:unet=0:te=1>")
    probe(own, "write_network", name="changing", seed=5)
    assert not np.array_equal(draw(own, "a star <net:changing:unet=0:te=1>"), before)


def test_slots_draw_what_tags_draw_and_are_told_in_the_picture(own: WebUI) -> None:
    tagged = draw(own, "a star <net:one:0.8:te=0.5><net:two:0.4>")
    slots = {SLOTS: {"args": [True, "one", 0.8, 0.5, "two", 0.4, 0.4]}}
    image = own.txt2img("a star", negative_prompt="dull", alwayson_scripts=slots)
    with Image.open(io.BytesIO(image)) as picture:
        assert np.array_equal(np.asarray(picture, dtype=int), tagged)
        text = picture.info["parameters"]
    assert 'Net 1: "one:0.8:te=0.5", Net 2: "two:0.4"' in text
    assert 'Net hashes: "one: 100000000000, two: 200000000000"' in text


def test_slots_over_http_may_leave_out_what_is_as_usual(own: WebUI) -> None:
    plain = draw(own, "a star")

    def drawn(*args: Any) -> np.ndarray:
        return draw(own, "a star", alwayson_scripts={SLOTS: {"args": args}})

    assert np.array_equal(drawn(True), plain)
    assert np.array_equal(drawn(True, "one", None, 1), draw(own, "a star <net:one>"))
    assert np.array_equal(drawn(True, "one:stop=0.5", 0.5), draw(own, "a star <net:one:stop=0.5:unet=0.5>"))
    assert np.array_equal(drawn(True, "one", "much"), plain)
    assert "Network slot 1: <net:one:unet=much:te=1.0>: unet is 'much', no number" in own.log_tail()


def grid(webui: WebUI, axes: dict[str, str], slots: list[Any]) -> list[np.ndarray]:
    """The pictures of an X/Y/Z grid, x first, then y."""
    numbers = probe(webui, "axes")
    told: list[Any] = [
        value
        for axis, values in axes.items()
        for value in (numbers[f"[TI Studio] network{axis}"], values, [])
    ]
    # No legend, each picture and no grid of some, seeds as they are, no margin, values as text.
    more = [False, True, False, False, False, False, False, 0, True]
    images = webui.txt2img_all(
        "a star",
        negative_prompt="dull",
        script_name="X/Y/Z plot",
        script_args=[*told, *more],
        alwayson_scripts={SLOTS: {"args": slots}},
    )
    count = [len(values.split(",")) for values in axes.values()]
    return [pixels(image) for image in images[-count[0] * count[1] * count[2] :]]


def test_each_cell_of_a_grid_is_the_picture_of_its_tag(own: WebUI) -> None:
    cells = grid(own, {"'s weight": "0.5, 1", "'s rank": "1, 4", "'s stop": "0.5, 1"}, [True, "one"])
    tags = [
        f"one:{weight}:rank={rank}:stop={stop}" for stop in (0.5, 1) for rank in (1, 4) for weight in (0.5, 1)
    ]
    for number in (1, 2, 4):  # each axis has its other value in one of them
        assert np.array_equal(cells[number], draw(own, f"a star <net:{tags[number]}>")), tags[number]
    assert min(distance(a, b) for i, a in enumerate(cells) for b in cells[:i]) > 2
    cells = grid(own, {"": "one, two", "'s blocks": "OUTS, ALL", "'s start": "0.3"}, [False])
    assert min(distance(a, b) for i, a in enumerate(cells) for b in cells[:i]) > 2
    with pytest.raises(Refused, match="moves the first network slot, which is empty; choose a network there"):
        grid(own, {"'s weight": "0.5, 1", "'s rank": "1", "'s stop": "0.5"}, [True, "None"])


def test_what_was_applied_is_told_once(own: WebUI) -> None:
    probe(own, "write_network", name="fresh", seed=6)
    for _ in range(2):
        draw(own, "a star <net:fresh>")
    told = [line for line in own.log.read_text(errors="replace").splitlines() if "fresh: applied" in line]
    (line,) = told
    assert re.search(r"fresh: applied (\d+) of \1 modules \(linear \d+, conv \d+\), rank 4, alpha 4", line)


def test_what_is_wrong_is_told_and_the_picture_drawn(own: WebUI) -> None:
    plain = draw(own, "a star")
    for tag, sentence in {
        "<net:onne>": "perhaps 'one' is meant",
        "<net:one:strat=1>": "perhaps 'start' is meant",
        "<net:one:blocks=" + ",".join("1" * 12) + ">": "12 block weights were given; for a model of sd1",
    }.items():
        assert np.array_equal(draw(own, f"a star{tag}"), plain)
        assert sentence in own.log_tail()


def test_the_webuis_tag_can_be_taken_over(own: WebUI) -> None:
    ours = draw(own, "a star<net:one:0.3:0.9>")
    probe(own, "take_over", on=True)
    try:
        with nothing_left(own):
            assert np.array_equal(draw(own, "a star<lora:one:0.3:0.9>"), ours)
    finally:
        probe(own, "take_over", on=False)
    assert distance(draw(own, "a star<lora:one:0.3:0.9>"), ours) <= 2


def test_the_webuis_tag_is_its_own_wherever_its_extension_is_on(own: WebUI) -> None:
    prompts = {"prompt": "a star<lora:one:0.5>", "negative_prompt": "dull<lora:two:1>"}
    theirs = draw(own, **prompts)
    probe(own, "take_over", on=True, beside=True)
    try:
        assert np.array_equal(draw(own, **prompts), theirs)
    finally:
        probe(own, "take_over", on=False)


@pytest.fixture
def alone(own: WebUI, tmp_path: Path) -> Iterator[WebUI]:
    """A WebUI whose own Lora extension is off from the start, and which moves its model's parts about."""
    write_data(tmp_path)
    shutil.rmtree(tmp_path / "extensions" / "ti-studio-probe")  # it asks that extension
    for name in ("one", "two"):
        shutil.copy(own.data / "models" / "Lora" / f"{name}.safetensors", tmp_path / "models" / "Lora")
    told = {"disabled_extensions": ["Lora"], "ti_studio_take_over_lora": True}
    (tmp_path / "config.json").write_text(json.dumps(told))
    with running_webui(tmp_path, flags=("--medvram",)) as program:
        yield program


def test_the_webuis_tag_is_ours_where_its_extension_is_off_and_parts_move(own: WebUI, alone: WebUI) -> None:
    plain, drawn = draw(alone, "a star"), draw(alone, "a star<lora:one:0.8>")
    assert np.array_equal(draw(alone, "a star<net:one:0.8>"), drawn)
    assert distance(drawn, draw(own, "a star<net:one:0.8>")) <= 2 < distance(drawn, plain)
    assert np.array_equal(draw(alone, "a star"), plain)
    # The text of the hires pass is read before the first one draws, and yet with its own networks.
    texts = {
        "negative_prompt": "dull <net:one:unet=0:te=1>",
        "hr_negative_prompt": "dull <net:two:unet=0:te=1>",
    }
    drawn = draw(alone, "a star", **HIRES, **texts)
    assert distance(drawn, draw(own, "a star", **HIRES, **texts)) <= 2
    same = {**texts, "hr_negative_prompt": "dull <net:one:unet=0:te=1>"}
    assert distance(drawn, draw(alone, "a star", **HIRES, **same)) > 5


def test_cards_and_axes(own: WebUI) -> None:
    cards = probe(own, "cards")
    assert cards["one"] == {
        "prompt": '"<net:one:" + opts.extra_networks_default_multiplier + ">"',
        "description": "SD 1.x",
    }
    assert cards["strong"]["description"] == "unknown family"
    assert len(probe(own, "axes")) == 8
