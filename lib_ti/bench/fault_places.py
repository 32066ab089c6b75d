"""Where the jobs of the fault bench lie, and what is found there afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors import SafetensorError, safe_open

from lib_ti.core.job import Job
from lib_ti.jobs import folders_under
from lib_ti.tinyworld.render import render
from lib_ti.tinyworld.world import Scene

_UNFINISHED = (".tmp", ".new", ".old")
# Of times and of other folders; everything else has to be the same in a job that nothing happened to.
_OF_ITS_OWN = ("settings.json", "result.json", "files.json", "ballast")


def draw_pictures(data: Path) -> None:
    """Three training pictures with captions, in ``data``/pictures."""
    folder = data / "pictures"
    folder.mkdir()
    for i, colour in enumerate(("red", "blue", "green")):
        scene = Scene("star", colour, "white", "solid", "large", "flat", "left", i)
        render(scene).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"[name], {colour}, large", encoding="utf-8")


@contextmanager
def small_disk(folder: Path, megabytes: int = 24) -> Iterator[bool]:
    """Whether ``folder`` is a disk of its own inside: only a superuser of Linux may make one, in memory."""
    mounted = False
    if sys.platform == "linux" and os.geteuid() == 0:
        told = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
        mounted = subprocess.run(told, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=False)


def only_job(data: Path) -> Job | None:
    """The job that began in ``data``."""
    root = folders_under(data).jobs
    known = Job.known(root)
    return Job(root / known[-1]) if known else None


def broken_files(data: Path) -> list[str]:
    """The files that a reader would meet half written."""
    found = []
    for path in _files(data):
        try:
            _read(path)
        except (SafetensorError, OSError, ValueError, SyntaxError) as error:
            found.append(f"{path.name}: {error}")
    return found


def _read(path: Path) -> None:
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            for key in file.keys():
                file.get_tensor(key)
    elif path.suffix == ".json":
        json.loads(path.read_text(encoding="utf-8"))
    elif path.suffix == ".png":
        with Image.open(path, formats=("PNG",)) as image:
            image.load()
    elif path.name == "loss.csv":
        rows = [step for step, _, _ in Job(path.parent).losses()]
        if rows != list(range(1, len(rows) + 1)):
            raise ValueError(f"its steps are {rows}")


def left_behind(data: Path) -> list[str]:
    """Files that somebody began to write and did not finish."""
    return sorted(path.name for path in data.rglob(".*") if path.suffix in _UNFINISHED and path.is_file())


def contents(data: Path) -> dict[str, Any]:
    """What a job has made, by names that have no time in them: bytes, and tensors without their metadata."""
    job, made = only_job(data), {}
    for path in _files(data):
        name = path.relative_to(data).as_posix()
        if path.name not in _OF_ITS_OWN and "latents" not in path.parts:
            made[name.replace(job.id, "JOB") if job else name] = _content(path)
    return made


def _files(data: Path) -> Iterator[Path]:
    for path in sorted(data.rglob("*")):
        if path.is_file() and not path.name.startswith(".") and "pictures" not in path.parts:
            yield path


def _content(path: Path) -> Any:
    if "cards" in path.parts:
        return "a card"  # which tells the day and the job
    if path.suffix != ".safetensors":
        return path.read_bytes()
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}
        step = (file.metadata() or {}).get("step")
    return step, {key: (str(v.dtype), tuple(v.shape), v.numpy().tobytes()) for key, v in tensors.items()}
