"""``ti-studio sd-scripts``: the command lines of sd-scripts' training, run as they stand.

The tables (sd_scripts_model, _pictures, _learning, _machine, _saving and _network) translate them into
options of ``ti-studio train``. Those of its tools for networks are in sd_scripts_tools.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lib_ti.commands import options, train
from lib_ti.commands.sd_scripts_accelerate import read_launch
from lib_ti.commands.sd_scripts_debug import shown_dataset
from lib_ti.commands.sd_scripts_device import fitted
from lib_ti.commands.sd_scripts_entry import Entry, Ours, unknown_option
from lib_ti.commands.sd_scripts_file import read_options
from lib_ti.commands.sd_scripts_learning import learning_told, optimizer_args, weighting_of
from lib_ti.commands.sd_scripts_network import NETWORK_DEFAULTS, NETWORK_OPTIONS, network_ours
from lib_ti.commands.sd_scripts_options import DEFAULTS, NOT_TOGETHER, OPTIONS
from lib_ti.commands.sd_scripts_output import Copies, save_embedding, save_network
from lib_ti.commands.sd_scripts_pictures import masks_of, sources_of
from lib_ti.commands.sd_scripts_saving import kept_copies, metadata_told, preview_of, saving_told
from lib_ti.commands.sd_scripts_schedule import adafactor_args, relative_step, schedule_of
from lib_ti.commands.sd_scripts_tools import TOOLS, find_tool, run_tool
from lib_ti.commands.sd_scripts_validation import beginning_of, validation_of
from lib_ti.commands.shared import Stopped
from lib_ti.core.errors import BadInput
from lib_ti.core.names import safe_name
from lib_ti.core.nearest import nearest
from lib_ti.core.settings import text_for
from lib_ti.methods.registry import all_options


@dataclass(frozen=True)
class Script:
    """What a script of sd-scripts takes, and what is to be done about it."""

    options: Mapping[str, Entry]
    defaults: Ours  # what it does where it is told nothing
    required: tuple[str, ...]
    output: Callable[[Mapping[str, str]], str]  # the name of its file, without the suffix
    suffix: str  # of the file, without --save_model_as
    # Options of ours that several of its own make together.
    together: Callable[[Mapping[str, str], Ours], Ours] = lambda given, ours: {}


_INVERSION = Script(
    options=OPTIONS,
    defaults=DEFAULTS,
    required=("pretrained_model_name_or_path", "token_string"),
    # The word is checked also where the file is named otherwise: it becomes a file's name first.
    output=lambda given: given.get("output_name", safe_name(given["token_string"])),
    suffix="pt",
)
_NETWORK = Script(
    options=NETWORK_OPTIONS,
    defaults=NETWORK_DEFAULTS,
    required=("pretrained_model_name_or_path", "network_module"),
    output=lambda given: given.get("output_name", "last"),
    suffix="safetensors",
    together=network_ours,
)


def _of_sdxl(script: Script) -> Script:
    """SDXL is told each picture's own size."""
    return replace(script, defaults={**script.defaults, "--size-conditioning": "sd-scripts"})


SCRIPTS: Mapping[str, Script] = {
    "train_textual_inversion.py": _INVERSION,
    "sdxl_train_textual_inversion.py": _of_sdxl(_INVERSION),
    "train_network.py": _NETWORK,
    "sdxl_train_network.py": _of_sdxl(_NETWORK),
}
_NAMES = " or ".join((", ".join([*SCRIPTS][:-1]), [*SCRIPTS][-1]))


@dataclass(frozen=True)
class Translation:
    """A command line of sd-scripts as one of ``ti-studio train``."""

    ours: Ours
    told: list[str]  # what to say about options that nothing here answers to
    output: Path  # the file that sd-scripts would write
    device: str = ""  # that accelerate was told of; "": the best there is
    debug: bool = False  # nothing is trained: the prompts' ids are shown


def run(args: argparse.Namespace, stopped: Stopped) -> dict[str, Any]:
    if tool := find_tool(args.line):
        return run_tool(tool, args, stopped)
    translation = translate(args.line, args.data, args.parser_class)
    ours, device, said = fitted(translation.ours, args.device or translation.device)
    said = [*translation.told, *said]
    for sentence in said:
        print(sentence, file=sys.stderr)
    words = words_of({**ours, **({"--device": device} if device else {})})
    print(f"the same as: {shlex.join(['ti-studio', 'train', *words])}", file=sys.stderr)
    parser = args.parser_class(prog="ti-studio")
    options.add_train(parser.add_subparsers(parser_class=args.parser_class))
    if translation.debug:
        args_of_train = parser.parse_args(["train", "--json", "--show-tokens", *words])
        word = ours["--name"] if ours.get("--vectors") else ""
        result = shown_dataset(train.run(args_of_train, stopped), word, quiet=args.json)
        return {**result, "messages": said}
    epochs, keep = (int(ours.get(flag, "0")) for flag in ("--copy-every-epochs", "--keep-last"))
    copies = Copies(translation.output, epochs, keep)
    result = train.run(parser.parse_args(["train", *words]), stopped, copies)
    result["copies"] = [*map(str, copies.written)]
    result["messages"] = [*said, *result["messages"]]
    if result["status"] == "done":
        result["file"] = str(translation.output)
        if result["embedding"]:
            save_embedding(Path(result["embedding"]), translation.output)
        else:
            save_network(Path(result["network"]), translation.output)
    return result


