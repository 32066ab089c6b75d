"""A place for workshops in tests: the standalone host with the built-in model."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from lib_ti.hosts.base import Folders
from lib_ti.hosts.standalone import StandaloneHost
from lib_ti.jobs import folders_under
from lib_ti.runs import Status
from lib_ti.workshop import Workshop

ENDED = 120  # seconds


class StandalonePlace:
    """A program that lends the built-in model, and counts what it is told."""

    def __init__(self, host: StandaloneHost, data: Path) -> None:
        self.host, self.data = host, data
        self.lock = threading.Lock()
        self.told: list[tuple[str, bool, str]] = []
        self.pressed = False
        self.readable: tuple[Path, ...] | None = None  # of a program that others reach
        self.listed = 0  # times that it was told of another checkpoint

    def folders(self) -> Folders:
        return replace(folders_under(self.data), readable=self.readable)

    def look(self) -> StandaloneHost:
        return self.host

    @contextmanager
    def turn(self, clip_skip: int) -> Iterator[StandaloneHost]:
        with self.lock:
            yield self.host

    def interrupted(self) -> bool:
        return self.pressed

    def sampler_names(self) -> list[str]:
        return ["DPM++ 2M Karras", "Euler"]

    def published(self, file: Path, preview: Path | None, description: str) -> None:
        self.told.append((file.name, preview is not None, description))

    def checkpoints_changed(self) -> None:
        self.listed += 1


def wait(workshop: Workshop, job: str, until: Callable[[Status], bool]) -> Status:
    end = time.monotonic() + ENDED
    while time.monotonic() < end:
        status = workshop.status(job)
        if until(status):
            return status
        time.sleep(0.02)
    raise AssertionError(f"still {workshop.status(job)}")


def ended(workshop: Workshop, job: str) -> Status:
    return wait(workshop, job, lambda status: not status.running)
