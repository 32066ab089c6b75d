"""What stands before a script of sd-scripts: ``python`` or ``accelerate launch``, with options of its own.

Source of the options: huggingface/accelerate, commands/launch.py.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PureWindowsPath

from lib_ti.commands.sd_scripts_entry import Entry, becomes, missing, needless, only, sets
from lib_ti.core.errors import BadInput

_ONE_PROCESS = (
    "one device trains here; use 1, and --gradient_accumulation_steps times as many for as large a step"
)
_ALONE = "leave it out: one device trains here, in one process"
_LOCAL = "one process trains here, which needs none"
_UNCOMPILED = "nothing is compiled"
_SHOWN = "errors are told in a sentence"

_SCRIPTS_OWN = 'the script\'s own option decides, there too, and is "no" where it is not given'
# Their values become options of this program ("--device").
_OPTIONS: Mapping[str, Entry] = {
    "mixed_precision": Entry(
        choices={"no": Entry(), **dict.fromkeys(("fp16", "bf16"), needless(_SCRIPTS_OWN))},
        instead="use no, fp16 or bf16",
    ),
    "cpu": sets({"--device": "cpu"}, switch=True),
    "gpu_ids": Entry(choices={"all": needless("the first one trains")}, ours=becomes("--device").ours),
    "num_processes": only("1", instead=_ONE_PROCESS),
    "num_machines": only("1", instead=_ALONE),
    "machine_rank": only("0", instead=_ALONE),
    **dict.fromkeys(
        ("multi_gpu", "tpu", "use_deepspeed", "use_fsdp", "use_megatron_lm", "use_parallelism_config"),
        missing(_ALONE, switch=True),
    ),
    "num_cpu_threads_per_process": needless("PyTorch takes as many threads as there are cores"),
    **dict.fromkeys(("enable_cpu_affinity", "same_network"), needless(_LOCAL, switch=True)),
    **dict.fromkeys(
        ("main_process_ip", "main_process_port", "rdzv_backend", "rdzv_conf", "max_restarts"),
        needless(_LOCAL),
    ),
    **dict.fromkeys(("monitor_interval", "role"), needless(_LOCAL)),
    **dict.fromkeys(
        ("dynamo_backend", "dynamo_mode"),
        Entry(choices={"no": Entry(), "default": Entry()}, told=_UNCOMPILED),
    ),
    **dict.fromkeys(
        ("dynamo_use_fullgraph", "dynamo_use_dynamic", "dynamo_use_regional_compilation"),
        needless(_UNCOMPILED, switch=True),
    ),
    "config_file": missing("its settings are not read; write those you need into the line"),
    **dict.fromkeys(("quiet", "debug"), needless(_SHOWN, switch=True)),
}
_OF_PYTHON = ("-u", "-s", "-E", "-I", "-B", "-P", "-O")  # of which none changes what a script does
_LAUNCHER = re.compile(r"(accelerate(-launch)?|python[\d.]*|py)(\.exe)?", re.IGNORECASE)


@dataclass(frozen=True)
class Launch:
    """``device``: "" is the best."""

    device: str
    told: Sequence[str]


def read_launch(words: Sequence[str], parser_class: type[argparse.ArgumentParser]) -> Launch | None:
    """``words``: those before the script. None where that is not how a script is called.

    Raises BadInput, by the option's name, for what is not done here.
    """
    if not words:
        return Launch("", [])
    program = PureWindowsPath(words[0]).name  # either kind of slash
    if not _LAUNCHER.fullmatch(program):
        return None
    rest = list(words[1:])
    if program.lower().startswith("py"):
        while rest and rest[0] in _OF_PYTHON:
            rest.pop(0)
        if not rest:
            return Launch("", [])
        if rest[:2] != ["-m", "accelerate.commands.launch"]:
            raise BadInput(f"python {rest[0]} is not to be had here; leave it out.")
        return _launch(rest[2:], parser_class)
    if "launch" in program.lower():
        return _launch(rest, parser_class)
    return _launch(rest[1:], parser_class) if rest[:1] == ["launch"] else None


def _launch(words: Sequence[str], parser_class: type[argparse.ArgumentParser]) -> Launch:
    parser = parser_class(prog="accelerate launch", add_help=False, allow_abbrev=False)
    for option, entry in _OPTIONS.items():
        names = dict.fromkeys((f"--{option}", f"--{option.replace('_', '-')}"))
        if entry.switch:
            parser.add_argument(*names, dest=option, action="store_const", const="")
        else:
            parser.add_argument(*names, dest=option)
    values, others = parser.parse_known_args(words)
    if others:
        raise BadInput(
            f"{others[0].partition('=')[0]} before the script is not to be had here: no option of accelerate "
            "launch that has a counterpart; leave it out."
        )
    ours: dict[str, str] = {}
    told = []
    for option, entry in _OPTIONS.items():
        if (value := getattr(values, option)) is None:
            continue
        shown = f"accelerate's --{option}{f'={value}' if value else ''}"
        chosen = entry.of(value)
        if chosen.instead:
            raise BadInput(f"{shown} is not to be had here: {chosen.instead}.")
        ours |= chosen.ours(value)
        if chosen.told:
            told.append(f"{shown}: {chosen.told}")
    device = ours.pop("--device", "")
    if device.isdecimal():
        device = f"cuda:{device}"
    elif device not in ("", "cpu"):
        raise BadInput(f"accelerate's --gpu_ids={device} is not to be had here: {_ONE_PROCESS}.")
    return Launch(device, told)
