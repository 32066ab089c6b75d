"""The commands that a document prints, and a process that runs those of one document."""

from __future__ import annotations

import json
import re
import shlex
import sys
import time
from pathlib import Path

COMMANDS = (
    "demo",
    "train",
    "suggest",
    "sd-scripts",
    "generate",
    "card",
    "images",
    "embedding",
    "lora",
    "bench",
)
_CODE = re.compile(r"^```[^\n]*\n(.*?)^```|(?<!`)`([^`]+)`(?!`)", re.MULTILINE | re.DOTALL)
_PROGRAM = re.compile(r"(?:python3? )?studio\.py |ti-studio ")


def commands_in(text: str) -> list[str]:
    """Without the program's name, in order: lines of code blocks and code between backticks."""
    found = []
    for block, inline in _CODE.findall(text):
        for line in block.splitlines() if block else [" ".join(inline.split())]:
            command, is_named = _PROGRAM.subn("", line.partition(" #")[0].strip(), count=1)
            if (
                command.startswith(tuple(f"{name} " for name in COMMANDS))
                or (is_named and not block)
                or is_named
            ):
                found.append(command)
    return list(dict.fromkeys(found))


# What stands for something of the reader's own -> what the folder of the test calls it.
PLACEHOLDERS = {
    "FILE": "embeddings/my-cat.safetensors",
    "NEW": "new",
    "CARD": ".ti-studio/cards/my-cat.png",
    "NAME": "their-word",
    "FOLDER": "my-pictures",
    "IN": "my-pictures",
    "OUT": "smaller",
    "A": "loras/a.safetensors",
    "B": "loras/b.safetensors",
    "C": "c.safetensors",
    "DYLORA": "loras/d.safetensors",
    "MODEL": "path/to/model.safetensors",
    "NEW-MODEL": "new-model.safetensors",
    "TUNED-MODEL": "tuned.safetensors",
    "{...}": '{"ss_output_name": "a"}',
    "SCRIPT": "train_network.py",
}
_LINE = "--pretrained_model_name_or_path=builtin --train_data_dir=sd-scripts-pictures --max_train_steps=2"
# What three points leave to the reader.
ENDINGS = {
    "suggest --images my-cat-pictures --model": "path/to/model.safetensors",
    "sd-scripts train_textual_inversion.py": f"{_LINE} --token_string=mychar --init_word=cat",
    "sd-scripts train_network.py": f"{_LINE} --network_module=networks.lora --output_name=trained",
    "sd-scripts networks/merge_lora.py": "--models loras/a.safetensors loras/b.safetensors --ratios 0.5 0.5 "
    "--save_to merged.safetensors",
}
# Put behind a command, so that it takes seconds; the reader's own word stands where one is given.
SHORTER = {
    "train": {
        "--steps": "2",
        "--preview-every": "0",
        "--width": "64",
        "--height": "64",
        "--overwrite": "",
        "--name": "a-word",
        "--images": "my-cat-pictures",
    },
    "suggest": {"--width": "64", "--height": "64"},
    "generate": {"--steps": "2", "--count": "1", "--width": "64", "--height": "64"},
    "lora": {"--overwrite": ""},  # the table's C is written again by each line
}
WHY_NOT = {
    "test": "it is the run that this test is part of",
    "images ...": "it names the group",
    "embedding VERB": "it names the group",
}
# What the files that a document names are made by.
BEFORE = {
    "network-files.md": [
        *(
            f"train --method {method} --rank 2 --images pictures --steps 1 --preview-every 0 --name {name}"
            for method, name in (("lora", "a"), ("lora", "b"), ("dylora", "d"))
        ),
        "lora merge-into-checkpoint MODEL A TUNED-MODEL",
    ],
}


def as_run(command: str, job: str) -> list[str]:
    """The words of ``command`` that are run; ``job``: a stopped one."""
    start = command.removesuffix("...").strip()
    words = [job if word == "JOB" else PLACEHOLDERS.get(word, word) for word in shlex.split(start)]
    words += shlex.split(ENDINGS.get(" ".join(words), ""))
    if len(words) <= 2 and words[-1] != "--help":
        return [*words, "--help"]  # names what there is
    if "--resume" not in words and (words[0] != "lora" or words[1] not in ("inspect", "edit-metadata")):
        for flag, value in SHORTER.get(words[0], {}).items():
            if flag not in words or flag == "--steps":
                words += [flag, value] if value else [flag]
    return words


def prepare(folder: Path, commands: list[str]) -> None:
    """What the documents take for granted: a model, pictures with captions, words, a file to import."""
    import shutil

    import torch
    from PIL import Image

    from lib_ti.formats.embedding import Embedding, write_pt, write_safetensors
    from lib_ti.hosts.checkpoints import BUILTIN

    trained = re.findall(
        r"[\w-]+", " ".join(re.findall(r"""--name (?:"([^"]*)"|'[^']*')""", "\n".join(commands)))
    )
    trained += re.findall(r"--name ([\w-]+)", "\n".join(commands))
    for name in ("path/to/model.safetensors", "model.safetensors"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(BUILTIN, folder / name)
    for name in (
        "my-cat-pictures",
        "my-pictures",
        "pictures",
        "my-style",
        "sd-scripts-pictures/2_mychar cat",
    ):
        (folder / name).mkdir(parents=True)
        for number in range(3):
            colour = (80 * number, 40, 200 - 60 * number)
            Image.new("RGB", (64, 64), colour).save(folder / name / f"{number}.png")
            caption = f"a [name], my-cat beside my-dog, {number}"
            (folder / name / f"{number}.txt").write_text(caption, encoding="utf-8")
    Image.new("RGB", (256, 256), (200, 30, 30)).save(folder / "picture.png")
    (folder / "embeddings").mkdir()
    for number, name in enumerate(("my-cat", "my-dog", "cat", "dog", "downloaded")):
        vectors = torch.randn(2, 64, generator=torch.Generator().manual_seed(number)) / 100
        embedding = Embedding(name, {"clip_l": vectors})
        if name == "downloaded":
            write_pt(embedding, folder / "downloaded.pt")
        elif name not in trained:
            write_safetensors(embedding, folder / "embeddings" / f"{name}.safetensors")


def stopped_job() -> str:
    """The id of a job that was stopped after its first step."""
    from lib_ti.cli import build_parser

    line = "train --images my-cat-pictures --name stopped-word --steps 3 --preview-every 0 --data ."
    args = build_parser().parse_args(line.split())
    return str(args.run(args, lambda: True)["job"])


def run_all(document: str, commands: list[str]) -> None:
    """Each as it is typed; says how each ended, as a line of JSON."""
    from lib_ti.cli import main
    from lib_ti.methods import suggest

    suggest._TRIED = 2  # words, of 50: each takes seconds
    prepare(Path(), commands)
    job = stopped_job() if any("JOB" in command for command in commands) else ""
    for command in [*BEFORE.get(document, ()), *commands]:
        start = time.process_time()
        try:
            code = main(as_run(command, job))
        except SystemExit as ended:  # of help
            code = int(ended.code or 0)
        seconds = round(time.process_time() - start, 1)
        print(json.dumps({"command": command, "code": code, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    run_all(sys.argv[1], json.loads(sys.argv[2]))
