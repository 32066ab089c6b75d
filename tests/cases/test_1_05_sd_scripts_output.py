"""Row 1.5: copies under sd-scripts' names where it puts them, and metadata in the files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from lib_ti.cli import main
from lib_ti.commands.sd_scripts import translate
from lib_ti.core.errors import BadInput
from lib_ti.formats.embedding import read_embedding
from lib_ti.formats.safetensors_file import read_tensors
from lib_ti.networks.files import read_network
from tests.cases.test_1_05_sd_scripts_meaning import NETWORK, TI

TOLD = [
    *("--metadata_title=My cat", "--metadata_author=me", "--metadata_description=A cat, red"),
    *("--metadata_license=CC0", "--metadata_tags=cat, red", "--training_comment=for my cat"),
]
EXPECTED = {
    "modelspec.title": "My cat",
    "modelspec.author": "me",
    "modelspec.description": "A cat, red",
    "modelspec.license": "CC0",
    "modelspec.tags": "cat, red",
    "ss_training_comment": "for my cat",
}


@pytest.fixture
def run(
    pictures: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Any:
    """Runs a line on four pictures; its result."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(pictures, tmp_path / "data" / "1_zqx")
    common = ["--resolution=64", "--output_dir=out", "--output_name=my cat"]

    def run(line: list[str], *more: str) -> dict[str, Any]:
        assert main(["sd-scripts", "--json", "--device", "cpu", *line, *common, *more]) == 0
        return dict(json.loads(capsys.readouterr().out))

    return run


def copies(suffix: str) -> list[str]:
    return sorted(path.name for path in Path("out").glob(f"*{suffix}") if path.is_file())


def test_copies_of_epochs_lie_in_the_output_folder(run: Any) -> None:
    result = run(TI, "--use_object_template", "--max_train_epochs=4", "--save_every_n_epochs=1")
    # Four pictures, so four steps an epoch; as there, the last epoch has no copy beside the file itself.
    assert copies(".pt") == ["my cat-000001.pt", "my cat-000002.pt", "my cat-000003.pt", "my cat.pt"]
    assert result["copies"] == [f"out/{name}" for name in copies(".pt")[:3]]
    made = [read_embedding(Path("out") / name) for name in copies(".pt")]
    assert [embedding.step for embedding in made] == [4, 8, 12, 16]
    kept = {path.name for path in Path("out/.ti-studio/jobs").rglob("zqx-*.safetensors")}  # besides
    assert kept == {f"zqx-{step:06d}.safetensors" for step in (4, 8, 12, 16)}


def test_copies_of_steps_lie_there_and_old_ones_go(run: Any) -> None:
    run(
        *(TI, "--use_object_template", "--max_train_steps=5", "--save_model_as=safetensors"),
        *("--save_every_n_steps=1", "--save_last_n_steps=1"),
    )
    kept = ["my cat-step00000004.safetensors", "my cat-step00000005.safetensors", "my cat.safetensors"]
    assert copies(".safetensors") == kept


def test_copies_of_every_second_epoch_of_a_network(run: Any) -> None:
    run(NETWORK, "--train_batch_size=4", "--max_train_steps=5", "--save_every_n_epochs=2", "--network_dim=1",
        "--network_train_text_encoder_only", *TOLD)  # fmt: skip
    names = ["my cat-000002.safetensors", "my cat-000004.safetensors", "my cat.safetensors"]
    assert copies(".safetensors") == names
    for name, step in zip(names, ("2", "4", "5"), strict=True):
        assert read_network(Path("out") / name).updates
        metadata = read_tensors(Path("out") / name)[1]
        assert metadata["ss_steps"] == step
        assert {key: metadata.get(key) for key in EXPECTED} == EXPECTED


def test_an_embedding_holds_its_metadata(run: Any) -> None:
    line = [*TI, "--use_object_template", "--max_train_steps=1"]
    result = run(line, *TOLD, "--save_model_as=safetensors")
    for file in (result["file"], result["embedding"]):
        metadata = read_tensors(Path(file))[1]
        assert {key: metadata.get(key) for key in EXPECTED} == EXPECTED
    assert not [said for said in result["messages"] if "does not hold it" in said]
    result = run(line, *TOLD)
    told = [said.partition(":")[0] for said in result["messages"] if "a .pt file does not hold it" in said]
    assert sorted(told) == sorted(option.partition("=")[0] for option in TOLD)


@pytest.mark.parametrize("line", [TI, NETWORK])
def test_other_metadata_is_refused_with_what_to_do(line: list[str]) -> None:
    with pytest.raises(BadInput, match="--metadata_usage_hint=x is not to be had here: write it into"):
        translate([*line, "--metadata_usage_hint=x"], Path())
