"""Options of sd-scripts that name pictures, captions, masks and what is held out: what the loop is fed."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lib_ti.cli import build_parser, main
from lib_ti.commands.sd_scripts import translate, words_of
from lib_ti.commands.shared import given_settings
from lib_ti.core.errors import BadInput
from lib_ti.data.evaluation import evaluation_batches
from lib_ti.data.samples import TrainingSet
from lib_ti.data.source import Source, find_source, make_samples
from lib_ti.formats.embedding import read_embedding
from lib_ti.jobs import folders_under, settle
from lib_ti.methods.kind import JobSettings
from lib_ti.methods.registry import read_settings

INVERSION = ["train_textual_inversion.py", "--pretrained_model_name_or_path=builtin", "--token_string=zqx-w"]
NETWORK = ["train_network.py", "--pretrained_model_name_or_path=builtin", "--network_module=networks.lora"]
needs_toml = pytest.mark.skipif(
    not any(map(importlib.util.find_spec, ("tomllib", "tomli"))), reason="this Python reads no TOML"
)


def settings_of(line: list[str], *options: str) -> JobSettings:
    words = words_of(translate([*line, *options], Path()).ours)
    return read_settings(given_settings(build_parser().parse_args(["train", *words])))


def source_of(settings: JobSettings, tmp_path: Path) -> Source:
    return find_source(settings, ["[filewords]"], tmp_path / "kept")


def samples_of(settings: JobSettings, tmp_path: Path) -> tuple[TrainingSet, list[str]]:
    def encode(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        small = torch.nn.functional.avg_pool2d(pixels, 8)
        return small, torch.zeros_like(small)

    source = source_of(settings, tmp_path)
    return make_samples(
        source, settings, "zqx-w", native=64, grain=8, timesteps=1000, encode=encode, kept=tmp_path / "kept"
    )


def config(tmp_path: Path, pictures: str, dataset: str = "", subset: str = "") -> str:
    path = tmp_path / "data.toml"
    path.write_text(
        f"[[datasets]]\n{dataset}\n[[datasets.subsets]]\nimage_dir = {pictures!r}\n{subset}\n",
        encoding="utf-8",
    )
    return f"--dataset_config={path}"


@needs_toml
def test_the_line_says_what_the_data_set_file_does_not(pictures: str, tmp_path: Path) -> None:
    options = (
        *("--enable_bucket", "--min_bucket_reso=32", "--bucket_reso_steps=16", "--bucket_no_upscale"),
        *("--resolution=64,96", "--caption_extension=.txt", "--dataset_repeats=3", "--flip_aug"),
        *("--random_crop", "--keep_tokens=2", "--train_batch_size=2"),
    )
    (subset,) = {
        picture.subset
        for picture in source_of(
            settings_of(INVERSION, config(tmp_path, pictures), *options), tmp_path
        ).pictures
    }
    shape = subset.bucketing
    assert (shape.width, shape.height, shape.low, shape.high, shape.step) == (64, 96, 32, 1024, 16)
    assert shape.enabled and not shape.enlarge
    assert (subset.caption_extension, subset.repeats, subset.flip) == (".txt", 3, True)
    assert (subset.random_crops, subset.captions.keep_tags) == (4, 2)

    file = config(
        tmp_path,
        pictures,
        "enable_bucket = false\nresolution = 128\nbucket_no_upscale = false\nmin_bucket_reso = 64",
        'caption_extension = ".caption"\nnum_repeats = 5\nflip_aug = false\nrandom_crop = false',
    )
    (said,) = {p.subset for p in source_of(settings_of(INVERSION, file, *options), tmp_path).pictures}
    assert (said.bucketing.width, said.bucketing.enabled, said.bucketing.enlarge) == (128, False, True)
    assert (said.bucketing.low, said.bucketing.step, said.repeats, said.flip) == (64, 16, 5, False)
    assert (said.caption_extension, said.random_crops) == (".caption", 0)

    (silent,) = {p.subset for p in source_of(settings_of(INVERSION, file), tmp_path).pictures}
    assert silent.bucketing.high == 1024 and silent.captions.keep_tags == 0
    told = translate([*INVERSION, file, "--train_data_dir=x", "--reg_data_dir=y"], Path()).told
    assert sum("--dataset_config takes its place" in sentence for sentence in told) == 2


@pytest.mark.parametrize("ending", [".json", ".jsonl"])
def test_a_metadata_file_names_pictures_and_their_captions(
    pictures: str, tmp_path: Path, ending: str
) -> None:
    names = sorted(path.name for path in Path(pictures).glob("*.png"))
    told: dict[str, dict[str, Any]] = {
        names[0]: {"caption": "zqx-w here", "tags": "red, thing"},
        str(Path(pictures) / names[1]): {"tags": "only, tags"},
        names[2].removesuffix(".png"): {"caption": "a caption", "image_size": [64, 64]},
    }
    file = tmp_path / f"meta{ending}"
    rows = [json.dumps({"image_path": key, **value}) for key, value in told.items()]
    file.write_text(json.dumps(told) if ending == ".json" else "\n".join(rows), encoding="utf-8")
    options = (f"--train_data_dir={pictures}", f"--in_json={file}", "--dataset_repeats=2")
    settings = settings_of(INVERSION, *options, "--reg_data_dir=regular")
    source = source_of(settings, tmp_path)
    assert [picture.path.name for picture in source.pictures] == names[:3]
    assert source.captions == ["zqx-w here,red, thing", "only, tags", "a caption"]
    assert {picture.subset.repeats for picture in source.pictures} == {2} and not settings.reg_images
    for wrong, said in (('{"cat.png": 3}', "is no metadata file"), ('{"gone": {}}', "not in .*: gone")):
        file.write_text(wrong, encoding="utf-8")
        if ending == ".json":
            with pytest.raises(BadInput, match=said):
                source_of(settings, tmp_path)


def test_masks_of_a_folder_count_as_they_are(pictures: str, tmp_path: Path) -> None:
    """The error under a mask is multiplied by its red, 0 to 1, and not scaled."""
    masks = tmp_path / "masks"
    masks.mkdir()
    values = np.zeros((64, 64, 3), dtype=np.uint8)
    values[:, :32, 0] = 204
    for path in Path(pictures).glob("*.png"):
        Image.fromarray(values).save(masks / path.name)
    options = (f"--train_data_dir={pictures}", "--resolution=64", f"--conditioning_data_dir={masks}")
    settings = settings_of(INVERSION, *options, "--masked_loss")
    samples, _ = samples_of(settings, tmp_path)
    (batch,) = samples.draw(1)
    expected = torch.zeros(1, 1, 8, 8)
    expected[..., :4] = 0.8
    torch.testing.assert_close(batch.mask, expected)
    assert settings_of(INVERSION, *options).mask_folder == ""  # there nothing comes of it either
    next(masks.iterdir()).unlink()
    with pytest.raises(BadInput, match="has no mask"):
        source_of(settings, tmp_path)
    told = translate([*INVERSION, "--train_data_dir=x", "--masked_loss"], Path()).told
    assert any("there is no mask without" in sentence for sentence in told)


def test_pictures_are_held_out_and_looked_at_each_at_four_timesteps(pictures: str, tmp_path: Path) -> None:
    options = (f"--train_data_dir={pictures}", "--resolution=64", "--max_train_steps=8")
    split = ("--validation_split=0.5", "--validation_seed=3")
    settings = settings_of(NETWORK, *options, *split)
    assert (settings.evaluate_every_epochs, settings.evaluate_pictures) == (1, 0)  # every epoch, as there
    samples, said = samples_of(settings, tmp_path)
    assert samples.steps_of_epoch == 2 and len(samples.held) == 2
    assert {row for step in range(1, 9) for row in samples.rows(step)} == {0, 1, 2, 3} - set(samples.held)
    assert any("2 of 4 pictures are held out" in sentence for sentence in said)
    batches = evaluation_batches(samples.draw, settings, 1000, held=2)
    latents = torch.cat([batch.latents for batch in batches])
    shown = [next(row for row in range(4) if torch.equal(samples.cache.mean[row][0], one)) for one in latents]
    assert sorted(shown) == sorted([*samples.held] * 4)
    timesteps = torch.cat([batch.timesteps for batch in batches]).tolist()
    for row in samples.held:
        quarters = [t // 250 for t, one in zip(timesteps, shown, strict=True) if one == row]
        assert quarters == [0, 1, 2, 3]

    fewer = settings_of(NETWORK, *options, *split, "--max_validation_steps=1", "--validate_every_n_steps=3")
    assert (fewer.evaluate_every, fewer.evaluate_every_epochs, fewer.evaluate_pictures) == (3, 0, 1)
    others = settings_of(NETWORK, *options, "--validation_split=0.5", "--validation_seed=5")
    chosen = {
        tuple(p.path.name for p in source_of(s, tmp_path).pictures if p.held_out) for s in (settings, others)
    }
    assert len(chosen) == 2
    none = settings_of(NETWORK, *options, "--validate_every_n_steps=3")
    assert none.evaluate_every == 0
    with pytest.raises(BadInput, match="leaves none of the 4 pictures"):
        source_of(settings_of(NETWORK, *options, "--validation_split=0.01"), tmp_path)


@needs_toml
def test_a_data_set_file_may_hold_pictures_out(pictures: str, tmp_path: Path) -> None:
    file = config(tmp_path, pictures, "validation_split = 0.25\nvalidation_seed = 7")
    source = source_of(settings_of(NETWORK, file, "--validation_split=0.5"), tmp_path)
    assert sum(picture.held_out for picture in source.pictures) == 1


def test_a_validated_job_learns_from_the_rest_and_writes_the_losses_of_what_is_held_out(
    pictures: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = [*NETWORK, f"--train_data_dir={pictures}", "--resolution=64", "--max_train_steps=4"]
    line += ["--validation_split=0.25", "--validate_every_n_steps=2", "--sample_at_first"]
    line += ["--network_train_unet_only", "--initial_step=1", "--learning_rate=1e-4"]
    assert main(["sd-scripts", "--json", "--device", "cpu", *line]) == 0
    result = json.loads(capsys.readouterr().out)
    job = tmp_path / ".ti-studio/jobs" / result["job"]
    assert [row.split(",")[0] for row in (job / "eval.csv").read_text().splitlines()[1:]] == ["2", "4"]
    assert [row.split(",")[0] for row in (job / "loss.csv").read_text().splitlines()[1:]] == ["2", "3", "4"]
    assert sorted(path.name for path in (job / "samples").iterdir())[0].startswith("step-000001-")
    assert any("1 of 4 pictures are held out" in sentence for sentence in result["messages"])


def test_steps_left_out_at_the_beginning_are_fed_as_the_later_ones(pictures: str, tmp_path: Path) -> None:
    options = (f"--train_data_dir={pictures}", "--max_train_steps=8")
    skipping = settings_of(NETWORK, *options, "--initial_step=5", "--skip_until_initial_step")
    assert (skipping.initial_step, skipping.steps) == (5, 8)
    by_epoch, _ = settle(
        settings_of(NETWORK, *options, "--initial_epoch=2", "--skip_until_initial_step"),
        folders_under(tmp_path),
    )
    assert by_epoch.initial_step == 4  # an epoch of four pictures
    told = translate([*NETWORK, *options, "--initial_step=5"], Path()).told
    assert any("begins as with --skip_until_initial_step" in sentence for sentence in told)


def test_copies_by_their_number(pictures: str, tmp_path: Path) -> None:
    """floor(epochs / ratio) epochs between two, one at least; a started epoch counts."""
    for steps, ratio, every in ((40, 3, 12), (41, 4, 8), (8, 5, 4)):
        options = (f"--train_data_dir={pictures}", f"--max_train_steps={steps}")
        settings = settings_of(NETWORK, *options, f"--save_n_epoch_ratio={ratio}")
        assert settle(settings, folders_under(tmp_path))[0].copy_every == every


def test_a_ckpt_is_a_pickle_of_plain_tensors(
    pictures: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    common = [f"--train_data_dir={pictures}", "--resolution=64", "--max_train_steps=1", "--output_name=x"]
    common += ["--save_model_as=ckpt"]
    line = [*INVERSION, *common, "--use_object_template"]
    assert main(["sd-scripts", "--json", "--device", "cpu", *line]) == 0
    file = Path(json.loads(capsys.readouterr().out)["file"])
    shutil.copyfile(file, tmp_path / "x.pt")
    assert file.name == "x.ckpt" and read_embedding(tmp_path / "x.pt").count == 1
    assert main(["sd-scripts", "--json", "--device", "cpu", *NETWORK, *common]) == 0
    result = json.loads(capsys.readouterr().out)
    tensors = torch.load(result["file"], weights_only=True)
    assert Path(result["file"]).name == "x.ckpt" and all(map(torch.is_tensor, tensors.values()))
    assert any(name.endswith(".lora_down.weight") for name in tensors)


def test_debug_dataset_shows_the_new_words_ids_and_trains_nothing(
    pictures: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seed documents: ids of 49408 and above are those of the new word."""
    monkeypatch.chdir(tmp_path)
    for path in Path(pictures).glob("*.png"):
        path.with_suffix(".caption").write_text("zqx-w, 1girl", encoding="utf-8")
    line = [*INVERSION, f"--train_data_dir={pictures}", "--num_vectors_per_token=3", "--debug_dataset"]
    assert main(["sd-scripts", "--device", "cpu", *line]) == 0
    shown = capsys.readouterr().out
    assert "input ids: [49406, 49408, 49409, 49410, 267," in shown and "49407]" in shown
    assert not (tmp_path / ".ti-studio").exists()
    for path in Path(pictures).glob("*.caption"):
        path.write_text("1girl", encoding="utf-8")
    assert main(["sd-scripts", "--device", "cpu", *line]) == 2
    assert "no id is 49408 or above" in capsys.readouterr().err
