"""``ti-studio sd-scripts``: the command lines of sd-scripts' textual inversion, run as they stand.

One table translates them into options of ``ti-studio train``. Source of the options: kohya-ss/sd-scripts,
train_textual_inversion.py and sdxl_train_textual_inversion.py.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lib_ti.commands import train
from lib_ti.commands.shared import Stopped, shared_options
from lib_ti.core.errors import BadInput
from lib_ti.data.images import find_images
from lib_ti.formats.embedding import read_embedding, safe_name, write_pt, write_safetensors

Ours = Mapping[str, str]  # options of ti-studio train; a switch has an empty value

SCRIPTS = ("train_textual_inversion.py", "sdxl_train_textual_inversion.py")


@dataclass(frozen=True)
class Entry:
    """What becomes of one option: options of ours, something to say, or a refusal."""

    ours: Callable[[str], Ours] = lambda value: {}
    told: str = ""
    switch: bool = False  # takes no value
    accepts: tuple[str, ...] = ()  # with ``instead``: the values that are not refused
    instead: str = ""  # what to do about a value that is


def becomes(flag: str) -> Entry:
    return Entry(lambda value: {flag: value})


def switched(flag: str, value: str = "") -> Entry:
    return Entry(lambda _: {flag: value}, switch=True)


def needless(told: str, *, switch: bool = False) -> Entry:
    return Entry(told=told, switch=switch)


def only(*values: str, told: str, instead: str) -> Entry:
    return Entry(told=told, accepts=values, instead=instead)


def missing(instead: str, *, switch: bool = False) -> Entry:
    return Entry(instead=instead, switch=switch)


def _size(resolution: str) -> Ours:
    """``512`` or ``512,768``: width and height."""
    found = re.fullmatch(r"(\d+)(?:\s*,\s*(\d+))?", resolution.strip())
    if found is None:
        raise BadInput(f"--resolution={resolution}: expected a number of pixels, or width,height.")
    return {"--width": found[1], "--height": found[2] or found[1]}


def _pictures(folder: str) -> Ours:
    """The folder of pictures in ``folder``, by its name ``<repeats>_<class tokens>``.

    How often its pictures are repeated settles the length of an epoch, and nothing here counts in epochs.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise BadInput(f"--train_data_dir={folder}: there is no such folder.")
    found = sorted(path for path in root.iterdir() if path.is_dir() and re.match(r"\d+_", path.name))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise BadInput(
            f"--train_data_dir={folder}: expected one folder in it whose name is <repeats>_<class tokens>, "
            f"such as 10_mychar, found {names}; put all pictures into one."
        )
    return {"--images": str(found[0])}


_NEEDS_LESS = "attention is PyTorch's own, which needs as little memory"
_ADAM_KINDS = ("AdamW", "AdamW8bit", "PagedAdamW", "PagedAdamW8bit", "PagedAdamW32bit")

