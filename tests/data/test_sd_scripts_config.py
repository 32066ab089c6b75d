from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from lib_ti.core.errors import BadInput
from lib_ti.core.picture_settings import PictureSettings
from lib_ti.data.buckets import Bucketing
from lib_ti.data.captions import CaptionRules
from lib_ti.data.dataset import read_pictures
from lib_ti.data.sd_scripts_config import DatasetConfig, read_dataset_config
from lib_ti.data.source import find_source

pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")

# The file of the documentation of sd-scripts' textual inversion.
DOCUMENTED = """
[general]
shuffle_caption = false
caption_extension = ".txt"
keep_tokens = 1
[[datasets]]
resolution = 512 # 1024 for SDXL
batch_size = 4 # Can use larger values than LoRA training
enable_bucket = true
[[datasets.subsets]]
image_dir = "pictures"
caption_extension = ".txt"
num_repeats = 10
"""


def read(folder: Path, text: str, **settings: object) -> DatasetConfig:
    (folder / "data.toml").write_text(text, encoding="utf-8")
    return read_dataset_config(PictureSettings(dataset_config=str(folder / "data.toml"), **settings))


def subset(line: str) -> str:
    return f'[[datasets]]\n[[datasets.subsets]]\nimage_dir = "pictures"\n{line}\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("pictures", "reg"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (16, 16)).save(tmp_path / name / "1 red star.png")
    return tmp_path


def test_the_documented_file(folder: Path) -> None:
    config = read(folder, DOCUMENTED)
    (found,) = config.subsets
    assert config.batch_size == 4
    assert (found.folder, found.repeats, found.regularisation) == (folder / "pictures", 10, False)
    assert found.bucketing == Bucketing(512, 512, True, True, 256, 1024, 64)
    assert found.captions == CaptionRules(keep_tags=1)


def test_every_key_has_its_meaning(folder: Path) -> None:
    (found,) = read(
        folder,
        """
        [[datasets]]
        resolution = [768, 512]
        bucket_no_upscale = true
        enable_bucket = true
        min_bucket_reso = 128
        max_bucket_reso = 2048
        bucket_reso_steps = 32
        [[datasets.subsets]]
        image_dir = "pictures"
        num_repeats = 3
        is_reg = false
        class_tokens = "red star"
        caption_extension = ".caption"
        shuffle_caption = true
        keep_tokens = 2
        keep_tokens_separator = "|||"
        secondary_separator = ";;;"
        caption_separator = "."
        enable_wildcard = true
        caption_prefix = "one"
        caption_suffix = "two"
        caption_dropout_rate = 0.1
        caption_tag_dropout_rate = 0.2
        caption_dropout_every_n_epochs = 5
        resize_interpolation = "area"
        flip_aug = true
        random_crop = true
        alpha_mask = true
        color_aug = false
        token_warmup_min = 3
        token_warmup_step = 0.5
        cache_info = true
        """,
    ).subsets
    assert found.bucketing == Bucketing(768, 512, True, False, 128, 2048, 32)
    assert found.captions == CaptionRules(0.1, True, 2, "|||", True, 0.2, ".", ";;;", 5, 0.5, 3)
    assert (found.prefix, found.suffix, found.class_words) == ("one", "two", "red star")
    assert (found.repeats, found.flip, found.random_crops, found.alpha_mask) == (3, True, 4, True)
    assert (found.caption_extension, found.first_line, found.resize) == (".caption", False, "box")


def test_the_nearest_table_wins_then_a_changed_setting_then_their_default(folder: Path) -> None:
    text = """
    [general]
    flip_aug = true
    keep_tokens = 1
    [[datasets]]
    keep_tokens = 2
    resolution = 640
    [[datasets.subsets]]
    image_dir = "pictures"
    keep_tokens = 3
    [[datasets.subsets]]
    image_dir = "reg"
    is_reg = true
    [[datasets]]
    [[datasets.subsets]]
    image_dir = "pictures"
    """
    one, three, two = read(folder, text, width=512, height=512, shuffle_tags=True, keep_tags=9).subsets
    assert [one.captions.keep_tags, two.captions.keep_tags, three.captions.keep_tags] == [3, 2, 1]
    assert [one.bucketing.width, two.bucketing.width, three.bucketing.width] == [640, 640, 512]
    assert two.regularisation  # last, whatever its place in the file
    assert all(found.flip and found.captions.shuffle for found in (one, two, three))
    (silent,) = read(folder, subset("")).subsets
    assert silent.bucketing == Bucketing(0, 0, False, True, 256, 1024, 64)
    assert silent.caption_extension == ".caption"
    (changed,) = read(folder, subset(""), bucket_min=320).subsets
    assert changed.bucketing.low == 320


