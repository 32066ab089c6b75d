"""Encoded pictures on disk, for the jobs to come. The folder may be deleted at any time."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from lib_ti.core.files import CannotWrite, write_atomically
from lib_ti.core.randomness import generator_at

log = logging.getLogger(__name__)

# Pixels (b, 3, h, w), -1..1 -> mean and std of the latents, scaled, (b, c, h/8, w/8).
Encode = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]

_LAYOUT = "1"  # changes whenever the same picture would be encoded or stored otherwise
_PROBE_SIDE = 64  # pixels
_LIMIT = 8 * 2**30  # bytes: 16,000 pictures of SDXL at full size, more than one person trains with


class LatentStore:
    """Tensors by what they were made from: ``<folder>/<encoder>/<key>.safetensors``.

    An encoder is known by its answer to a fixed picture: a checkpoint's name or hash would not tell
    which VAE a program has put in its place, nor that two checkpoints share one, nor its precision.
    """

    def __init__(self, folder: Path, encode: Encode) -> None:
        self._folder = folder
        self._encode = encode
        self._writable = True
        self._used: set[Path] = set()

    @cached_property
    def _encoder(self) -> str:
        pixels = torch.rand(1, 3, _PROBE_SIDE, _PROBE_SIDE, generator=generator_at(0)) * 2 - 1
        answer = torch.cat([part.float().cpu() for part in self._encode(pixels)])
        return hashlib.sha256(answer.contiguous().numpy().tobytes()).hexdigest()[:16]

    def _file(self, made_from: object) -> Path:
        key = hashlib.sha256(json.dumps([_LAYOUT, made_from]).encode()).hexdigest()
        return self._folder / self._encoder / f"{key}.safetensors"

    def get(
        self, made_from: object, names: set[str], make: Callable[[], dict[str, torch.Tensor]]
    ) -> dict[str, torch.Tensor]:
        """The tensors called ``names``, float32: kept ones, or else new ones, kept from now on."""
        file = self._file(made_from)
        self._used.add(file)
        found = self._load(file, names)
        if found is None:
            found = make()
            self._save(file, found)
        else:
            with contextlib.suppress(OSError):
                os.utime(file)  # what no job has used for longest goes first
        return found

    def trim(self, limit: int = _LIMIT) -> None:
        """Delete what was not used for longest, of any encoder, until the files take at most ``limit`` bytes;
        never what this store has given. And what killed processes had not finished of it."""
        for left in list(self._folder.glob("*/.*.tmp")):
            if left.with_name(f"{left.name[1:].partition('.')[0]}.safetensors") in self._used:
                left.unlink(missing_ok=True)
        known = []
        for file in self._folder.glob("*/*.safetensors"):
            with contextlib.suppress(OSError):  # another job may have deleted it
                stat = file.stat()
                known.append((stat.st_mtime_ns, stat.st_size, file))
        excess = sum(size for _, size, _ in known) - limit
        for _, size, file in sorted(known):
            if excess <= 0:
                return
            if file not in self._used:
                with contextlib.suppress(OSError):
                    file.unlink()
                    excess -= size

    def _load(self, file: Path, names: set[str]) -> dict[str, torch.Tensor] | None:
        """None where they are not there, or not whole."""
        try:
            found = load(file.read_bytes())  # not mapped: Windows lets nobody delete a file that is
        except (OSError, SafetensorError, ValueError):
            return None
        sound = all(value.dtype == torch.float32 and torch.isfinite(value).all() for value in found.values())
        return found if sound and found.keys() == names else None

    def _save(self, file: Path, tensors: dict[str, torch.Tensor]) -> None:
        """Whole or not at all. A disk that takes no more is told of once."""
        if not self._writable:
            return
        try:
            write_atomically(file, lambda path: path.write_bytes(save(tensors)))
        except CannotWrite as error:
            self._writable = False
            log.warning("encoded pictures are not kept for the next start: %s", error)