# In the order in which they are translated: of two that set the same option of ours the later one wins.
OPTIONS: Mapping[str, Entry] = {
    # the model
    "pretrained_model_name_or_path": becomes("--model"),
    "v2": needless("the checkpoint, or the .yaml beside it, says what it is", switch=True),
    "v_parameterization": needless(
        "the checkpoint, or the .yaml beside it, says what it predicts", switch=True
    ),
    "clip_skip": becomes("--clip-skip"),
    "max_token_length": needless("prompts of any length are read"),
    "vae": missing("bake it into the checkpoint"),
    # the embedding
    "token_string": becomes("--name"),
    "init_word": Entry(lambda word: {"--init": "text", "--init-text": word}),
    "num_vectors_per_token": becomes("--vectors"),
    "weights": missing("leave it out and start from --init_word"),
    # the pictures and what is said of them
    "train_data_dir": Entry(_pictures),
    "dataset_config": missing(
        "give the pictures as --train_data_dir, a folder with one of the name <repeats>_<class tokens> in it"
    ),
    "in_json": missing("write a .txt file beside each picture, or use --use_object_template"),
    "reg_data_dir": missing("leave it out"),
    "prior_loss_weight": needless("it weighs regularisation pictures, of which there are none"),
    "resolution": Entry(_size),
    "use_style_template": switched("--template", "style"),
    "use_object_template": switched("--template", "subject"),  # wins over the one for styles
    "caption_extension": only(".txt", told="", instead="give the caption files the ending .txt"),
    "shuffle_caption": switched("--shuffle-tags"),
    "flip_aug": switched("--flip"),
    "enable_bucket": missing("leave it out: pictures are cut to --resolution", switch=True),
    "cache_latents": needless("pictures are always encoded once", switch=True),
    "vae_batch_size": needless("pictures are encoded one by one"),
    "max_data_loader_n_workers": needless("nothing is loaded during the steps"),
    "persistent_data_loader_workers": needless("nothing is loaded during the steps", switch=True),
    # the training
    "max_train_steps": becomes("--steps"),
    "max_train_epochs": missing("give the length as --max_train_steps"),
    "learning_rate": becomes("--learning-rate"),
    "lr_scheduler": only(
        "constant",
        told="",
        instead="write the stages into the rate, such as --learning_rate=0.005:500,0.001",
    ),
    "train_batch_size": becomes("--batch-size"),
    "gradient_accumulation_steps": becomes("--accumulation"),
    "optimizer_type": only(
        *_ADAM_KINDS,
        told="AdamW it is: what 8 bits or pages would save of a few vectors is nothing",
        instead="use AdamW",
    ),
    "seed": becomes("--seed"),
    "mixed_precision": needless("everything is computed in full precision"),
    "no_half_vae": needless("everything is computed in full precision", switch=True),
    "gradient_checkpointing": needless(
        "activations are kept, which is faster and takes more memory", switch=True
    ),
    "xformers": needless(_NEEDS_LESS, switch=True),
    "sdpa": needless(_NEEDS_LESS, switch=True),
    "mem_eff_attn": needless(_NEEDS_LESS, switch=True),
    # what is saved and shown
    "output_dir": becomes("--data"),
    "output_name": Entry(),
    "save_model_as": only("safetensors", "pt", told="", instead="use safetensors or pt"),
    "save_precision": needless("the vectors are saved in float32, they are small"),
    "save_every_n_steps": becomes("--copy-every"),
    "save_every_n_epochs": missing("count in steps: --save_every_n_steps"),
    "save_state": needless("what a job resumes from is always saved", switch=True),
    "resume": missing("go on with ti-studio train --resume JOB"),
    "sample_every_n_steps": becomes("--preview-every"),
    "sample_every_n_epochs": missing("count in steps: --sample_every_n_steps"),
    "sample_prompts": missing("use ti-studio train --preview-prompt"),
    "logging_dir": needless("losses are in the job's folder, loss.csv and loss.png"),
    "debug_dataset": missing("the prompts with the new word are counted before every start", switch=True),
    "config_file": missing("write its options into the command line"),
}

# What sd-scripts does where it is told nothing.
_DEFAULTS: Ours = {
    "--steps": "1600",
    "--learning-rate": "2e-6",
    "--batch-size": "1",
    "--accumulation": "1",
    "--vectors": "1",
    "--init": "random",
    "--template": "captions",
    "--weighting": "none",
    "--copy-every": "0",
    "--preview-every": "0",
    "--overwrite": "",
}
_REQUIRED = ("pretrained_model_name_or_path", "token_string", "train_data_dir")


@dataclass(frozen=True)
class Translation:
    """A command line of sd-scripts as one of ``ti-studio train``."""

    ours: Ours
    told: list[str]  # what to say about options that nothing here answers to
    output: Path  # the file that sd-scripts would write


def add_to(commands: Any) -> None:
    parser = commands.add_parser(
        "sd-scripts", help="run a command line of sd-scripts' textual inversion as it stands"
    )
    shared_options(parser, run, model=False)
    parser.add_argument("--device", default="", help="cpu, cuda, mps (default: the best there is)")
    parser.add_argument(
        "line",
        nargs=argparse.REMAINDER,
        metavar="SCRIPT ...",
        help=f"{' or '.join(SCRIPTS)} with its options; 'accelerate launch ...' before it is skipped",
    )
    parser.set_defaults(parser_class=type(parser))