def test_a_caption_is_the_first_line_of_its_file_or_the_class(folder: Path) -> None:
    def captions(line: str) -> list[str]:
        return [p.caption for p in read_pictures(read(folder, subset(line)).subsets, PictureSettings())]

    assert captions("") == [""]
    assert captions('class_tokens = "zqx star"') == ["zqx star"]
    (folder / "pictures" / "1 red star.caption").write_text("a zqx\nby night")
    assert captions('class_tokens = "zqx star"\ncaption_prefix = "oh,"') == ["oh, a zqx"]
    assert captions("enable_wildcard = true") == ["a zqx\nby night"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (subset("colour = 1"), r"data\.toml, \[\[datasets\.subsets\]\]: unknown key colour; expected"),
        ("[general]\nimage_dir = 'x'\n", r"data\.toml is no data set file; expected \[\[datasets\]\]"),
        ("[[datasets]]\nbatchsize = 1\n", r"\[\[datasets\]\]: unknown key batchsize"),
        ("[train]\n", r"data\.toml is no data set file; expected \[\[datasets\]\]"),
        (subset("color_aug = true"), "color_aug = True is not available here: pictures are encoded once"),
        (subset("resize_interpolation = 'magic'"), "resize_interpolation: got 'magic', expected one of lanc"),
        (subset("keep_tokens = 'x'"), "keep_tokens: got 'x', expected a whole number of at least 0"),
        (subset("num_repeats = 0"), "num_repeats: got 0, expected a whole number of at least 1"),
        (subset("flip_aug = 1"), "flip_aug: got 1, expected true or false"),
        ("[[datasets]]\nresolution = '512'\n[[datasets.subsets]]\nimage_dir='x'", "resolution: got '512'"),
        ("[[datasets]]\n[[datasets.subsets]]\nis_reg = true\n", "image_dir is missing"),
        ("[[datasets]]\n", "names no pictures"),
        ("datasets = 3\n", "is no data set file"),
        ("[[datasets]\n", r"data\.toml cannot be read"),
    ],
)  # fmt: skip
def test_what_cannot_be_had_is_refused_by_name(folder: Path, text: str, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        read(folder, text)


def test_different_batch_sizes_are_refused(folder: Path) -> None:
    with pytest.raises(BadInput, match="differ in batch_size"):
        read(folder, subset("").replace("\n[[datasets.", "\nbatch_size = 2\n[[datasets.", 1) + subset(""))


def test_json_serves_as_well(folder: Path) -> None:
    (folder / "data.json").write_text(json.dumps({"datasets": [{"subsets": [{"image_dir": "pictures"}]}]}))
    config = read_dataset_config(PictureSettings(dataset_config=str(folder / "data.json")))
    assert [found.folder for found in config.subsets] == [folder / "pictures"]


def test_a_python_that_reads_no_toml_is_told_what_helps(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(BadInput, match="cannot read TOML; install tomli"):
        read(folder, DOCUMENTED)


def test_a_source_follows_the_file(folder: Path) -> None:
    def source(text: str, **settings: object):
        (folder / "data.toml").write_text(text)
        told = PictureSettings(dataset_config=str(folder / "data.toml"), **settings)
        return find_source(told, ["[filewords]"], folder / "kept")

    first = source(DOCUMENTED)
    assert first.batch_size == 4
    assert not (folder / "kept").exists()
    # A changed file may mean another training: a job is not resumed with it.
    assert source(DOCUMENTED + "flip_aug = true").fingerprint != first.fingerprint
    assert source(DOCUMENTED).fingerprint == first.fingerprint
    for named in ({"images": "pictures"}, {"reg_images": "reg"}, {"make_reg": 2}):
        with pytest.raises(BadInput, match="leave out images, reg-images and make-reg"):
            source(DOCUMENTED, **named)
    with pytest.raises(BadInput, match="regularisation pictures only"):
        source(DOCUMENTED + "is_reg = true")
