from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from lib_ti.core.errors import BadInput
from lib_ti.core.train_settings import TrainSettings
from lib_ti.data.samples import TrainingSet
from lib_ti.data.source import Source, find_source, first_prompts, make_samples, steps_of_epoch

LINES = ["[name], [filewords]"]


@pytest.fixture
def settings(tmp_path: Path) -> TrainSettings:
    for folder, name, size in (
        ("own", "red", (64, 64)),
        ("own", "wide", (128, 64)),
        ("reg", "star", (64, 64)),
    ):
        (tmp_path / folder).mkdir(exist_ok=True)
        path = tmp_path / folder / f"{name}.png"
        Image.new("RGB", size, (len(name), 0, 0)).save(path)  # contents that differ
        os.utime(path, (1e9, 1e9))
    return TrainSettings(images=str(tmp_path / "own"), reg_images=str(tmp_path / "reg"))


def make(source: Source, settings: TrainSettings, kept: Path) -> tuple[TrainingSet, list[str], int]:
    """The set, what is said, and how many pictures were encoded."""
    encoded = []

    def encode(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        encoded.append(pixels)
        return pixels[:, :, ::8, ::8], pixels[:, :, ::8, ::8]

    samples, said = make_samples(
        source, settings, "zqx", native=64, grain=8, timesteps=10, encode=encode, kept=kept
    )
    return samples, said, len(encoded)


def test_a_source_writes_nothing_and_a_set_what_a_second_start_needs(
    tmp_path: Path, settings: TrainSettings
) -> None:
    kept = tmp_path / "kept"
    source = find_source(settings, LINES, kept)
    assert source.captions == ["red", "wide"] and not kept.exists()
    samples, said, encoded = make(source, settings, kept)
    assert encoded == 3 + 1 and (kept / "files.json").is_file()
    assert [told.partition(":")[0] for told in said] == [
        "bucket 64x64",
        "bucket 88x40",
        "no caption file (.txt)",  # of the pictures, and of those for regularisation
        "no caption file (.txt)",
        "regularisation pictures",
    ]
    again, _, encoded = make(find_source(settings, LINES, kept), settings, kept)
    assert encoded == 1
    for one, other in zip(samples.draw(3), again.draw(3), strict=True):
        assert one.prompts == other.prompts and torch.equal(one.latents, other.latents)
    _, _, encoded = make(source, replace(settings, keep_latents=False), tmp_path / "other")
    assert encoded == 3 and not list((tmp_path / "other").rglob("*.safetensors"))


def test_the_fingerprint_is_of_pictures_captions_masks_and_lines(
    tmp_path: Path, settings: TrainSettings
) -> None:
    def fingerprint(lines: list[str] = LINES) -> str:
        return find_source(settings, lines, tmp_path / "kept").fingerprint

    seen = [fingerprint(), fingerprint(["another"])]
    (tmp_path / "own" / "red.txt").write_text("a caption")
    seen.append(fingerprint())
    Image.new("L", (64, 64), 255).save(tmp_path / "own" / "red_att.png")
    seen.append(fingerprint())
    Image.new("L", (64, 64), 127).save(tmp_path / "own" / "red_att.png")
    seen.append(fingerprint())
    Image.new("RGB", (64, 64), "blue").save(tmp_path / "own" / "red.png")
    seen.append(fingerprint())
    assert len(set(seen)) == len(seen) and fingerprint() == seen[-1]


def test_the_first_prompts_are_those_of_the_first_epoch(tmp_path: Path, settings: TrainSettings) -> None:
    source = find_source(settings, LINES, tmp_path / "kept")
    assert sorted(first_prompts(source, settings, "zqx")) == ["star", "zqx, red", "zqx, wide"]
    assert len(first_prompts(source, settings, "zqx", limit=2)) == 2


def test_a_size_without_a_bucket_is_refused_before_anything_is_written(
    tmp_path: Path, settings: TrainSettings
) -> None:
    source = find_source(settings, LINES, tmp_path / "kept")
    source = replace(
        source,
        pictures=[
            replace(p, subset=replace(p.subset, bucketing=replace(p.subset.bucketing, low=128)))
            for p in source.pictures
        ],
    )
    with pytest.raises(BadInput, match="leave no place for 64x64"):
        make(source, settings, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_each_folder_may_call_a_word_of_its_own(tmp_path: Path) -> None:
    for folder, colour in (("10_zqx", 10), ("5_zqy dog", 20), ("1_other", 30)):
        (tmp_path / "set" / folder).mkdir(parents=True)
        Image.new("RGB", (64, 64), (colour, 0, 0)).save(tmp_path / "set" / folder / "picture.png")
    settings = TrainSettings(images=str(tmp_path / "set"))
    source = find_source(settings, ["a [name]", "[filewords], [name2]"], tmp_path / "kept")
    assert source.captions == ["zqx", "other", "zqy dog"]
    assert source.names("zqx", ["zqy"]) == ["zqx", "zqx", "zqy"]
    prompts = ["a zqx", "zqx, zqy", "other, zqy", "a zqy", "zqy dog, zqy"]
    assert source.prompts("zqx", ["zqy"]) == prompts
    assert set(first_prompts(source, settings, "zqx", others=["zqy"])) == set(prompts)


def test_captions_in_sd_scripts_tokens_are_read_as_the_word_and_that_is_said_once(
    tmp_path: Path, settings: TrainSettings
) -> None:
    (tmp_path / "own" / "red.txt").write_text("zqx zqx1 zqx2, red")
    source = find_source(settings, ["[filewords]", "[name] [name]1"], tmp_path / "kept")
    samples, said, _ = make(source, settings, tmp_path / "kept")
    assert {"zqx, red", "zqx"} <= {prompt for step in range(1, 20) for prompt in samples.prompts(step)}
    assert said[-1] == "zqx zqx1 ... is read as the one word zqx (2 times)"
    assert len([told for told in said if "one word" in told]) == 1


@pytest.mark.parametrize("regularised", [False, True])
def test_an_epoch_is_known_before_a_picture_is_read(
    tmp_path: Path, settings: TrainSettings, regularised: bool
) -> None:
    """Two pictures three times, five at a step; and as many regularisation pictures."""
    (tmp_path / "own").rename(tmp_path / "3_star")
    (tmp_path / "own").mkdir()
    (tmp_path / "3_star").rename(tmp_path / "own" / "3_star")
    settings = replace(settings, batch_size=5, accumulation=1)
    settings = settings if regularised else replace(settings, reg_images="")
    source = find_source(settings, LINES, tmp_path / "kept")
    assert steps_of_epoch(source, settings) == (3 if regularised else 2)
    assert make(source, settings, tmp_path / "kept")[0].steps_of_epoch == steps_of_epoch(source, settings)
    # The data set file's batch size goes before the settings'.
    assert steps_of_epoch(replace(source, batch_size=2), settings) == (6 if regularised else 3)
