"""Every option of sd-scripts' training scripts is translated, told of or refused by its own sentence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lib_ti.cli import main
from lib_ti.commands.sd_scripts import SCRIPTS, translate
from lib_ti.commands.sd_scripts_entry import Entry
from lib_ti.commands.sd_scripts_generate import OPTIONS, REFUSED, TOLD, VALUES, generate_words
from lib_ti.core.errors import BadInput

TABLE = Path(__file__).parent / "files/sd_scripts_options.txt"
LINES = {
    "train_textual_inversion.py": ["--token_string=zqx-word"],
    "train_network.py": ["--network_module=networks.lora"],
}
LINES |= {f"sdxl_{script}": line for script, line in LINES.items()}


def options_of(script: str) -> list[str]:
    found, kind = sections(), "network" if "network" in script else "textual_inversion"
    return [*found["all"], *found[kind], *found.get(script, [])]


def sections() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    names: list[str] = []
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            names = found.setdefault(line.strip("[]"), [])
        elif not line.startswith("#"):
            names.append(line)
    return found


def refusals(entry: Entry) -> Iterator[str]:
    if entry.instead:
        yield entry.instead
    for choice in entry.choices.values():
        yield from refusals(choice)


@pytest.mark.parametrize("script", LINES)
def test_every_option_is_known(script: str) -> None:
    known = SCRIPTS[script].options
    assert len(options_of(script)) > 170
    assert [name for name in options_of(script) if name not in known] == []


@pytest.mark.parametrize("script", LINES)
def test_what_is_refused_is_told_the_nearest_way(script: str) -> None:
    """By a sentence that is more than leaving it out."""
    said = [sentence for entry in SCRIPTS[script].options.values() for sentence in refusals(entry)]
    assert all(len(sentence.split()) > 3 and sentence != "leave it out" for sentence in said)
    assert len(said) < 25


@pytest.mark.parametrize("script", LINES)
def test_a_typo_gets_the_nearest_name_and_another_scripts_option_its_script(script: str) -> None:
    line = [script, "--pretrained_model_name_or_path=builtin", "--train_data_dir=data", *LINES[script]]
    with pytest.raises(BadInput, match=r"--learning_rat is no option .* perhaps '--learning_rate' is meant"):
        translate([*line, "--learning_rat=1"], Path())
    other = "network_dim" if "inversion" in script else "token_string"
    with pytest.raises(BadInput, match=f"--{other} belongs to .*train_"):
        translate([*line, f"--{other}=1"], Path())


def test_every_option_of_the_drawing_script_is_known_and_has_one_outcome() -> None:
    names = sections()["generate"]
    assert len(names) > 95 and sorted(names) == sorted(OPTIONS)
    taken = set(OPTIONS) - TOLD.keys() - REFUSED.keys()
    assert not TOLD.keys() & REFUSED.keys() and VALUES.keys() <= set(OPTIONS)
    assert taken == {
        *("ckpt", "outdir", "prompt", "W", "H", "steps", "scale", "seed", "images_per_prompt", "clip_skip"),
        *("n_iter", "network_weights", "network_mul", "textual_inversion_embeddings", "v_parameterization"),
    }
    assert all(len(sentence.split()) > 4 for sentence in REFUSED.values())


def test_iterations_of_one_prompt_are_more_pictures() -> None:
    words = generate_words({"ckpt": ["m"], "prompt": ["a cat"], "images_per_prompt": ["2"], "n_iter": ["3"]})
    assert "--count=6" in words


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--highres_fix_scale=0.5"], "pictures are drawn in one pass"),
        (["--control_net_models", "a", "b"], "no ControlNet is read"),
        (["--zero_terminal_snr"], "the noise levels are those"),
    ],
)
def test_what_the_drawing_script_does_beyond_is_refused_in_a_sentence(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["gen_img.py", "--ckpt=builtin", "--prompt=a cat", *options]
    assert main(["sd-scripts", *line]) == 2
    assert said in capsys.readouterr().err
