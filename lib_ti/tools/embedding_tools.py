"""What is done with embeddings, and what each of it is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lib_ti.core.later import Later
from lib_ti.core.settings import option
from lib_ti.tools.tool import Tool

# What carries it out.
_LOOKING = "lib_ti.tools.embeddings"
_IMPORT = "lib_ti.tools.embedding_import"
_FILES = "lib_ti.tools.embedding_files"
_VECTORS = "lib_ti.tools.embedding_vectors"

AUTO = "auto"


def _new_file(help: str = "The new file's name; .safetensors where it has no suffix.") -> Any:
    return option("", help, group="file", file="new-embedding", needed=True, label="New file")


def _overwriting() -> Any:
    return option(False, "Replace a file of that name.", group="file")


_SHORT = "What stands for the missing vectors where one has fewer: refuse, zeros, or repeat its own."


_SHORTS = ("refuse", "zeros", "repeat")


@dataclass(frozen=True)
class InspectSettings:
    file: str = option("", "The embedding to look into.", group="file", file="embedding", needed=True)
    words: int = option(
        5,
        "Nearest words of the model for each vector; 0: do not ask the model, which need not be there.",
        group="model",
        low=0,
        high=50,
        label="Nearest words",
    )


@dataclass(frozen=True)
class CheckSettings:
    file: str = option(
        "", "The embedding that is off; empty: all of the folder.", group="file", file="embedding"
    )
    prompt: str = option("", "The prompt it was used in, if that is to be looked at.", group="model")
    negative_prompt: str = option("", "The negative prompt beside it.", group="model")
    compare: bool = option(
        True, "Look at the model, too: its kind, its words.", group="model", label="Compare with the model"
    )


@dataclass(frozen=True)
class ImportSettings:
    file: str = option(
        "",
        "The file, of whatever format. On the page: one that you have put into .ti-studio/inbox.",
        group="file",
        file="foreign-embedding",
        needed=True,
    )
    to: str = option(
        "",
        "The word that will call it; empty: only look at it, nothing is written.",
        group="file",
        file="new-embedding",
        label="Import as",
    )
    word: str = option("", "Which of them, where the file holds several.", group="file")


@dataclass(frozen=True)
class ConvertSettings:
    file: str = option("", "The embedding to convert.", group="file", file="embedding", needed=True)
    to: str = _new_file("The new file's name, ending in .safetensors, .pt or .bin.")
    layout: str = option(
        AUTO,
        "Whose names the file uses. Auto: .safetensors for all programs, .pt as the WebUI's own, .bin as "
        "diffusers' learned_embeds.",
        group="file",
        choices=(AUTO, "studio", "a1111", "sd-scripts", "diffusers", "cog", "onetrainer"),
    )
    precision: str = option("fp32", "Of its numbers.", group="file", choices=("fp32", "fp16", "bf16"))
    overwrite: bool = _overwriting()


@dataclass(frozen=True)
class RenameSettings:
    file: str = option("", "The embedding to rename.", group="file", file="embedding", needed=True)
    name: str = option("", "Its new name, by which prompts call it.", group="file", needed=True)
    pair: bool = option(
        True,
        "Its negative half (NAME-neg), if it lies beside it, goes along.",
        group="file",
        label="Both halves",
    )


@dataclass(frozen=True)
class JoinSettings:
    file: str = option(
        "", "The half for the prompt.", group="file", file="embedding", needed=True, label="Positive"
    )
    to: str = option(
        "",
        "The new file's name. It is called as <lora:NAME:1>, which brings both words.",
        group="file",
        file="new-network",
        needed=True,
        label="New file",
    )
    negative: str = option(
        "", "The half for the negative prompt; empty: NAME-neg beside it.", group="file", file="embedding"
    )
    overwrite: bool = _overwriting()


@dataclass(frozen=True)
class SplitSettings:
    file: str = option(
        "",
        "The file that carries several: of several words, a pair, or a LoRA with words.",
        group="file",
        file="bundle",
        needed=True,
    )
    overwrite: bool = option(False, "Replace files of their names.", group="file")


@dataclass(frozen=True)
class MergeSettings:
    files: str = option(
        "", "The embeddings, in their order.", group="file", file="embedding", several=True, needed=True
    )
    to: str = _new_file()
    how: str = option(
        "join",
        "Join: the vectors one after the other, as if the words stood side by side. Sum: added, each with "
        "its weight.",
        group="vectors",
        choices=("join", "sum"),
    )
    weights: str = option(
        "", "Of a sum, one for each: 0.7, 0.3; empty: equal shares. Negative ones subtract.", group="vectors"
    )
    short: str = option("refuse", _SHORT, group="vectors", choices=_SHORTS, label="Different lengths")
    overwrite: bool = _overwriting()


@dataclass(frozen=True)
class MixSettings:
    expression: str = option(
        "",
        'Such as 0.5*cat + 0.5*my-dog - "fur": names of embeddings, words of the model in double quotes, '
        "numbers, + - * / and parentheses; a comma puts vectors after one another. A minus between two "
        "names wants spaces; a name with spaces or / wants single quotes.",
        group="vectors",
        needed=True,
    )
    to: str = _new_file()
    short: str = option("refuse", _SHORT, group="vectors", choices=_SHORTS, label="Different lengths")
    overwrite: bool = _overwriting()


@dataclass(frozen=True)
class PruneSettings:
    file: str = option("", "The embedding.", group="file", file="embedding", needed=True)
    to: str = _new_file()
    keep: str = option(
        "", "The vectors to keep, in this order, from 1: 3,1,4-6. Or say how many to drop.", group="vectors"
    )
    drop: int = option(0, "How many vectors to leave out.", group="vectors", low=0, high=74)
    criterion: str = option(
        "shortest",
        "Which count least. Shortest: the smallest norm. Alike: of the two that point most nearly the same "
        "way the shorter, one after the other.",
        group="vectors",
        choices=("shortest", "alike"),
    )
    overwrite: bool = _overwriting()


TOOLS = (
    Tool(
        "embedding",
        "inspect",
        "what a file holds",
        InspectSettings,
        Later(_LOOKING, "inspect"),
    ),
    Tool(
        "embedding",
        "check",
        "why an embedding is off, and what helps",
        CheckSettings,
        Later(_LOOKING, "check"),
    ),
    Tool(
        "embedding",
        "import",
        "look at a stranger's file, and take its numbers over",
        ImportSettings,
        Later(_IMPORT, "import_embedding"),
    ),
    Tool(
        "embedding",
        "convert",
        "write a file in another format",
        ConvertSettings,
        Later(_FILES, "convert"),
    ),
    Tool(
        "embedding",
        "rename",
        "call it by another word",
        RenameSettings,
        Later(_FILES, "rename"),
    ),
    Tool(
        "embedding",
        "join",
        "a positive and a negative half in one file",
        JoinSettings,
        Later(_FILES, "join"),
    ),
    Tool(
        "embedding",
        "split",
        "the embeddings of one file as files of their own",
        SplitSettings,
        Later(_FILES, "split"),
    ),
    Tool(
        "embedding",
        "merge",
        "several embeddings as one: joined, or summed",
        MergeSettings,
        Later(_VECTORS, "merge"),
    ),
    Tool(
        "embedding",
        "mix",
        "an embedding from an expression",
        MixSettings,
        Later(_VECTORS, "mix"),
    ),
    Tool(
        "embedding",
        "prune",
        "fewer vectors, or another order",
        PruneSettings,
        Later(_VECTORS, "prune"),
    ),
)
