"""sd-scripts' tools for networks and pictures: their command lines as those of ``ti-studio lora``,
``ti-studio images`` and ``ti-studio generate``.

Source of the options: kohya-ss/sd-scripts, networks/*.py and tools/resize_images_to_resolution.py.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PureWindowsPath
from typing import Any

from lib_ti.commands import options, sd_scripts_generate
from lib_ti.commands.sd_scripts_accelerate import read_launch
from lib_ti.commands.shared import Stopped
from lib_ti.core.errors import BadInput
from lib_ti.core.nearest import perhaps

Given = Mapping[str, list[str]]  # option -> its values; a switch has none
Words = Sequence[str]

_PRECISIONS = {"float": "fp32"}  # its name there and here, where they differ
_KNOWN = "what kind of model it is the file tells itself"
_SINGLE = "it is computed in float32, which takes no more memory"


@dataclass(frozen=True)
class Tool:
    """``translate``: the given options as words of ours. ``values``: how many an option takes, if not one.

    ``told``: options that change nothing here, and why; ``refused``: those there is no counterpart to.
    """

    options: Sequence[str]
    translate: Callable[[Given], list[str]]
    required: Sequence[str] = ()
    values: Mapping[str, str | int] = field(default_factory=dict)
    told: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)


def _option(given: Given, theirs: str, ours: str, default: str | None = None) -> list[str]:
    value = given[theirs][0] if theirs in given else default
    return [] if value is None else [ours, value]


def _save_precision(given: Given, default: str = "float") -> list[str]:
    value = given.get("save_precision", [default])[0]
    return ["--save-precision", _PRECISIONS.get(value, value)]


def _networks(given: Given) -> list[str]:
    ratios = [f"--ratios={','.join(given['ratios'])}"] if "ratios" in given else []
    computed = given.get("precision", ["float"])[0]
    return [*given["models"], given["save_to"][0], *ratios, "--overwrite", *_save_precision(given, computed)]


def _merge(given: Given) -> list[str]:
    if "sd_model" in given:
        return ["lora", "merge-into-checkpoint", given["sd_model"][0], *_networks(given)]
    words = ["lora", "merge", *_networks(given)]
    if "concat" not in given:
        return [*words, "--how", "nearest"]
    return [*words, *(["--shuffle"] if "shuffle" in given else [])]


def _svd_merge(given: Given) -> list[str]:
    rank = _option(given, "new_rank", "--rank", "4")
    conv = _option(given, "new_conv_rank", "--conv-rank")
    device = _option(given, "device", "--device")
    words = ["lora", "merge", *_networks(given), "--how", "nearest"]
    return [*words, *rank, *conv, *device, "--clamp", "0.99"]


def _extract(given: Given) -> list[str]:
    return [
        *("lora", "extract", given["model_org"][0], given["model_tuned"][0], given["save_to"][0]),
        "--overwrite",
        *_option(given, "dim", "--rank", "4"),
        *_option(given, "conv_dim", "--conv-rank"),
        *_option(given, "min_diff", "--min-diff"),
        *_option(given, "clamp_quantile", "--clamp", "0.99"),
        *_option(given, "device", "--device"),
        *_save_precision(given),
    ]


def _split(given: Given) -> list[str]:
    words = ["lora", "split", given["model"][0], given["save_to"][0], "--overwrite"]
    return [*words, *_option(given, "unit", "--unit", "1")]


def _resize(given: Given) -> list[str]:
    return [
        *("lora", "resize", given["model"][0], given["save_to"][0], "--overwrite"),
        *_option(given, "new_rank", "--rank", "4"),
        *_option(given, "new_conv_rank", "--conv-rank"),
        *_option(given, "dynamic_method", "--method"),
        *_option(given, "dynamic_param", "--parameter"),
        *_option(given, "device", "--device"),
        *_save_precision(given),
    ]


def _resize_images(given: Given) -> list[str]:
    return [
        *("images", "resize", *given["folders"], "--overwrite"),
        *_option(given, "max_resolution", "--sizes"),
        *_option(given, "divisible_by", "--divisible-by"),
        *_option(given, "interpolation", "--interpolation"),
        *(["--png"] if "save_as_png" in given else []),
        *(["--together"] if "copy_associated_files" in given else []),
    ]


_NO_METADATA = "what the file says of itself is kept"
_LBWS = "merge with one ratio for all blocks"
_MERGE = Tool(
    options=(
        *("sd_model", "save_to", "models", "ratios", "precision", "save_precision"),
        *("v2", "concat", "shuffle", "no_metadata", "lbws"),
    ),
    translate=_merge,
    required=("save_to", "models"),
    values={"models": "+", "ratios": "+", "lbws": "+", "v2": 0, "concat": 0, "shuffle": 0, "no_metadata": 0},
    told={"v2": _KNOWN, "precision": _SINGLE, "no_metadata": _NO_METADATA},
    refused={"lbws": _LBWS},
)

_GENERATE = Tool(
    options=sd_scripts_generate.OPTIONS,
    translate=sd_scripts_generate.generate_words,
    required=("ckpt", "prompt"),
    values=sd_scripts_generate.VALUES,
    told=sd_scripts_generate.TOLD,
    refused=sd_scripts_generate.REFUSED,
)

TOOLS: Mapping[str, Tool] = {
    "gen_img_diffusers.py": _GENERATE,
    "gen_img.py": _GENERATE,
    "sdxl_gen_img.py": _GENERATE,
    "merge_lora.py": _MERGE,
    "sdxl_merge_lora.py": _MERGE,
    "svd_merge_lora.py": Tool(
        options=(
            *("save_to", "models", "ratios", "precision", "save_precision", "new_rank", "new_conv_rank"),
            *("device", "no_metadata", "lbws"),
        ),
        translate=_svd_merge,
        required=("save_to", "models"),
        values={"models": "+", "ratios": "+", "lbws": "+", "no_metadata": 0},
        told={"precision": _SINGLE, "no_metadata": _NO_METADATA},
        refused={"lbws": _LBWS},
    ),
    "extract_lora_from_models.py": Tool(
        options=(
            *("model_org", "model_tuned", "save_to", "dim", "conv_dim", "min_diff", "clamp_quantile"),
            *("device", "save_precision", "load_precision", "load_original_model_to", "load_tuned_model_to"),
            *("v2", "v_parameterization", "sdxl", "no_metadata"),
        ),
        translate=_extract,
        required=("model_org", "model_tuned", "save_to"),
        values={"v2": 0, "sdxl": 0, "no_metadata": 0, "v_parameterization": "?"},
        told={
            **dict.fromkeys(("v2", "sdxl", "v_parameterization"), _KNOWN),
            **dict.fromkeys(
                ("load_precision", "load_original_model_to", "load_tuned_model_to"),
                "the checkpoints are read layer by layer",
            ),
            "no_metadata": _NO_METADATA,
        },
    ),
    "extract_lora_from_dylora.py": Tool(
        options=("model", "save_to", "unit"), translate=_split, required=("model", "save_to")
    ),
    "resize_lora.py": Tool(
        options=(
            *("model", "save_to", "new_rank", "new_conv_rank", "save_precision", "device", "verbose"),
            *("dynamic_method", "dynamic_param"),
        ),
        translate=_resize,
        required=("model", "save_to"),
        values={"verbose": 0},
        told={"verbose": "what every layer keeps is in the answer of --json"},
    ),
    "resize_images_to_resolution.py": Tool(
        options=(
            *("folders", "max_resolution", "divisible_by", "interpolation", "save_as_png"),
            "copy_associated_files",
        ),
        translate=_resize_images,
        values={"folders": 2, "save_as_png": 0, "copy_associated_files": 0},
    ),
}


@dataclass(frozen=True)
class Line:
    """A command line of one of the tools."""

    name: str
    arguments: Words
    before: Words = ()  # what the script is called by: nothing, python, or accelerate launch with its options


def find_tool(words: Words) -> Line | None:
    """The tool that is called in ``words``; None where the first script in them is none."""
    place = next((place for place, word in enumerate(words) if word.endswith(".py")), None)
    if place is None:
        return None
    name = PureWindowsPath(words[place]).name  # either kind of slash
    return Line(name, words[place + 1 :], words[:place]) if name in TOOLS else None


def translate_tool(
    line: Line, parser_class: type[argparse.ArgumentParser] = argparse.ArgumentParser
) -> tuple[list[str], list[str]]:
    """The words of ours, and what to say about options that change nothing here. Raises BadInput."""
    tool = TOOLS[line.name]
    given = _parse(tool, line, parser_class)
    for option, instead in tool.refused.items():
        if option in given:
            raise BadInput(f"--{option} is not to be had here: {instead}.")
    for option in tool.required:
        if option not in given:
            raise BadInput(f"--{option} is missing.")
    told = [f"--{option}: {why}" for option, why in tool.told.items() if option in given]
    return tool.translate(given), told


def _parse(tool: Tool, line: Line, parser_class: type[argparse.ArgumentParser]) -> Given:
    parser = parser_class(prog=f"ti-studio sd-scripts {line.name}", add_help=False, allow_abbrev=False)
    for option in tool.options:
        count = tool.values.get(option)
        if option == "folders":
            parser.add_argument(option, nargs=count)
        elif count == 0:
            parser.add_argument(f"--{option}", action="store_const", const=[])
        else:
            parser.add_argument(f"--{option}", nargs=count or 1)
    values, others = parser.parse_known_args(line.arguments)
    if others:
        meant = perhaps(others[0], (f"--{option}" for option in tool.options))
        raise BadInput(
            f"{others[0]} is no option of {line.name} that is to be had here{meant}; leave it out."
        )
    found = {option: getattr(values, option) for option in tool.options}
    return {
        option: value if isinstance(value, list) else []
        for option, value in found.items()
        if value is not None
    }


def run_tool(line: Line, args: argparse.Namespace, stopped: Stopped) -> dict[str, Any]:
    launch = read_launch(line.before, args.parser_class)
    if launch is None:
        raise BadInput(f"{shlex.join(line.before)} before {line.name} is not to be had here; leave it out.")
    words, told = translate_tool(line, args.parser_class)
    told = [*launch.told, *told]
    for sentence in told:
        print(sentence, file=sys.stderr)
    print(f"the same as: {shlex.join(['ti-studio', *words])}", file=sys.stderr)
    parser = args.parser_class(prog="ti-studio")
    commands = parser.add_subparsers(parser_class=args.parser_class)
    options.add_tools(commands)
    options.add_generate(commands)
    ours = parser.parse_args([*words, *(["--json"] if args.json else [])])
    if (device := args.device or launch.device) and "--device" not in words:
        ours.device = device
    result: dict[str, Any] = ours.run(ours, stopped)
    return {**result, "notes": [*told, *result.get("notes", [])]} if told else result
