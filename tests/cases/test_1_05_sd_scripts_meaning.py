"""Row 1.5: what sd-scripts means by a line reaches the training loop, and our own jobs stay as they are."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lib_ti.cli import build_parser
from lib_ti.commands.sd_scripts import translate, words_of
from lib_ti.commands.shared import given_settings
from lib_ti.core.errors import BadInput
from lib_ti.data.latents import size_conditioning
from lib_ti.data.views import View
from lib_ti.formats.safetensors_file import read_tensors
from lib_ti.hosts.a1111_model import refuse_conditioning
from lib_ti.hosts.base import AS_GENERATED, Conditioning
from lib_ti.hosts.clip_text import ClipText
from lib_ti.hosts.prompts import parse_emphasis
from lib_ti.hosts.standalone import StandaloneHost
from lib_ti.job_run import Event, Message
from lib_ti.jobs import folders_under, start
from lib_ti.methods.kind import JobSettings
from lib_ti.methods.registry import read_settings
from tests.hosts.tiny import new_sdxl, sdxl_state, write

TI = [
    *("train_textual_inversion.py", "--pretrained_model_name_or_path=builtin"),
    *("--token_string=zqx", "--train_data_dir=data"),
]
NETWORK = [
    *("train_network.py", "--pretrained_model_name_or_path=builtin", "--train_data_dir=data"),
    "--network_module=networks.lora",
]
SHORT: dict[str, Any] = {
    "steps": 2, "accumulation": 1, "preview_every": 0, "copy_every": 0, "card": False, "latents": "mean",
    "template": "captions",
}  # fmt: skip
METHODS: dict[str, dict[str, Any]] = {
    "ti": {},
    "dreamartist": {"negative_vectors": 2},
    "lora": {"trigger_word": "zqx", "word_vectors": 1, "rank": 2, "train_parts": "text"},
}


def settings_of(line: Sequence[str]) -> JobSettings:
    words = words_of(translate(line, Path()).ours)
    return read_settings(given_settings(build_parser().parse_args(["train", *words])))


class Trained:
    """A job that has run, on one picture with one caption."""

    def __init__(
        self, host: StandaloneHost, folder: Path, caption: str, image: Image.Image | None = None, **told: Any
    ):
        pictures = folder / "pictures"
        pictures.mkdir(parents=True)
        image = image or Image.linear_gradient("L").resize((64, 64)).convert("RGB")
        image.save(pictures / "1.png")
        (pictures / "1.txt").write_text(caption, encoding="utf-8")
        self.messages: list[str] = []
        settings = read_settings({"name": "zqx", "images": str(pictures), **SHORT, **told})
        self.outcome = start(
            host,
            settings,
            folders=folders_under(folder),
            model="builtin",
            report=self._hear,
            stopped=lambda: False,
        )
        with (self.outcome.job.folder / "loss.csv").open(newline="") as file:
            self.loss = float(next(csv.DictReader(file))["loss"])

    def _hear(self, event: Event) -> None:
        if isinstance(event, Message):
            self.messages.append(event.text)

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        return {f"{path.name} {key}": value for path in self.outcome.files.values()
                for key, value in read_tensors(path)[0].items()}  # fmt: skip


def same(one: Trained, other: Trained) -> bool:
    assert one.tensors.keys() == other.tensors.keys()
    return all(torch.equal(value, other.tensors[name]) for name, value in one.tensors.items())


@pytest.mark.parametrize("method", METHODS)
def test_brackets_are_signs_in_every_method(host: StandaloneHost, tmp_path: Path, method: str) -> None:
    told = {"method": method, **METHODS[method]}
    literal = Trained(host, tmp_path / "1", "zqx (red:1.4) [star]", emphasis="none", **told)
    escaped = Trained(host, tmp_path / "2", r"zqx \(red:1.4\) \[star\]", **told)
    stressed = Trained(host, tmp_path / "3", "zqx (red:1.4) [star]", **told)
    theirs = Trained(host, tmp_path / "4", "zqx (red:1.4) [star]", emphasis="sd-scripts", **told)
    assert same(literal, escaped)
    assert not same(literal, stressed) and not same(theirs, stressed) and not same(theirs, literal)


@pytest.mark.parametrize("method", METHODS)
def test_captions_are_cut_where_sd_scripts_cuts_them(
    host: StandaloneHost, tmp_path: Path, method: str
) -> None:
    told = {"method": method, **METHODS[method], "max_token_length": 75}
    if method != "lora":
        told |= {"vectors": 1}
    cut = Trained(host, tmp_path / "1", "zqx " + "cat " * 100, **told)
    short = Trained(host, tmp_path / "2", "zqx " + "cat " * 74, **told)
    longer = Trained(host, tmp_path / "3", "zqx " + "cat " * 100, **{**told, "max_token_length": 150})
    assert same(cut, short) and not same(cut, longer)
    (said,) = [text for text in cut.messages if "longer than 75 tokens" in text]
    assert said.startswith("1 of 1 prompts") and "loses 26" in said
    assert not [text for text in short.messages + longer.messages if "longer than" in text]


def test_a_word_that_is_cut_away_is_refused(host: StandaloneHost, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="occurs in none of the 1 prompts"):
        Trained(host, tmp_path, "cat " * 80 + "zqx", max_token_length=75)


def test_a_length_that_makes_no_chunks_is_refused(host: StandaloneHost, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="max-token-length: got 100, expected 0, 75, 150 or 225"):
        Trained(host, tmp_path, "zqx", max_token_length=100)


@pytest.mark.parametrize(
    "prompt", ["a (red:1.4) star [on blue", "((cat)) dog", r"\(a\) b\c : (d: 1.2)", "BREAK a"]
)
def test_weights_are_read_as_sd_scripts_reads_them(prompt: str) -> None:
    """What its parser gives for these, by hand."""
    expected = {
        "a (red:1.4) star [on blue": [("a ", 1.0), ("red", 1.4), (" star ", 1.0), ("on blue", 1 / 1.1)],
        "((cat)) dog": [("cat", 1.1 * 1.1), (" dog", 1.0)],
        r"\(a\) b\c : (d: 1.2)": [("(a) bc : ", 1.0), ("d: 1.2", 1.1)],
        "BREAK a": [("BREAK a", 1.0)],
    }
    (section,) = parse_emphasis(prompt, as_sd_scripts=True)
    assert [text for text, _ in section] == [text for text, _ in expected[prompt]]
    assert [weight for _, weight in section] == pytest.approx([weight for _, weight in expected[prompt]])


@torch.no_grad()
def test_states_are_weighted_without_a_mean_kept(host: StandaloneHost) -> None:
    clip = next(iter(host._texts.values()))
    told = Conditioning("sd-scripts")
    plain = clip.encode(["a red star"])[0]
    stressed = clip.encode_and_pool(["a (red:1.5) star"], conditioning=told)[0][0]
    scale = torch.ones(77, 1)
    scale[2] = 1.5  # start mark, a, red
    torch.testing.assert_close(stressed, plain * scale)
    ours = clip.encode(["a (red:1.5) star"])[0]
    assert float((ours - stressed).norm() / stressed.norm()) > 1e-4


@torch.no_grad()
def test_longer_prompts_are_joined_between_two_marks(host: StandaloneHost) -> None:
    clip: ClipText = next(iter(host._texts.values()))
    word, live = " ".join(["cat"] * 74), {"zqx": torch.randn(3, clip.model.config.hidden_size) * 0.02}

    def read(prompt: str, length: int) -> torch.Tensor:
        return clip.encode_and_pool([prompt], live, 1, Conditioning("none", length))[0][0]

    first, rest = clip.encode([word + " dog", "star, a"])
    assert clip.encode([word + ", dog star, a"]).shape[1] == 154  # our chunks end at the comma, and are whole
    joined = read(word + " dog star, a", 150)
    torch.testing.assert_close(joined, torch.cat([first[:76], rest[1:]]))
    assert read("cat", 225).shape[0] == 227  # filled up, as long as the option says
    # An embedding across the seam: two of its vectors end the first chunk's 75, the third begins the second.
    seam = read(" ".join(["cat"] * 73) + " zqx dog", 150)
    whole = read(" ".join(["cat"] * 73) + " zqx dog", 75)
    torch.testing.assert_close(seam[:76], whole[:76])
    third = clip.encode(["zqx dog"], {"zqx": live["zqx"][2:]})[0]
    torch.testing.assert_close(seam[76:], third[1:])
    assert clip.places_cut(" ".join(["cat"] * 73) + " zqx dog", live, Conditioning("none", 75)) == 2


def test_previews_are_drawn_as_always(host: StandaloneHost, tmp_path: Path) -> None:
    drawn = [
        Trained(host, tmp_path / emphasis, "zqx cat", emphasis=emphasis, preview_every=2, preview_count=1,
                preview_steps=2, preview_prompt="a (red:1.5) star")
        for emphasis in ("webui", "none")
    ]  # fmt: skip
    one, other = (next(job.outcome.job.samples.glob("step-000002*")).read_bytes() for job in drawn)
    assert one == other
    assert host._conditioning == AS_GENERATED


def test_masks_as_they_are(host: StandaloneHost, tmp_path: Path) -> None:
    half = Image.linear_gradient("L").resize((64, 64)).convert("RGBA")
    half.putalpha(128)
    told = {"template": "subject", "alpha_mask": True, "keep_latents": True}
    normalised = Trained(host, tmp_path / "1", "a star", half, **told)
    shutil.copytree(tmp_path / "1" / ".ti-studio", tmp_path / "2" / ".ti-studio")
    as_it_is = Trained(host, tmp_path / "2", "a star", half, normalise_masks=False, **told)
    assert as_it_is.loss == pytest.approx(normalised.loss * 128 / 255, rel=1e-3)


@pytest.mark.parametrize(
    ("original", "trained", "mirrored", "expected"),
    [
        ((1000, 500), (512, 512), False, (500, 1000, 128, 0, 512, 512)),
        ((500, 1000), (512, 512), False, (1000, 500, 0, 128, 512, 512)),
        ((640, 512), (576, 448), False, (512, 640, 0, 8, 448, 576)),
        ((640, 512), (576, 448), True, (512, 640, 0, 8, 448, 576)),
        ((512, 512), (512, 512), True, (512, 512, 0, 0, 512, 512)),
    ],
)
def test_sizes_are_those_that_sd_scripts_tells(
    original: tuple[int, int], trained: tuple[int, int], mirrored: bool, expected: tuple[int, ...]
) -> None:
    """height, width; top, left; height, width: by BucketManager.get_crop_ltrb."""
    assert size_conditioning(original, trained, View(mirrored=mirrored)) == expected


@pytest.mark.parametrize("method", METHODS)
def test_sdxl_is_told_the_sizes_in_the_loop(tmp_path: Path, method: str) -> None:
    host = StandaloneHost.load(write(tmp_path / "xl.safetensors", sdxl_state(new_sdxl())), "cpu")
    heard: list[torch.Tensor] = []
    handle = host._unet.register_forward_pre_hook(
        lambda module, args, kwargs: heard.append(kwargs["added_cond_kwargs"]["time_ids"]), with_kwargs=True
    )
    told = {"width": 64, "height": 64, "buckets": False, "method": method, **METHODS[method]}
    picture = Image.linear_gradient("L").resize((100, 50)).convert("RGB")
    for conditioning, expected in (
        ("trained", [64, 64, 0, 0, 64, 64]),
        ("sd-scripts", [50, 100, 16, 0, 64, 64]),
    ):
        heard.clear()
        Trained(host, tmp_path / conditioning, "zqx", picture, size_conditioning=conditioning, **told)
        # What is rehearsed for memory is of another size.
        assert heard and all(rows.tolist() == [expected] * len(rows) for rows in heard[-2:])
    handle.remove()


def test_sizes_are_refused_where_nobody_hears_them(host: StandaloneHost, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="size-conditioning: only SDXL is told"):
        Trained(host, tmp_path, "zqx", size_conditioning="sd-scripts")


@pytest.mark.parametrize(
    "told", [Conditioning("sd-scripts"), Conditioning("webui", 75), Conditioning(own_sizes=True)]
)
def test_a_webui_refuses_what_it_cannot_do(told: Conditioning) -> None:
    with pytest.raises(BadInput, match="train on the command line"):
        refuse_conditioning(told)
    refuse_conditioning(Conditioning("none"))


@pytest.mark.parametrize("line", [TI, NETWORK])
def test_a_line_means_what_it_means_there(line: list[str]) -> None:
    settings = settings_of(line)
    told = (
        settings.emphasis,
        settings.max_token_length,
        settings.normalise_masks,
        settings.size_conditioning,
    )
    assert told == ("none", 75, False, "trained")
    more = settings_of([*line, "--weighted_captions", "--max_token_length=225"])
    assert (more.emphasis, more.max_token_length) == ("sd-scripts", 225)
    assert settings_of([f"sdxl_{line[0]}", *line[1:]]).size_conditioning == "sd-scripts"
    with pytest.raises(BadInput, match="--max_token_length=100 is not to be had here: use 150 or 225"):
        translate([*line, "--max_token_length=100"], Path())


@pytest.mark.parametrize("method", METHODS)
def test_a_job_that_was_saved_before_goes_on_as_it_was(method: str) -> None:
    settings = read_settings({"method": method, "name": "zqx"})
    assert (settings.emphasis, settings.max_token_length) == ("webui", 0)
    assert (settings.normalise_masks, settings.size_conditioning) == (True, "trained")
