"""``<net:NAME:0.8:te=0.5:blocks=OUTALL:start=0.2:stop=0.8:rank=4:hr=only>``: networks called in a prompt.

The name comes first, then the weight; what is named may stand in any order. As in the WebUI's own tag, two
weights are the text encoder's and the U-Net's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lib_ti.core.errors import BadInput
from lib_ti.core.nearest import nearest
from lib_ti.networks.prompt_blocks import Blocks, parse_blocks

WORD = "net"
HOST_WORD = "lora"  # of the WebUI's own tags
HIRES = ("both", "only", "no")
_SHOWN = 60  # characters of a tag
_LIKE_A_TAG = re.compile(r"<\s*([A-Za-z]\w{1,19})\s*:[^<>]*(>?)")


@dataclass(frozen=True)
class NetworkCall:
    """One tag. ``start`` and ``stop``: the share of sampling between which it acts on the U-Net; the text
    encoder reads a prompt once, before sampling."""

    name: str
    unet: float = 1.0
    text: float = 1.0
    blocks: Blocks = field(default_factory=Blocks)
    start: float = 0.0
    stop: float = 1.0
    rank: int = 0  # of a DyLoRA: only its first so many rows, at full strength; 0: all of them
    hires: str = "both"  # whether it acts in both passes of a hires fix, only in the second, or not in it

    def acts_in(self, *, hires_pass: bool) -> bool:
        """Whether it has a part in this pass at all."""
        wanted = self.hires == "both" or hires_pass == (self.hires == "only")
        return wanted and self.start < self.stop and bool(self.unet or self.text)

    def acts_at(self, share: float) -> bool:
        """``share`` of the sampling steps done; samplers that choose their own steps pass 1."""
        return self.start <= share and (share < self.stop or self.stop == 1)


def take_tags(prompt: str, words: Iterable[str] = (WORD,)) -> tuple[str, list[str]]:
    """The prompt without its tags, and what stands in each after its word."""
    found: list[str] = []

    def take(match: re.Match[str]) -> str:
        found.append(match[1])
        return ""

    # Not over another "<", or a row of beginnings would be searched to its end from each of them.
    return re.sub(rf"<(?:{'|'.join(map(re.escape, words))}):([^<>]+)>", take, prompt), found


def unread_tags(prompt: str, words: Sequence[str]) -> list[str]:
    """A sentence for each part of ``prompt``, from which ``take_tags`` has taken what it knows, that looks
    like a tag of one of ``words`` or of another kind, and stands there as text."""
    said = []
    for match in _LIKE_A_TAG.finditer(prompt):
        shown, word = match[0].strip(), match[1].lower()
        if word not in words:
            remedy = f"nothing here reads <{match[1]}:...>, take it out" if match[2] else ""
        elif not match[2]:
            remedy = f"close it, as in <{word}:NAME:0.8>"
        else:
            remedy = f"write <{word}: in small letters and without blanks, and a name after it"
        if remedy:
            said.append(f"{shown[:_SHOWN]} calls no network and is read as text: {remedy}.")
    return said


def take_calls(prompt: str, words: Iterable[str] = (WORD,)) -> tuple[str, list[NetworkCall]]:
    """The prompt without its tags, and what they say. Raises BadInput for the first that is wrong."""
    text, tags = take_tags(prompt, words)
    return text, [parse_tag(tag) for tag in tags]


def parse_tag(tag: str) -> NetworkCall:
    """``tag``: what stands between the word and the closing bracket. Raises BadInput."""
    name, *items = (item.strip() for item in tag.split(":"))
    if not name:
        raise _wrong(tag, "it names no network; write its file's name after the first colon")
    values: dict[str, Any] = {}
    positional: list[float] = []
    for item in items:
        key, is_named, text = item.partition("=")
        if is_named:
            setting, read = _NAMED.get(key.strip().lower(), (None, None))
            if setting is None or read is None:
                raise _wrong(tag, f"{key.strip()!r} is not known{nearest(key.strip().lower(), _NAMED)}")
            values[setting] = read(tag, key.strip(), text.strip())
        else:
            positional.append(_number(tag, "the weight", item))
    call = NetworkCall(name, **{**_weights(tag, positional), **values})
    if call.start > call.stop:
        raise _wrong(tag, f"start {call.start:g} lies after stop {call.stop:g}; exchange them")
    return call


def format_tag(call: NetworkCall) -> str:
    """The inside of a tag that makes this call: ``NAME:0.8:te=0.5:rank=4``."""
    text = "" if call.text == call.unet else f":te={_short(call.text)}"
    return f"{call.name}:{_short(call.unet)}{text}{_rest(call)}"


def format_without_weights(call: NetworkCall) -> str:
    """The same without the two weights, where something else holds them: ``NAME:rank=4``."""
    return call.name + _rest(call)


def _rest(call: NetworkCall) -> str:
    """Of a tag, what is neither name nor weight; nothing where it is as without it."""
    usual = NetworkCall(call.name)
    texts = {
        "blocks": call.blocks.preset or ",".join(map(_short, call.blocks.numbers)),
        "start": _short(call.start),
        "stop": _short(call.stop),
        "rank": str(call.rank),
        "hr": call.hires,
    }
    changed = (key for key in texts if getattr(call, _NAMED[key][0]) != getattr(usual, _NAMED[key][0]))
    return "".join(f":{key}={texts[key]}" for key in changed)


def _weights(tag: str, numbers: Sequence[float]) -> dict[str, float]:
    if len(numbers) > 2:
        raise _wrong(tag, f"it has {len(numbers)} weights, two at most; what else is wanted has a name")
    return {"text": numbers[0], "unet": numbers[-1]} if numbers else {}


def _number(tag: str, what: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise _wrong(tag, f"{what} is {text!r}, no number; write one such as 0.8")
    return number


def _share(tag: str, what: str, text: str) -> float:
    number = _number(tag, what, text)
    if not 0 <= number <= 1:
        raise _wrong(tag, f"{what} is {text}; it is a share of sampling, from 0 to 1")
    return number


def _rank(tag: str, what: str, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,6}", text) or int(text) == 0:
        raise _wrong(tag, f"{what} is {text!r}; it is a whole number from 1 to the network's own")
    return int(text)


def _hires(tag: str, what: str, text: str) -> str:
    if text not in HIRES:
        raise _wrong(tag, f"{what} is {text!r}{nearest(text, HIRES)}")
    return text


def _blocks(tag: str, what: str, text: str) -> Blocks:
    try:
        return parse_blocks(text)
    except BadInput as error:
        raise _wrong(tag, f"{what}: {str(error).rstrip('.')}") from error


# In a tag -> the setting, and how its text is read.
_NAMED: dict[str, tuple[str, Callable[[str, str, str], object]]] = {
    "te": ("text", _number),
    "unet": ("unet", _number),
    "blocks": ("blocks", _blocks),
    "start": ("start", _share),
    "stop": ("stop", _share),
    "rank": ("rank", _rank),
    "hr": ("hires", _hires),
}


def _wrong(tag: str, sentence: str) -> BadInput:
    return BadInput(f"<{WORD}:{tag}>: {sentence}.")


def _short(number: float) -> str:
    return repr(number).removesuffix(".0")
