"""What a model predicts can be said, else it is known by evidence, which the result tells; lines of
sd-scripts mean what they mean there, and a job goes on with what it began with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib_ti.cli import main
from lib_ti.commands.sd_scripts import translate
from lib_ti.commands.sd_scripts_tools import find_tool, translate_tool
from lib_ti.core.errors import BadInput
from lib_ti.core.job import Job
from lib_ti.formats.ldm import CLIP_HEADS
from lib_ti.formats.prediction import Evidence, settled
from lib_ti.hosts.checkpoints import load_components
from lib_ti.hosts.standalone import StandaloneHost
from lib_ti.jobs import folders_under, prediction_of, resume
from lib_ti.networks.tools.stored import open_checkpoint
from tests.networks.tools.made import BUILTIN

BESIDE, METADATA = "the .yaml beside it", "its metadata (modelspec.prediction_type)"


@pytest.mark.parametrize(
    ("family", "evidence", "asked", "prediction", "told"),
    [
        ("sd1", [], None, "eps", "x does not say whether it predicts eps or v: it is taken for eps, as SD1"),
        ("sdxl", [], None, "eps", "as SDXL models are. For a v model say --prediction v."),
        ("sd2", [], None, "v", "v, right for SD 2.1 (768 pixels). For an eps model such as SD 2.1 base"),
        ("sd1", [], "v", "v", "x is taken to predict v, as was asked."),
        ("sd1", [Evidence("v", "the key v_pred")], None, "v", "x predicts v, the key v_pred says."),
        ("sd1", [Evidence("epsilon", METADATA)], None, "eps", f"x predicts eps, {METADATA} says."),
        ("sd1", [Evidence("v", BESIDE), Evidence("epsilon", METADATA)], None, "v",
         f"x predicts v, {BESIDE} says; {METADATA} says epsilon, which is not followed."),
        ("sd2", [Evidence("v", BESIDE)], "eps", "eps", f"as was asked; {BESIDE} says v, which is"),
        ("sd1", [Evidence("sample", METADATA)], "v", "v", f"{METADATA} says sample, which is not followed"),
    ],
)  # fmt: skip
def test_what_decides_is_told(family: Any, evidence: Any, asked: Any, prediction: str, told: str) -> None:
    found = settled("x", family, evidence, asked)
    assert found.prediction == prediction and told in found.told


def test_what_is_neither_is_refused_by_name() -> None:
    with pytest.raises(BadInput, match=r"x predicts 'sample', .* says; expected eps or v\..*--prediction"):
        settled("x", "sd1", [Evidence("sample", METADATA)])


def hinting(folder: Path, *, mark: bool = False, beside: bool = False, **metadata: str) -> Path:
    """The built-in model with these hints: a key, its .yaml (which says eps), metadata."""
    path = folder / "hints.safetensors"
    state = load_file(BUILTIN) | ({"v_pred": torch.zeros(0)} if mark else {})
    save_file(state, path, {CLIP_HEADS: "4", **{f"modelspec.{key}": text for key, text in metadata.items()}})
    path.with_suffix(".yaml").unlink(missing_ok=True)
    if beside:
        shutil.copyfile(BUILTIN.with_suffix(".yaml"), path.with_suffix(".yaml"))
    return path


def test_the_evidence_of_a_file(tmp_path: Path) -> None:
    loaded = load_components(hinting(tmp_path, mark=True))
    assert (loaded.prediction, loaded.prediction_told) == (
        "v",
        "hints predicts v, the key v_pred in it says.",
    )
    loaded = load_components(hinting(tmp_path, mark=True, beside=True))
    assert (
        loaded.prediction == "eps"
        and "the key v_pred in it says v, which is not followed" in loaded.prediction_told
    )
    path = hinting(tmp_path, prediction_type="v")
    assert load_components(path).prediction == open_checkpoint(path).prediction == "v"
    assert "it is taken for eps, as SD1 models are" in load_components(hinting(tmp_path)).prediction_told
    asked = load_components(hinting(tmp_path, mark=True), prediction="eps")
    assert asked.prediction == "eps" and "as was asked; the key v_pred" in asked.prediction_told
    path = hinting(tmp_path, prediction_type="sample")
    for read in (load_components, lambda file: open_checkpoint(file).prediction):
        with pytest.raises(BadInput, match="hints predicts 'sample'"):
            read(path)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def folder(tmp_path: Path, pictures: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


STEPS = ("--steps", "2", "--batch-size", "1", "--accumulation", "1", "--preview-every", "0")
TRAIN = ("train", "--name", "zqx", *STEPS, "--width", "64", "--height", "64")


def test_a_job_is_told_records_it_and_goes_on_with_it(
    folder: Path, pictures: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(hinting(folder))
    told = run(capsys, *TRAIN, "--images", pictures, "--model", model, "--prediction", "v")
    assert "hints is taken to predict v, as was asked." in told["messages"]
    (record,) = folder.glob(".ti-studio/jobs/*/settings.json")
    said = json.loads(record.read_text(encoding="utf-8"))
    assert said["prediction"] == "v"
    job = record.parent.name
    (folder / "embeddings" / "zqx.safetensors").unlink()
    assert run(capsys, "train", "--resume", job)["status"] == "done"  # the file says nothing, the record v
    assert main(["train", "--resume", job, "--prediction", "eps"]) == 2
    assert "got eps, and --resume goes on as the job began, with v" in capsys.readouterr().err
    # A record of before has none: the file's evidence, as then.
    del said["prediction"]
    record.write_text(json.dumps(said), encoding="utf-8")
    assert run(capsys, "train", "--resume", job)["status"] == "done"


def test_a_job_does_not_go_on_with_another_prediction(
    folder: Path, pictures: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in a program whose model is described anew."""
    model = str(hinting(folder))
    run(capsys, *TRAIN, "--images", pictures, "--model", model)
    (record,) = folder.glob(".ti-studio/jobs/*/settings.json")
    folders = folders_under(folder)
    job, host = Job.open(folders.jobs, record.parent.name), StandaloneHost.load(model, "cpu", 1, "v")
    with pytest.raises(BadInput, match="began with a model that predicts eps, now v"):
        resume(host, job, folders=folders, report=lambda event: None, stopped=lambda: False)


