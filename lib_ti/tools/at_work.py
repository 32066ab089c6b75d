"""The tools that are at work in a program: how far each is, and a way to stop them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(eq=False)
class Work:
    """A tool at work: its own thread writes, everybody reads."""

    name: str  # group and name of the tool
    done: int = 0
    of: int = 0  # 0: it has not said
    stop: threading.Event = field(default_factory=threading.Event)

    def progress(self, done: int, of: int) -> None:
        self.done, self.of = done, of


class Works:
    """Those of one program. A request may be long gone when its tool has done its work."""

    def __init__(self) -> None:
        self._works: list[Work] = []
        self._lock = threading.Lock()

    @contextmanager
    def begun(self, name: str) -> Iterator[Work]:
        work = Work(name)
        with self._lock:
            self._works.append(work)
        try:
            yield work
        finally:
            with self._lock:
                self._works.remove(work)

    def now(self) -> list[Work]:
        """Those that have said how far they are, the oldest first."""
        with self._lock:
            return [work for work in self._works if work.of]

    def stop(self) -> None:
        """Ask all of them to stop; what is half done is not kept, or said to be half done."""
        with self._lock:
            for work in self._works:
                work.stop.set()
