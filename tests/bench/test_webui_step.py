"""The bench against the WebUI's own trainer measures what it says; its figures are not tested here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from lib_ti.bench.memory import saved_activations
from lib_ti.bench.webui import find_webui
from lib_ti.bench.webui_step import bench_webui, compare, write_checkpoint
from lib_ti.cli import main
from lib_ti.core.errors import BadInput
from lib_ti.hosts.checkpoints import load_components


def test_without_a_webui_it_refuses_before_it_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WEBUI_DIR", str(tmp_path))
    with pytest.raises(BadInput) as refused:
        find_webui()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert main(["bench", "webui", "--arch", "tiny", "--json"]) == 2
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"error": str(refused.value)}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("given", [["--size", "100"], ["--pairs", "1"]])
def test_bad_numbers_are_refused(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "webui", "--json", *given]) == 2
    name = given[0].removeprefix("--")
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["error"].startswith(f"{name}: got")


def test_the_ratio_is_of_pairs_and_not_of_medians() -> None:
    told = compare([(2.0, 1.0), (9.0, 3.0), (8.0, 2.0)])
    assert (told["builtin_seconds"], told["ours_seconds"]) == (8.0, 2.0)
    assert told["ratio"] == 3.0 and told["ratio_quartiles"] == [2.0, 3.0, 4.0]


def test_the_checkpoint_is_the_model_in_half_precision(tmp_path: Path) -> None:
    models = tmp_path / "models"
    before = load_components("builtin")
    write_checkpoint(before, models)
    after = load_components(models / "Stable-diffusion" / "bench.safetensors")
    for part in ("unet", "vae", "text_encoder"):
        wanted, got = (getattr(components, part).state_dict() for components in (before, after))
        assert wanted.keys() == got.keys()
        for name, tensor in wanted.items():
            assert torch.equal(tensor.half().float(), got[name].float()), f"{part}: {name}"
    plan = yaml.safe_load((models / "Stable-diffusion" / "bench.yaml").read_text())
    clip = Path(plan["model"]["params"]["cond_stage_config"]["params"]["version"])
    config = json.loads((clip / "config.json").read_text())
    assert config["hidden_size"] == before.text_encoder.config.hidden_size
    assert (clip / "vocab.json").is_file()


class Squared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(5, 7), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x @ self.weight).square()


def test_saved_activations_leave_out_weights_and_count_a_storage_once() -> None:
    model = Squared()
    x = torch.ones(3, 5, requires_grad=True)

    def forward() -> torch.Tensor:
        y = model(x)  # saves the weight, which is the model's, and the product, 3 x 7
        return (y * y[:1].detach()).sum()  # saves a view of y alone, 3 x 7 float32 as a storage

    assert saved_activations(model, forward) == 2 * 3 * 7 * 4
    model.weight.requires_grad_(True)  # now the gradient of the weight needs x
    assert saved_activations(model, forward) == 2 * 3 * 7 * 4 + 3 * 5 * 4


@pytest.mark.host
def test_both_trainers_are_measured_inside_a_real_webui() -> None:
    try:
        find_webui()
    except BadInput as reason:
        pytest.skip(str(reason))
    told = bench_webui("tiny", 64, 2)
    assert told["ours_seconds"] > 0 and told["builtin_seconds"] > 0
    lowest, _, highest = told["ratio_quartiles"]
    assert lowest <= told["ratio"] <= highest
    # The built-in trainer's peak also has a gradient of every weight of the U-Net.
    assert 0.001 < told["saved_activations_gb"] <= told["memory_ours_gb"] < told["memory_builtin_gb"]
    saved = told["memory_builtin_gb"] - told["memory_ours_gb"]
    assert told["memory_saved_gb"] == pytest.approx(saved, abs=0.002)
    assert {"webui", "python", "torch"} == told["versions"].keys()