def run(args: argparse.Namespace, stopped: Stopped) -> dict[str, Any]:
    translation = translate(args.line, args.data, args.parser_class)
    for sentence in translation.told:
        print(sentence, file=sys.stderr)
    device = {"--device": args.device} if args.device else {}
    words = [word for pair in {**translation.ours, **device}.items() for word in pair if word]
    print(f"the same as: {shlex.join(['ti-studio', 'train', *words])}", file=sys.stderr)
    parser = args.parser_class(prog="ti-studio")
    train.add_to(parser.add_subparsers(parser_class=args.parser_class))
    result = train.run(parser.parse_args(["train", *words]), stopped)
    if result["status"] == "done":
        result["file"] = str(_save(Path(result["embedding"]), translation.output))
    return result


def translate(
    line: Sequence[str], folder: Path, parser_class: type[argparse.ArgumentParser] = argparse.ArgumentParser
) -> Translation:
    """``line``: the script with its options, after nothing or ``accelerate launch`` with its own.
    ``folder``: where the output goes if they do not say.

    Raises BadInput, by the option's name, for what has no counterpart here.
    """
    script = next((i for i, word in enumerate(line) if word.endswith(".py")), None)
    if script is None or (script > 0 and not re.match(r"accelerate|python", Path(line[0]).name)):
        raise BadInput(
            f"expected {' or '.join(SCRIPTS)} with its options, got {shlex.join(line) or 'nothing'}."
        )
    if (name := Path(line[script]).name) not in SCRIPTS:
        raise BadInput(f"{name} cannot be run here; expected {' or '.join(SCRIPTS)}.")
    given = _parse(line[script + 1 :], parser_class)
    ours: dict[str, str] = {"--data": str(folder), **_DEFAULTS}
    told = []
    for option, value in given.items():
        entry = OPTIONS[option]
        if entry.instead and value not in entry.accepts:
            raise BadInput(f"{_shown(option, value)} is not to be had here: {entry.instead}.")
        ours |= entry.ours(value)
        if entry.told:
            told.append(f"{_shown(option, value)}: {entry.told}")
    if absent := [option for option in _REQUIRED if option not in given]:
        raise BadInput(f"--{absent[0]} is missing.")
    if not {"use_style_template", "use_object_template"} & given.keys():
        _require_captions(Path(ours["--images"]))
    name = safe_name(given.get("output_name", given["token_string"]))
    suffix = given.get("save_model_as", "pt")
    return Translation(ours, told, Path(ours["--data"]) / f"{name}.{suffix}")


def _parse(arguments: Sequence[str], parser_class: type[argparse.ArgumentParser]) -> dict[str, str]:
    """The options that are given, in the table's order; a switch has an empty value."""
    parser = parser_class(prog="ti-studio sd-scripts", add_help=False, allow_abbrev=False)
    for option, entry in OPTIONS.items():
        if entry.switch:
            parser.add_argument(f"--{option}", action="store_const", const="")
        else:
            parser.add_argument(f"--{option}")
    values, others = parser.parse_known_args(arguments)
    if others:
        raise BadInput(
            f"{others[0].partition('=')[0]} is not to be had here; leave it out, or look for it in "
            "ti-studio train --help."
        )
    return {option: value for option in OPTIONS if (value := getattr(values, option)) is not None}


def _shown(option: str, value: str) -> str:
    return f"--{option}={value}" if value else f"--{option}"


def _require_captions(folder: Path) -> None:
    """Raises BadInput for a picture without a caption file, which in sd-scripts has its folder's name."""
    bare = [path.name for path in find_images(folder) if not path.with_suffix(".txt").is_file()]
    if bare:
        raise BadInput(
            f"{len(bare)} pictures in {folder} have no caption ({bare[0]} the first): write a .txt file with "
            "the token string beside each, or use --use_object_template or --use_style_template."
        )


def _save(made: Path, path: Path) -> Path:
    """The embedding as sd-scripts names and stores it; as there, what was at ``path`` is replaced."""
    embedding = replace(read_embedding(made), name=path.stem)
    (write_pt if path.suffix == ".pt" else write_safetensors)(embedding, path)
    print(f"saved: {path}; a prompt calls it by the file's name, {path.stem}", file=sys.stderr)
    return path
