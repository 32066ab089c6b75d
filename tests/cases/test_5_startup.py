"""Section 5: what the command line costs before it does anything, and what its help shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from lib_ti import __version__
from lib_ti.bench.startup import FORMS, bench_startup
from lib_ti.cli import build_parser, main
from lib_ti.commands.shared import given_settings
from lib_ti.core.errors import BadInput
from lib_ti.core.settings import options_of
from lib_ti.methods.registry import KINDS, all_options
from lib_ti.tools.registry import TOOLS

# Each takes a tenth of a second or more, PyTorch seconds.
HEAVY = ("torch", "diffusers", "transformers", "accelerate", "gradio", "numpy", "PIL", "safetensors", "tqdm")
SEEN = f"""
import runpy, sys
try:
    runpy.run_module("lib_ti.cli", run_name="__main__", alter_sys=True)
finally:
    print([name for name in {HEAVY!r} if name in sys.modules])
"""
LINES = [
    ["--help"],
    ["--version"],
    *(["train", "--method", kind, more] for kind in KINDS for more in ("--help", "--help-all")),
    *([name, "--help"] for name in ("demo", "suggest", "sd-scripts", "generate", "bench")),
    *([*line, "--help"] for line in (["bench", "quality"], ["embedding"], ["lora", "merge"])),
]


def run(*line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SEEN, *line], capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize("line", LINES, ids=" ".join)
def test_help_imports_nothing_heavy(line: list[str]) -> None:
    assert run(*line).stdout.splitlines()[-1] == "[]"


def test_what_is_heavy_is_seen() -> None:
    assert "torch" in run("embedding", "check", "--data", "/nowhere").stdout


def test_bench_startup_tells_the_processor_time(capsys: pytest.CaptureFixture[str]) -> None:
    """Twice what is promised, since other tests may be at work beside this one."""
    told = bench_startup(3)
    assert told["seconds"].keys() == FORMS.keys()
    assert told["seconds"]["--help"] < 1 and told["seconds"]["--version"] < 1
    assert told["seconds"]["train --help"] < 2
    assert main(["bench", "startup", "--runs", "0"]) == 2
    assert "runs" in capsys.readouterr().err


def test_the_version_has_one_home() -> None:
    """pyproject.toml takes it from the package, which need not be installed."""
    assert run("--version").stdout.splitlines()[0] == f"ti-studio {__version__}"
    told = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert 'version = { attr = "lib_ti.__version__" }' in told and not re.search(r'^version = "', told, re.M)


def help_of(*line: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit, match="0"):
        build_parser().parse_args([*line])
    return capsys.readouterr().out


def flags_in(told: str) -> set[str]:
    return set(re.findall(r"^  (--[\w-]+)", told, re.M))


@pytest.mark.parametrize("method", KINDS)
def test_help_shows_the_basic_settings_of_its_method(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = options_of(KINDS[method].settings)
    every = {"--" + name.replace("_", "-") for name in all_options()}
    basic = {"--" + name.replace("_", "-") for name, (_, option, _) in options.items() if option.basic}
    assert flags_in(help_of("train", "--method", method, "--help", capsys=capsys)) & every == basic
    own = {"--" + name.replace("_", "-") for name in options}
    assert flags_in(help_of("train", f"--method={method}", "--help-all", capsys=capsys)) & every == own


def test_what_is_required_is_marked(capsys: pytest.CaptureFixture[str]) -> None:
    told = help_of("train", "--help", capsys=capsys)
    assert told.startswith("usage: ti-studio train --name WORD --images FOLDER [options]")
    assert len(re.findall(r"\(required", told)) == 2
    told = help_of("embedding", "convert", "--help", capsys=capsys)
    assert re.search(r"positional arguments:\n  file .*\n(?: .*\n)*  to ", told)


def test_what_help_hides_is_read_all_the_same() -> None:
    words = ["train", "--min-snr-gamma", "3", "--unit", "2", "--negative", "--base-weights", "a", "b"]
    given = given_settings(build_parser().parse_args(words))
    assert given == {"min_snr_gamma": 3.0, "unit": 2, "negative": True, "base_weights": "a\nb"}


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("trian --name x", "'train'"),
        ("embeding inspect x", "'embedding'"),
        ("embedding inspekt x", "'inspect'"),
        ("bench qualty", "'quality'"),
        ("train --method lorra", "'lora'"),
        ("train --weigthing v", "'--weighting'"),
        ("train --stesp=3", "'--steps'"),
        ("train --weighting min_snr", "'min-snr'"),
        ("train --method lora --vector 4 --alfa 3", "'--alpha'"),
        ("generate x --embeding y", "'--embedding'"),
        ("lora merge a b --ratois 1", "'--ratios'"),
        ("embedding convert a b --layuot x", "'--layout'"),
        ("bench quality --judgd 3", "'--judged'"),
    ],
)
def test_a_typo_gets_the_nearest_name(line: str, meant: str) -> None:
    with pytest.raises(BadInput, match=f"perhaps {meant} is meant"):
        build_parser().parse_args(line.split())


def test_every_verb_is_shown_without_its_code() -> None:
    told = run(TOOLS[0].group, "--help").stdout
    assert all(tool.name in told for tool in TOOLS if tool.group == TOOLS[0].group)
    assert told.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("generate x --embedding nowhere.pt", "nowhere.pt"),
        ("generate x --width 65", "width: got 65"),
        ("generate <net:nowhere:1>", "there is no network"),
        ("suggest --images nowhere", "nowhere"),
        ("suggest --images . --method lora", "does not start at words"),
        ("embedding inspect nowhere.pt --model {model}", "nowhere.pt"),
        ("embedding merge nowhere.pt no.pt new.pt --model {model}", "nowhere.pt"),
        ("embedding mix 0.5*nowhere new --model {model}", "nowhere"),
        ("images choose nowhere --model {model}", "nowhere"),
    ],
)
def test_what_is_wrong_is_found_before_a_model_is_loaded(
    line: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model that cannot be loaded would be complained of first."""
    monkeypatch.chdir(tmp_path)
    words = line.replace("{model}", "no-model.safetensors").split()
    if "--model" not in words:
        words += ["--model", "no-model.safetensors"]
    assert main(words) == 2
    told = capsys.readouterr().err
    assert said in told and "no-model" not in told