def test_generate_suggest_and_tools_take_and_tell_it(
    folder: Path, pictures: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ("--model", str(hinting(folder, mark=True)))
    sizes = ("--count", "1", "--steps", "2", "--width", "64", "--height", "64")
    by_key = "hints predicts v, the key v_pred in it says."
    assert by_key in run(capsys, "generate", "a star", *sizes, *model)["notes"]
    as_asked = (
        "hints is taken to predict eps, as was asked; the key v_pred in it says v, which is not followed."
    )
    assert as_asked in run(capsys, "generate", "a star", *sizes, *model, "--prediction", "eps")["notes"]
    images = [path.read_bytes() for path in sorted((folder / "outputs").glob("*.png"))]
    assert len(images) == 2 and images[0] != images[1]
    shown = ("suggest", "--images", pictures, "--width", "64", "--height", "64")
    assert by_key in run(capsys, *shown, *model)["notes"]
    run(capsys, *TRAIN, "--images", pictures, *model)
    word = ("embedding", "inspect", "embeddings/zqx.safetensors")
    assert by_key in run(capsys, *word, *model)["notes"]
    assert as_asked in run(capsys, *word, *model, "--prediction", "eps")["notes"]


@pytest.mark.parametrize(
    "script", ["train_textual_inversion.py", "sdxl_train_textual_inversion.py", "train_network.py"]
)
@pytest.mark.parametrize(
    ("flags", "prediction"),
    [("", "eps"), ("--v2", "eps"), ("--v2 --v_parameterization", "v"), ("--v_parameterization", "v")],
)  # fmt: skip
def test_a_line_of_sd_scripts_predicts_what_it_predicts_there(
    script: str, flags: str, prediction: str
) -> None:
    line = [script, "--pretrained_model_name_or_path=m.safetensors", "--train_data_dir=x", *flags.split()]
    word = ["--network_module=networks.lora"] if "network" in script else ["--token_string=zqx"]
    assert translate([*line, *word], Path()).ours["--prediction"] == prediction
    drawn = find_tool(["gen_img.py", "--ckpt", "m.safetensors", "--prompt", "a", *flags.split()])
    assert drawn is not None
    assert f"--prediction={prediction}" in translate_tool(drawn)[0]


@pytest.mark.parametrize("odd", ["sample", ["eps"], None, 1])
def test_a_record_that_says_neither_is_refused(odd: object) -> None:
    assert prediction_of({}) is None and prediction_of({"prediction": "v"}) == "v"
    with pytest.raises(BadInput, match="does not tell its prediction"):
        prediction_of({"prediction": odd})
