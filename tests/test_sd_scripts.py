"""Command lines of sd-scripts: every option is translated, spoken of or refused, and a job comes out."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch

from lib_ti.cli import build_parser, main
from lib_ti.commands.options import add_train_options
from lib_ti.commands.parser import Parser
from lib_ti.commands.sd_scripts import translate
from lib_ti.commands.sd_scripts_entry import Entry
from lib_ti.commands.sd_scripts_options import OPTIONS
from lib_ti.commands.shared import given_settings
from lib_ti.core.errors import BadInput
from lib_ti.core.optimizers import parse_arguments
from lib_ti.core.schedule import learning_rate_of
from lib_ti.formats.embedding import read_embedding
from lib_ti.methods.registry import read_settings

LAUNCH = ["accelerate", "launch", "--num_cpu_threads_per_process", "1"]
# The command lines of sd-scripts' two documents on textual inversion.
JAPANESE = [
    *LAUNCH,
    "train_textual_inversion.py",
    "--dataset_config=data.toml",
    *("--output_dir=out", "--output_name=my-ti", "--save_model_as=safetensors", "--prior_loss_weight=1.0"),
    *("--max_train_steps=1600", "--learning_rate=1e-6", "--optimizer_type=AdamW8bit", "--xformers"),
    *("--mixed_precision=fp16", "--cache_latents", "--gradient_checkpointing"),
    *("--token_string=mychar4", "--init_word=cute", "--num_vectors_per_token=4"),
    "--pretrained_model_name_or_path=builtin",
]
ENGLISH = [
    *LAUNCH,
    "train_textual_inversion.py",
    *("--pretrained_model_name_or_path=builtin", "--dataset_config=data.toml"),
    *("--output_dir=output", "--output_name=my_ti"),
    *("--save_model_as=safetensors", "--token_string=mychar", "--init_word=girl"),
    *("--num_vectors_per_token=4", "--max_train_steps=1600", "--learning_rate=1e-6"),
    *("--optimizer_type=AdamW8bit", "--mixed_precision=fp16", "--cache_latents", "--sdpa"),
]
SDXL = [word.replace("train_textual", "sdxl_train_textual") for word in ENGLISH]
FOLDER = [
    *("train_textual_inversion.py", "--pretrained_model_name_or_path=builtin"),
    *("--token_string=mychar", "--train_data_dir=data"),
]
# The data set file of the second one, at the size of the pictures here.
DATA = """
[general]
shuffle_caption = false
caption_extension = ".txt"
keep_tokens = 1
[[datasets]]
resolution = 64
min_bucket_reso = 32
bucket_reso_steps = 16
batch_size = 4
enable_bucket = true
[[datasets.subsets]]
image_dir = "data/10_mychar girl"
caption_extension = ".txt"
num_repeats = 10
"""


@pytest.fixture
def data(pictures: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In the present folder: data, a folder in the manner of sd-scripts; data.toml, which names it."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data" / "10_mychar girl"
    shutil.copytree(pictures, folder)
    (tmp_path / "data.toml").write_text(DATA, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("line", "word", "init", "out", "told"),
    [
        (
            JAPANESE,
            "mychar4",
            "cute",
            "out/my-ti.safetensors",
            {"accelerate's --num_cpu_threads_per_process"},
        ),
        (
            ENGLISH,
            "mychar",
            "girl",
            "output/my_ti.safetensors",
            {"accelerate's --num_cpu_threads_per_process"},
        ),
        (SDXL, "mychar", "girl", "output/my_ti.safetensors", {"accelerate's --num_cpu_threads_per_process"}),
    ],
    ids=["japanese", "english", "sdxl"],
)
def test_the_documented_lines_are_translated(
    line: list[str], word: str, init: str, out: str, told: set[str]
) -> None:
    translation = translate(line, Path())
    more = {"--prior-weight": "1.0", "--checkpointing": ""} if line is JAPANESE else {}
    more |= {"--size-conditioning": "sd-scripts"} if line is SDXL else {}
    assert translation.ours == more | {
        "--model": "builtin",
        "--prediction": "eps",
        "--name": word,
        "--init": "text",
        "--init-text": init,
        "--vectors": "4",
        "--dataset-config": "data.toml",
        "--dataset-fallback": "settings",
        "--bucket-min": "256",
        "--bucket-max": "1024",
        "--bucket-step": "64",
        "--template": "captions",
        "--caption-extension": ".caption",
        "--steps": "1600",
        "--learning-rate": "1e-6",
        "--optimizer": "AdamW",
        "--optimizer-args": "weight_decay=0.01",
        "--precision": "fp16",
        "--attention": "xformers" if line is JAPANESE else "sdpa",
        "--clip": "norm",
        "--clip-at": "1.0",
        "--emphasis": "none",
        "--max-token-length": "75",
        "--no-normalise-masks": "",
        "--no-buckets": "",
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
    assert spoken_of >= told | {"optimizer_type", "cache_latents"}


@pytest.mark.skipif(
    not any(map(importlib.util.find_spec, ("tomllib", "tomli"))), reason="this Python reads no TOML"
)
@pytest.mark.parametrize(("line", "word"), [(JAPANESE, "mychar4"), (ENGLISH, "mychar")], ids=["ja", "en"])
def test_the_documented_lines_train(
    data: Path, line: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As they stand, from a data set file with captions; only the length is another."""
    for picture in data.glob("*.png"):
        picture.with_suffix(".txt").write_text(f"{word}, 1girl, a red thing", encoding="utf-8")
    assert main(["sd-scripts", "--json", "--device", "cpu", *line, "--max_train_steps=2"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert (result["status"], result["step"]) == ("done", 2)
    made = read_embedding(Path(result["file"]))
    assert (Path(result["file"]).suffix, made.count) == (".safetensors", 4)
    assert "bucket 64x64: 4 pictures" in err

    assert main(["sd-scripts", *line, "--token_string=zqx"]) == 2
    assert "zqx" in capsys.readouterr().err  # is in no caption


def test_a_line_trains_and_leaves_the_file_that_sd_scripts_would(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "a red thing 0.caption").write_text("mychar mychar1, 1girl", encoding="utf-8")
    line = ["train_textual_inversion.py", "--pretrained_model_name_or_path", "builtin"]
    line += ["--train_data_dir", "data"]
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
    assert (settings["template"], settings["weighting"], settings["width"]) == ("official_style", "none", 64)
    assert "the same as: ti-studio train --data out" in err
    assert err.count("mychar mychar1 ... is read as the one word mychar (1 times)") == 1

    assert main(["sd-scripts", "--json", *line, "--save_model_as=safetensors"]) == 0  # again, as it stands
    assert Path("out/char v1.safetensors").is_file()


def test_captions_are_the_prompts_where_no_template_is_asked_for() -> None:
    templates = {
        (): "captions",
        ("--use_style_template",): "official_style",
        ("--use_object_template",): "official_object",
        ("--use_object_template", "--use_style_template"): "official_object",
    }
    for options, template in templates.items():
        assert translate([*FOLDER, *options], Path()).ours["--template"] == template


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--optimizer_type=lion", {"--optimizer": "lion"}),
        ("--optimizer_type PagedAdamW8bit", {"--optimizer": "AdamW"}),
        ("--optimizer_type=dadaptadam", {"--optimizer": "dadaptation.DAdaptAdam"}),
        ("--optimizer_type=torch.optim.RAdam", {"--optimizer": "torch.optim.RAdam"}),
        ("--use_8bit_adam", {"--optimizer": "AdamW"}),
        ("--use_lion_optimizer", {"--optimizer": "Lion"}),
        ("--optimizer_args eps=1e-6", {"--optimizer-args": "weight_decay=0.01 eps=1e-6"}),
        ("--optimizer_args weight_decay=0 betas=.9,.99", {"--optimizer-args": "weight_decay=0 betas=.9,.99"}),
        ("--lr_scheduler cosine", {"--decay": "cosine"}),
        ("--lr_scheduler=cosine_with_restarts --lr_scheduler_num_cycles=3",
         {"--decay": "cosine-restarts", "--decay-cycles": "3"}),
        ("--lr_scheduler=polynomial", {"--decay": "polynomial", "--decay-power": "1"}),
        ("--lr_scheduler_power=3 --lr_scheduler=polynomial", {"--decay-power": "3"}),
        ("--lr_scheduler=constant_with_warmup --lr_warmup_steps=100",
         {"--decay": "constant", "--warmup": "100"}),
        ("--lr_warmup_steps=0.1", {"--warmup": "160", "--warmup-from": "0"}),
        ("--lr_warmup_steps=5% --max_train_epochs=3", {"--warmup": "0.05"}),
        ("--lr_warmup_steps=100%", {"--warmup": "1600"}),
        ("--max_grad_norm=0.5", {"--clip": "norm", "--clip-at": "0.5"}),
        ("--max_grad_norm=0.0", {"--clip": "none"}),
        ("--min_snr_gamma=5", {"--weighting": "min-snr", "--min-snr-gamma": "5"}),
        ("--debiased_estimation_loss", {"--weighting": "debiased"}),
        ("--loss_type=smooth_l1 --huber_c=0.2", {"--loss": "smooth-l1", "--huber-c": "0.2"}),
        ("--weights=old.pt", {"--weights": "old.pt"}),
        ("--resolution=512,768", {"--width": "512", "--height": "768"}),
        ("--enable_bucket --max_bucket_reso=768",
         {"--buckets": "", "--bucket-min": "256", "--bucket-max": "768", "--bucket-step": "64"}),
        ("--caption_extension=.txt", {"--caption-extension": ".txt"}),
        ("--reg_data_dir=reg", {"--reg-images": "reg"}),
        ("--ip_noise_gamma=0.1", {"--input-perturbation": "0.1"}),
        ("--zero_terminal_snr", {"--zero-terminal-snr": ""}),
        ("--max_train_epochs=10 --save_every_n_epochs=2 --save_last_n_epochs=3 --sample_every_n_epochs=1",
         {"--epochs": "10", "--copy-every-epochs": "2", "--keep-last": "3", "--preview-every-epochs": "1"}),
        # At step 400 the copy of step 100 goes: 200, 300 and 400 stay.
        ("--save_every_n_steps=100 --save_last_n_steps=200", {"--copy-every": "100", "--keep-last": "3"}),
        ("--save_every_n_steps=100 --save_last_n_steps=99", {"--keep-last": "1"}),
        ("--resize_interpolation=area --caption_dropout_every_n_epochs=4",
         {"--resize": "box", "--drop-captions-every": "4"}),
        ("--shuffle_caption --keep_tokens=1", {"--shuffle-tags": "", "--keep-tags": "1"}),
    ],
)  # fmt: skip
def test_options_become_ours(options: str, expected: dict[str, str]) -> None:
    ours = translate([*FOLDER, *options.split()], Path()).ours
    assert {flag: ours.get(flag) for flag in expected} == expected
    assert ("--no-buckets" in ours) != ("--buckets" in ours)
    words = [word for pair in ours.items() for word in pair if word]
    settings = read_settings(given_settings(build_parser().parse_args(["train", *words])))
    learning_rate_of(settings)
    parse_arguments(settings.optimizer_args)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("--save_model_as=zip", "--save_model_as=zip is not to be had here: use safetensors, pt or ckpt"),
        ("--network_dim=4", "--network_dim belongs to train_network.py"),
        ("--resolution=big", "--resolution=big: expected a number of pixels"),
        ("--max_grad_norm=big", "--max_grad_norm=big: expected a number"),
        ("--output_name=../x", "cannot be a name"),
        ("--output_name=x --token_string=a,b", "'a,b' cannot be a name"),
        ("--save_every_n_steps=9 --save_every_n_epochs=1", "beside --save_every_n_epochs is not to be had"),
        ("--save_last_n_steps=200", "--save_last_n_steps is missing --save_every_n_steps"),
        ("--train_data_dir=", "--dataset_config is missing, or --train_data_dir"),
    ],
)  # fmt: skip
def test_what_there_is_not_is_refused_by_name(more: str, said: str) -> None:
    with pytest.raises(BadInput) as refused:
        translate([*FOLDER, *more.split()], Path())
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["train_db.py"], "train_db.py cannot be run here"),
        (["rm", "x.py"], "expected train_textual_inversion.py, "),
        ([], "got nothing"),
        (["train_textual_inversion.py", "--token_string=x"], "--pretrained_model_name_or_path is missing"),
    ],
)
def test_other_lines_are_bad_input(line: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sd-scripts", *line]) == 2
    assert said in capsys.readouterr().err


def test_every_entry_names_options_that_train_has() -> None:
    """Of those that pass a value on; whether train accepts the value is its own business."""
    train = Parser(options=add_train_options)
    train.fill()
    known = train._option_string_actions

    def flags(entry: Entry) -> set[str]:
        below = {flag for choice in entry.choices.values() for flag in flags(choice)}
        return below if entry.instead else below | entry.ours("1").keys()

    found = {flag for entry in OPTIONS.values() for flag in flags(entry)}
    assert found <= known.keys() and len(found) > 50
