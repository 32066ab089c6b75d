"""Prompts as sd-scripts writes them, with their flags behind: ``a cat --n blurry --w 512 --h 768 --s 30``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib_ti.core import limits
from lib_ti.core.errors import BadInput
from lib_ti.core.files import parse_json, parse_toml, read_text

# Its flag -> what it says. Those of a file's tables have these names too.
FLAGS = {
    "n": "negative_prompt",
    "w": "width",
    "h": "height",
    "d": "seed",
    "s": "sample_steps",
    "l": "scale",
}
_FLAG = re.compile(r"(?<!\s)\s+--(\w+)(?:\s+|$)")


@dataclass(frozen=True)
class Prompt:
    """``said``: by the values of FLAGS; ``others``: flags that are none of these."""

    text: str
    said: Mapping[str, str] = field(default_factory=dict)
    others: tuple[str, ...] = ()


def read_prompt(line: str) -> Prompt:
    """Raises BadInput for one of too many characters."""
    limits.check_prompt(len(line))
    text, *flags = _FLAG.split(f" {line}")
    given = dict(zip(flags[::2], map(str.strip, flags[1::2]), strict=True))
    said = {FLAGS[flag]: value for flag, value in given.items() if flag in FLAGS}
    return Prompt(text.strip(), said, tuple(f"--{flag}" for flag in given if flag not in FLAGS))


def read_prompts(path: Path) -> list[Prompt]:
    """Of a file: a prompt on each line, or TOML or JSON. Raises BadInput."""
    text = read_text(path)
    if path.suffix.lower() not in (".toml", ".json"):
        lines = filter(None, map(str.strip, text.splitlines()))
        prompts = [read_prompt(line) for line in lines if not line.startswith("#")]
    else:
        try:
            table = (parse_toml if path.suffix.lower() == ".toml" else parse_json)(text)
        except ValueError as error:
            raise BadInput(f"{path} cannot be read ({error}); mend it, or leave it out.") from error
        prompts = _of_table(table)
    if len(prompts) > limits.PROMPTS:
        raise BadInput(f"{path} holds {len(prompts)} prompts; at most {limits.PROMPTS} are read.")
    if not prompts:
        raise BadInput(f"{path} holds no prompt; write one on each line, or leave it out.")
    return prompts


def _of_table(table: Any) -> list[Prompt]:
    """TOML has what is shared in [prompt] and each prompt in [[prompt.subset]]; JSON is a list of them."""
    shared: Mapping[str, Any] = table.get("prompt", {}) if isinstance(table, dict) else {}
    rows = table if isinstance(table, list) else shared.get("subset", []) if isinstance(shared, dict) else []
    if len(shared) > limits.PROMPT_KEYS:
        raise BadInput(f"[prompt] has {len(shared)} keys; at most {limits.PROMPT_KEYS} are read.")
    prompts = []
    for row in rows[: limits.PROMPTS + 1] if isinstance(rows, list) else []:
        if isinstance(row, dict) and isinstance((own := {**shared, **row}).get("prompt"), str):
            limits.check_prompt(len(own["prompt"]))
            said = {name: str(own[name]) for name in FLAGS.values() if name in own}
            others = own.keys() - FLAGS.values() - {"prompt", "subset"}
            prompts.append(Prompt(own["prompt"], said, tuple(sorted(others))))
    return prompts
