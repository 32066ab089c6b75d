"""Prompt templates: text files of lines with ``[name]`` and ``[filewords]``, one line drawn per sample."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path

from lib_ti.core import limits
from lib_ti.core.errors import BadInput
from lib_ti.core.files import read_text
from lib_ti.core.nearest import perhaps
from lib_ti.core.text import as_text

OUR_TEMPLATES = Path(__file__).resolve().parents[2] / "textual_inversion_templates"


def list_templates(folders: Sequence[Path] = (OUR_TEMPLATES,)) -> dict[str, Path]:
    """Template name without ``.txt`` -> file; of folders that share a name, the later one's is told
    apart, as in ``style (TI Studio)``.

    A link that leads out of its folder is passed over.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        root = folder.resolve()
        for path in sorted(folder.glob("*.txt")):
            visible = path.is_file() and not path.name.startswith(".")
            if visible and path.resolve().is_relative_to(root):
                owner = "TI Studio" if folder == OUR_TEMPLATES else root.parent.name
                name = as_text(path.stem)
                found.setdefault(f"{name} ({owner})" if name in found else name, path)
    return found


def find_template(name: str, folders: Sequence[Path] = (OUR_TEMPLATES,)) -> Path:
    """The file of the template called ``name``, with or without ``.txt``; raises BadInput.

    The name is looked up in the folders' listing and never becomes part of a path, so no name can
    leave its folder.
    """
    templates = list_templates(folders)
    try:
        return templates[name.removesuffix(".txt")]
    except KeyError:
        known = ", ".join(templates) or "none"
        places = ", ".join(map(str, folders))
        raise BadInput(
            f"There is no template {name!r} in {places}; choose one of: {known}{perhaps(name, templates)}."
        ) from None


def template_file(name: str, folders: Sequence[Path] = (OUR_TEMPLATES,)) -> Path:
    """As ``find_template``, or the file whose whole path ``name`` is. Raises BadInput.

    For settings that have been checked: a door that strangers may knock at takes names only.
    """
    path = Path(name)
    return path if path.is_absolute() and path.is_file() else find_template(name, folders)


def with_whole_path(name: str, folders: Sequence[Path] = (OUR_TEMPLATES,)) -> str:
    """What a command line calls a template: its name, or else the path of any file, which becomes a whole
    one, so that a job finds it from elsewhere too."""
    path = Path(name).expanduser()
    named = name.removesuffix(".txt") in list_templates(folders)
    return name if named or not path.is_file() else str(path.resolve())


def read_template(path: Path) -> tuple[str, ...]:
    """The lines of a template that are not empty, stripped; raises BadInput where there is none.

    In our own ``{a|the}`` stands for a line of each; in those of others it is text.
    """
    lines = tuple(line for line in map(str.strip, read_text(path).splitlines()) if line)
    if path.parent == OUR_TEMPLATES:
        lines = tuple(each for line in lines for each in _every_form(line))
    if not lines:
        raise BadInput(
            f"The template {path} has no lines; write prompts such as 'a photo of a [name]' in it."
        )
    return lines


def _every_form(line: str) -> Iterator[str]:
    """``line`` with each choice of its ``{a|the}``, and of all others."""
    parts = [part.split("|") for part in re.split(r"[{}]", line)]
    return map("".join, product(*parts))


def fill(line: str, *, name: str, filewords: str, others: Sequence[str] = ()) -> str:
    """A template line as a prompt; a ``[name]`` inside the filewords is filled too.

    ``others``: what [name2], [name3] and so on stand for. A word in the tokens of sd-scripts is the word.
    Raises BadInput for a prompt of too many characters.
    """
    names = ((f"[name{number}]", other) for number, other in enumerate(others, 2))
    prompt = line
    for place, words in (("[filewords]", filewords), ("[name]", name), *names):
        if (times := prompt.count(place)) > 0:
            length = len(prompt) + times * (len(words) - len(place))
            limits.check_prompt(length, f"the template line {line[:40]!r}, filled with a caption or a word,")
            prompt = prompt.replace(place, words)
    for word in (name, *others):
        if f"{word}1" not in others:  # a word itself
            prompt = as_one_word(prompt, word)
    return prompt


def as_one_word(text: str, word: str) -> str:
    """``text`` with "mychar" in the place of "mychar mychar1 mychar2".

    In sd-scripts each vector of a word is a token, called by the word and from the second on by a number
    after it ("_1" in diffusers); captions and prompts that were written for it may name all of them.
    """
    if not word or not re.search(f"{re.escape(word)}_?1", text):
        return text

    def joined(found: re.Match[str]) -> str:
        numbers = re.findall(rf"\s{re.escape(word)}_?(\d+)", found[0])
        return word if numbers == [str(i) for i in range(1, len(numbers) + 1)] else found[0]

    tokens = rf"(?<![\w-]){re.escape(word)}(?:\s+{re.escape(word)}_?\d+)+(?![\w-])"
    return re.sub(tokens, joined, text)


def all_prompts(
    lines: Iterable[str], name: str, captions: Iterable[str], limit: int = limits.DRAWN_PROMPTS
) -> list[str]:
    """Each distinct prompt that can be drawn, in order, before tags are shuffled or dropped.

    Stops at ``limit`` prompts. Every line is filled with one caption before the next caption comes, so
    that a cut leaves captions out and not lines: the trigger mostly stands in the lines.
    """
    prompts: dict[str, None] = {}
    for caption, line in product(captions, lines):
        if len(prompts) == limit:
            break
        prompts[fill(line, name=name, filewords=caption)] = None
    return list(prompts)
