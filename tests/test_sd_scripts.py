"""Command lines of sd-scripts: every option is translated, spoken of or refused, and a job comes out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from lib_ti.cli import build_parser, main
from lib_ti.commands.sd_scripts import OPTIONS, translate
from lib_ti.core.errors import BadInput
from lib_ti.formats.embedding import read_embedding

LAUNCH = ["accelerate", "launch", "--num_cpu_threads_per_process", "1"]
# The command lines of sd-scripts' two documents on textual inversion, the data apart.
JAPANESE = [
    *LAUNCH,
    "train_textual_inversion.py",
    *("--output_dir=out", "--output_name=my-ti", "--save_model_as=safetensors", "--prior_loss_weight=1.0"),
    *("--max_train_steps=1600", "--learning_rate=1e-6", "--optimizer_type=AdamW8bit", "--xformers"),
    *("--mixed_precision=fp16", "--cache_latents", "--gradient_checkpointing"),
    *("--token_string=mychar4", "--init_word=cute", "--num_vectors_per_token=4"),
    "--pretrained_model_name_or_path=builtin",
]
ENGLISH = [
    *LAUNCH,
    "train_textual_inversion.py",
    *("--pretrained_model_name_or_path=builtin", "--output_dir=output", "--output_name=my_ti"),
    *("--save_model_as=safetensors", "--token_string=mychar", "--init_word=girl"),
    *("--num_vectors_per_token=4", "--max_train_steps=1600", "--learning_rate=1e-6"),
    *("--optimizer_type=AdamW8bit", "--mixed_precision=fp16", "--cache_latents", "--sdpa"),
]
SDXL = [word.replace("train_textual", "sdxl_train_textual") for word in ENGLISH]


@pytest.fixture
def data(pictures: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder in the manner of sd-scripts; its path as an option, from the present folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(pictures, tmp_path / "data" / "10_mychar girl")
    return "--train_data_dir=data"


@pytest.mark.parametrize(
    ("line", "word", "init", "out", "told"),
    [
        (JAPANESE, "mychar4", "cute", "out/my-ti.safetensors", {"gradient_checkpointing", "xformers"}),
        (ENGLISH, "mychar", "girl", "output/my_ti.safetensors", {"sdpa"}),
        (SDXL, "mychar", "girl", "output/my_ti.safetensors", {"sdpa"}),
    ],
    ids=["japanese", "english", "sdxl"],
)
def test_the_documented_lines_are_translated(
    data: str, line: list[str], word: str, init: str, out: str, told: set[str]
) -> None:
    translation = translate([*line, data, "--use_object_template"], Path())
    assert translation.ours == {
        "--model": "builtin",
        "--name": word,
        "--init": "text",
        "--init-text": init,
        "--vectors": "4",
        "--images": "data/10_mychar girl",
        "--template": "subject",
        "--steps": "1600",
        "--learning-rate": "1e-6",
        "--batch-size": "1",
        "--accumulation": "1",
        "--weighting": "none",
        "--copy-every": "0",
        "--preview-every": "0",
        "--overwrite": "",
        "--data": out.partition("/")[0],
    }
    assert translation.output == Path(out)
    spoken_of = {
        sentence.partition(":")[0].partition("=")[0].removeprefix("--") for sentence in translation.told
    }
    assert spoken_of >= told | {"optimizer_type", "mixed_precision", "cache_latents"}


def test_a_line_trains_and_leaves_the_file_that_sd_scripts_would(
    data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["train_textual_inversion.py", "--pretrained_model_name_or_path", "builtin", data]
    line += ["--token_string", "mychar", "--init_word", "star", "--num_vectors_per_token", "2"]
    line += [
        "--use_style_template",
        "--resolution=64,64",
        "--max_train_steps",
        "4",
        "--learning_rate",
        "1e-2",
    ]
    line += ["--output_dir", "out", "--output_name", "char v1", "--save_every_n_steps", "2"]
    assert main(["sd-scripts", "--json", "--device", "cpu", *line]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert (result["status"], result["step"], result["file"]) == ("done", 4, "out/char v1.pt")
    made = read_embedding(Path(result["file"]))
    assert (made.name, made.count, made.step) == ("char v1", 2, 4)
    assert torch.equal(made.vectors["clip_l"], read_embedding(Path(result["embedding"])).vectors["clip_l"])
    (job,) = Path("out/.ti-studio/jobs").iterdir()
    assert len(list(job.rglob("*.safetensors"))) >= 2
    settings = json.loads((job / "settings.json").read_text())["settings"]
    assert (settings["template"], settings["weighting"], settings["width"]) == ("style", "none", 64)
    assert "the same as: ti-studio train --data out" in err

    assert main(["sd-scripts", "--json", *line, "--save_model_as=safetensors"]) == 0  # again, as it stands
    assert Path("out/char v1.safetensors").is_file()


def test_captions_are_read_where_no_template_is_asked_for(data: str) -> None:
    with pytest.raises(BadInput, match=r"4 pictures in .* have no caption .*use_object_template"):
        translate([*ENGLISH, data], Path())
    for picture in Path("data/10_mychar girl").glob("*.png"):
        picture.with_suffix(".txt").write_text("mychar on a table")
    assert translate([*ENGLISH, data], Path()).ours["--template"] == "captions"


def test_the_objects_template_wins_over_the_styles(data: str) -> None:
    both = [*ENGLISH, data, "--use_object_template", "--use_style_template"]
    assert translate(both, Path()).ours["--template"] == "subject"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--dataset_config=x.toml"], "--dataset_config=x.toml is not to be had here: give the pictures as"),
        (["--optimizer_type=Lion"], "--optimizer_type=Lion is not to be had here: use AdamW"),
        (["--lr_scheduler", "cosine"], "--lr_scheduler=cosine is not to be had here: write the stages"),
        (["--enable_bucket"], "--enable_bucket is not to be had here: leave it out"),
        (["--save_model_as=ckpt"], "--save_model_as=ckpt is not to be had here"),
        (["--noise_offset=0.1"], "--noise_offset is not to be had here"),
        (["--resolution=big"], "--resolution=big: expected a number of pixels"),
        (["--train_data_dir=nowhere"], "--train_data_dir=nowhere: there is no such folder"),
        (["--output_name=../x"], "cannot be a name"),
    ],
)
def test_what_there_is_not_is_refused_by_name(data: str, more: list[str], said: str) -> None:
    with pytest.raises(BadInput) as refused:
        translate([*ENGLISH, data, "--use_object_template", *more], Path())
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["train_network.py"], "train_network.py cannot be run here"),
        (["rm", "x.py"], "expected train_textual_inversion.py"),
        ([], "got nothing"),
        (["train_textual_inversion.py", "--token_string=x"], "--pretrained_model_name_or_path is missing"),
    ],
)
def test_other_lines_are_bad_input(line: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sd-scripts", *line]) == 2
    assert said in capsys.readouterr().err


def test_two_folders_of_pictures_are_refused_with_their_names(data: str) -> None:
    Path("data/1_other").mkdir()
    with pytest.raises(BadInput, match=r"found 10_mychar girl, 1_other"):
        translate([*ENGLISH, data], Path())


def test_every_entry_names_options_that_train_has(data: str) -> None:
    """Of those that pass a value on; whether train accepts the value is its own business."""
    values = {"train_data_dir": "data", "resolution": "64"}
    flags = {
        flag
        for name, entry in OPTIONS.items()
        if not entry.instead
        for flag in entry.ours(values.get(name, "1"))
    }
    commands = next(action for action in build_parser()._actions if action.dest == "command")
    known = commands.choices["train"]._option_string_actions  # type: ignore[index, call-overload]
    assert flags <= known.keys() and len(flags) > 12
