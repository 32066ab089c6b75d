"""The errors a user can meet. Each message says what, got, expected and remedy, in a sentence."""

from __future__ import annotations

from lib_ti.core.text import as_text


class StudioError(Exception):
    """Base of every error that is shown to the user as its message alone, without a traceback."""

    exit_code = 1

    def __str__(self) -> str:
        """What every door can show, whatever the file is called that it is about."""
        return as_text(super().__str__())


class BadInput(StudioError):
    """Something the user gave cannot be used; nothing was started and nothing was written."""

    exit_code = 2


class QueueFull(BadInput):
    """So many jobs wait that no more are taken."""


class Interrupted(StudioError):
    """The user stopped what comes before a job; what it has made so far is kept."""

    exit_code = 130


class JobFailed(StudioError):
    """A job that had begun cannot go on; what was good so far has been saved."""