def words_of(ours: Ours) -> list[str]:
    """Options as they are typed; of several values each is a line."""
    return [word for flag, value in ours.items() for word in (flag, *value.splitlines())]


def translate(
    line: Sequence[str], folder: Path, parser_class: type[argparse.ArgumentParser] = argparse.ArgumentParser
) -> Translation:
    """``line``: the script with its options, after nothing or ``accelerate launch`` with its own.
    ``folder``: where the output goes if they do not say.

    Raises BadInput, by the option's name, for what has no counterpart here.
    """
    place = next((i for i, word in enumerate(line) if word.endswith(".py")), None)
    launch = None if place is None else read_launch(line[:place], parser_class)
    if place is None or launch is None:
        raise BadInput(f"expected {_NAMES} with its options, got {shlex.join(line) or 'nothing'}.")
    if (name := Path(line[place]).name) not in SCRIPTS:
        raise BadInput(f"{name} cannot be run here{nearest(name, (*SCRIPTS, *TOOLS))}.")
    script = SCRIPTS[name]
    given = _parse(line[place + 1 :], script, parser_class)
    _check_presence(given, script)
    ours: dict[str, str] = {"--data": str(folder), **script.defaults}
    told = [*launch.told]
    for option, value in given.items():
        entry = script.options[option].of(value)
        if entry.instead:
            raise BadInput(f"{_shown(option, value)} is not to be had here: {entry.instead}.")
        ours |= _checked(_shown(option, value), entry.ours(value))
        if entry.told:
            told.append(f"{_shown(option, value)}: {entry.told}")
    ours |= kept_copies(given)
    ours |= _checked(f"--sample_prompts={given.get('sample_prompts')}", preview_of(given))
    ours |= {**weighting_of(given), **adafactor_args(given)}
    ours |= optimizer_args(given, ours)
    rates = ("unet_lr", "text_encoder_lr") if relative_step(given) else ()
    ours |= script.together({key: value for key, value in given.items() if key not in rates}, ours)
    for shown, (made, said) in {
        "--lr_scheduler": schedule_of(given, ours["--learning-rate"]),
        "--masked_loss": masks_of(given),
        "--initial_step": beginning_of(given),
        "--validation_split": validation_of(given) if "network_module" in given else ({}, []),
    }.items():
        ours |= _checked(shown, made)
        told += said
    ours, said = sources_of(given, ours)
    told += [*said, *learning_told(given), *saving_told(given)]
    if "--buckets" in ours:
        del ours["--no-buckets"]
    suffix = given.get("save_model_as", script.suffix).lower()
    told += metadata_told(given, suffix)
    output = Path(ours["--data"]) / f"{safe_name(script.output(given))}.{suffix}"
    return Translation(ours, told, output, launch.device, "debug_dataset" in given)


def _checked(shown: str, ours: Ours) -> Ours:
    """Raises BadInput, by what the user typed, where a setting does not take what becomes of it."""
    known = all_options()
    for flag, text in ours.items():
        if text and (told := known.get(flag.removeprefix("--").replace("-", "_"))):
            text_for(told[0], told[1], text, shown)
    return ours


def _parse(
    arguments: Sequence[str], script: Script, parser_class: type[argparse.ArgumentParser]
) -> dict[str, str]:
    """The options that are given, in the table's order; a switch has an empty value."""
    parser = parser_class(prog="ti-studio sd-scripts", add_help=False, allow_abbrev=False)
    for option, entry in script.options.items():
        if entry.switch:
            parser.add_argument(f"--{option}", action="store_const", const="")
        else:
            parser.add_argument(f"--{option}", nargs="*" if entry.several else None)
    values, others = parser.parse_known_args(arguments)
    if others:
        typed = next((word for word in others if word.startswith("-")), others[0])
        option = typed.partition("=")[0].lstrip("-")
        if owners := [name for name, other in SCRIPTS.items() if option in other.options]:
            raise BadInput(f"--{option} belongs to {' and '.join(owners)}; leave it out here.")
        raise BadInput(unknown_option(option, script.options))
    found: dict[str, str] = {}
    for option, entry in script.options.items():
        value = getattr(values, option)
        # To sd-scripts an empty value is none.
        if value or (entry.switch and value is not None):
            found[option] = "\n".join(value) if entry.several else value
    if "config_file" in found:
        found = {**read_options(found["config_file"], script.options), **found}
    return {option: found[option] for option in script.options if option in found}


def _check_presence(given: Mapping[str, str], script: Script) -> None:
    """Raises BadInput where an option is missing, or two are given that do not go together."""
    if absent := [option for option in script.required if option not in given]:
        raise BadInput(f"--{absent[0]} is missing.")
    if not {"train_data_dir", "dataset_config"} & given.keys():
        raise BadInput("--dataset_config is missing, or --train_data_dir in its place.")
    for one, other, instead in NOT_TOGETHER:
        if one in given and other in given:
            raise BadInput(f"--{one} beside --{other} is not to be had here: {instead}.")


def _shown(option: str, value: str) -> str:
    if "\n" in value:
        return " ".join([f"--{option}", *value.splitlines()])
    return f"--{option}={value}" if value else f"--{option}"
