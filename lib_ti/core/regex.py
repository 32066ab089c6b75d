"""Regular expressions that a stranger may have written: a pattern can take a lifetime on thirty letters, so
they run in a process of their own, which ends after some seconds whatever it does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence

from lib_ti.core.errors import BadInput

_SECONDS = 5.0
_LONGEST_PATTERN = 1000  # characters, of the replacement too
_LONGEST = 20_000  # characters of a text
_MOST = 10_000_000  # characters of all texts together, afterwards
_WORKER = """
import json, re, sys
pattern, replacement, texts, limit = json.load(sys.stdin)
compiled, done, length = re.compile(pattern), [], 0
for text in texts:
    done.append(compiled.sub(replacement, text))
    length += len(done[-1])
    if length > limit:
        sys.exit("the captions would become too long")
json.dump(done, sys.stdout)
"""


def replace_all(pattern: str, replacement: str, texts: Sequence[str], seconds: float = _SECONDS) -> list[str]:
    r"""``re.sub`` in each of ``texts``; ``\1`` in the replacement is what the first group found.

    Raises BadInput for what does not compile, for what takes more than ``seconds``, and for what is too long.
    """
    if max(len(pattern), len(replacement)) > _LONGEST_PATTERN or max(map(len, texts), default=0) > _LONGEST:
        raise BadInput(
            f"expected at most {_LONGEST_PATTERN} characters to find and to put in their place, and captions "
            f"of at most {_LONGEST}."
        )
    _check(pattern)
    given = json.dumps([pattern, replacement, list(texts), _MOST])
    # Isolated: neither the folder it starts in nor the user's environment can put in a module of theirs.
    command = [sys.executable, "-I", "-S", "-c", _WORKER]
    try:
        done = subprocess.run(
            command, input=given, capture_output=True, text=True, encoding="utf-8", timeout=seconds
        )
    except subprocess.TimeoutExpired:
        raise BadInput(
            f"{pattern!r} is no pattern to search with: it takes more than {seconds:g} seconds, which "
            "repeats within repeats do; write a simpler one."
        ) from None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["for a reason it did not tell"])[-1]
        raise BadInput(f"what {pattern!r} finds cannot be replaced ({reason}).")
    found: list[str] = json.loads(done.stdout)
    return found


def _check(pattern: str) -> None:
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise BadInput(f"{pattern!r} is not a regular expression ({error}); mend it.") from error
