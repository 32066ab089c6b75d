"""The CLIP tokenizer of Stable Diffusion, made without a network from the merges that open_clip carries."""

from __future__ import annotations

import gzip
import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import CLIPTokenizer

from lib_ti.core.errors import BadInput
from lib_ti.core.files import write_text

START, END = "<|startoftext|>", "<|endoftext|>"
POSITIONS = 77
_MERGES = 49152 - 256 - 2  # the file goes on after the merges that CLIP uses


def build_clip_tokenizer(pad_token: str = END) -> CLIPTokenizer:
    """49,408 tokens, 77 positions. ``pad_token``: SD1 pads with the end mark, SD2 with "!" (id 0).

    Raises BadInput where open_clip_torch is not installed.
    """
    with TemporaryDirectory() as folder:
        write_tokenizer_files(Path(folder), pad_token)
        return CLIPTokenizer(
            str(Path(folder, "vocab.json")),
            str(Path(folder, "merges.txt")),
            pad_token=pad_token,
            model_max_length=POSITIONS,
        )


def write_tokenizer_files(folder: Path, pad_token: str = END) -> None:
    """The four files from which ``CLIPTokenizer.from_pretrained(folder)`` builds the same tokenizer.

    Raises BadInput where open_clip_torch is not installed.
    """
    merges = _read_merges()
    marks = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": pad_token}
    config = {**marks, "model_max_length": POSITIONS, "tokenizer_class": "CLIPTokenizer"}

    write_text(folder / "vocab.json", json.dumps(_vocabulary(merges), ensure_ascii=False))
    write_text(folder / "merges.txt", "\n".join(["#version: 0.2", *merges, ""]))
    write_text(folder / "tokenizer_config.json", json.dumps(config, indent=2))
    write_text(folder / "special_tokens_map.json", json.dumps(marks, indent=2))


def clip_words() -> dict[str, int]:
    """The whole words of the vocabulary that all families share. Raises BadInput as above."""
    return whole_words(_vocabulary(_read_merges()))


def whole_words(vocabulary: Mapping[str, int]) -> dict[str, int]:
    """The tokens of a CLIP vocabulary that end a word and are letters, at least three, from a to z."""
    words = ((token.removesuffix("</w>"), row) for token, row in vocabulary.items() if token.endswith("</w>"))
    return {word: row for word, row in words if len(word) > 2 and word.isascii() and word.isalpha()}


def _vocabulary(merges: Sequence[str]) -> dict[str, int]:
    """Token -> id."""
    letters = list(_byte_letters())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += [merge.replace(" ", "") for merge in merges]
    return {token: index for index, token in enumerate([*tokens, START, END])}


def _read_merges() -> list[str]:
    """The byte-pair merges in order of rank, each as "left right"."""
    # Located, not imported: open_clip imports torchvision, which nothing here needs.
    package = importlib.util.find_spec("open_clip")
    for folder in (package and package.submodule_search_locations) or ():
        path = Path(folder, "bpe_simple_vocab_16e6.txt.gz")
        if path.is_file():
            lines = gzip.decompress(path.read_bytes()).decode("utf-8").splitlines()
            return lines[1 : 1 + _MERGES]
    raise BadInput(
        "The vocabulary of CLIP was not found: it comes with the package open_clip_torch, "
        "which is not installed here; install it and try again."
    )


def _byte_letters() -> Iterator[str]:
    """One printable character for each of the 256 bytes, in the order of CLIP's first 256 ids.

    GPT-2's table: printable Latin-1 stands for itself and comes first, the rest follows from U+0100.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    yield from map(chr, printable)
    yield from map(chr, range(0x100, 0x200 - len(printable)))
