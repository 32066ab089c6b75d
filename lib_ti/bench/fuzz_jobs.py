"""What is fuzzed of job folders, descriptions of models and prompts: texts, grown from valid ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save

from lib_ti.bench.fuzz_formats import mutate_safetensors
from lib_ti.bench.fuzz_mutate import Mutate, half_right, mutate_text
from lib_ti.core.errors import BadInput
from lib_ti.core.job import Job
from lib_ti.hosts.descriptions import check_blocks, check_numbers, read_yaml
from lib_ti.hosts.prompts import parse_emphasis
from lib_ti.runs import status_of

Row = tuple[str, Sequence[bytes], Mutate, Callable[[Path], object], Callable[[bytes], bool], str]

_JSON_WORDS = (
    *("{", "}", "[", "]", ",", ":", '"', "null", "true", "1e999", "NaN", "-1", '"\\ud800"', '"settings": '),
    *('"steps": ', '"status": "done"', '"messages": ', '"name": "../x"', '{"a": ', "[["),
)
_SETTINGS = json.dumps(
    {"settings": {"name": "cat", "steps": 600}, "method": "textual_inversion", "model": "x"}
)
_RESULT = json.dumps({"status": "done", "step": 5, "messages": ["a"], "error": None, "embedding": "cat.pt"})
_LOSSES = "step,loss,learning_rate\n1,0.5,0.005\n2,1.25e-05,0.005\n3,nan,0.005\n"
_LOSS_WORDS = ("1,0.5,0.1\n", ",", ".", "\n", "nan", "inf", "-", "e-05", "9", "step")
_YAML_WORDS = (
    *(
        "num_res_blocks: 200",
        "&a ",
        "*a",
        "[",
        "]",
        "{",
        "}",
        ": ",
        "- ",
        "\n",
        "  ",
        "!!python/name:os",
        "'",
    ),
    *("channel_mult: [1, 2, 4]", "1e9", "<<: ", "2001-01-01", "190:20:30", "? "),
)
_PROMPTS = ("a (red:1.3) [cat], ((sitting)) BREAK on a mat \\(1990\\)", "cat")
_PROMPT_WORDS = ("(", ")", "[", "]", ":1.5)", ":", "\\", "BREAK", " ", "9", "cat", ",", " : ")


def _described() -> bytes:
    unet = {"model_channels": 32, "num_res_blocks": 2, "channel_mult": [1, 2, 4], "context_dim": 64}
    first = {"ddconfig": {"ch": 32, "ch_mult": [1, 2], "num_res_blocks": 1}}
    parts = {"unet_config": {"params": unet}, "first_stage_config": {"params": first}}
    return yaml.safe_dump({"model": {"params": {"linear_start": 0.1, **parts}}}).encode()


def _state() -> bytes:
    numbers = json.dumps({"optimizer/cat/step": 5, "beside/whole/best": [1.0, 2.0]})
    tensors = {"parameter/cat": torch.ones(2, 8), "optimizer/cat/exp_avg": torch.ones(2, 8)}
    return save(tensors, {"step": "5", "numbers": numbers})


def _read_description(path: Path) -> None:
    try:
        told = read_yaml(path)
        check_numbers(told)
        if isinstance(told, dict):
            check_blocks(told)
    except (ValueError, TypeError, RecursionError, LookupError, AttributeError, yaml.YAMLError) as error:
        raise BadInput(f"{path} does not describe a model ({error!r:.200}).") from error  # as its loader does


def _read_prompt(path: Path) -> None:
    parse_emphasis(path.read_bytes().decode(errors="surrogateescape"))


def _read_rows(path: Path) -> None:
    job = Job(path.parent)
    if not job.losses():  # nothing is refused by itself
        raise BadInput("the job has no losses that can be read.")


def _read_settings(path: Path) -> None:
    Job(path.parent).settings()
    status_of(Job(path.parent)).as_json()


def _read_state(path: Path) -> None:
    Job(path.parent).load_state()


def _read_result(path: Path) -> None:
    """What cannot be read counts as none, so nothing is refused by itself."""
    if Job(path.parent).result() is None:
        raise BadInput("the job has no result that can be read.")


def _any(data: bytes) -> bool:
    return bool(data.strip())


def _object(data: bytes) -> bool:
    return data.lstrip()[:1] == b"{"


def _header(data: bytes) -> bool:
    told: Any = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return isinstance(told, dict)


def rows() -> Sequence[Row]:
    """Name, seeds, mutation, reader, whether an input gets past its beginning, and the file's name."""

    words, inside = mutate_text(_JSON_WORDS), half_right(mutate_safetensors)
    return (
        ("job's settings", [_SETTINGS.encode()], words, _read_settings, _object, "settings.json"),
        ("job's result", [_RESULT.encode()], words, _read_result, _object, "result.json"),
        ("job's losses", [_LOSSES.encode()], mutate_text(_LOSS_WORDS), _read_rows, _any, "loss.csv"),
        (
            "job's state",
            [_state()],
            inside,
            _read_state,
            _header,
            "state.safetensors",
        ),
        ("model's .yaml", [_described()], mutate_text(_YAML_WORDS), _read_description, _any, "model.yaml"),
        ("prompt", [p.encode() for p in _PROMPTS], mutate_text(_PROMPT_WORDS), _read_prompt, _any, "text"),
    )
