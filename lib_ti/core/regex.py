"""Regular expressions that a stranger may have written: a pattern can take a lifetime on thirty letters, so
they run in a process of their own, which ends after some seconds whatever it does.

The package ``regex`` has a time limit of its own, but none for reading a pattern: with
``((((a{99}){99}){99}){99})`` it takes minutes and gigabytes, so it is no substitute for the process.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from lib_ti.core.errors import BadInput

SECONDS = 5.0
_LONGEST_PATTERN = 1000  # characters, of the replacement too
_LONGEST = 20_000  # characters of a text
_MOST = 10_000_000  # characters of all texts together, afterwards
_REPLACE = """
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
_FIND = """
import json, re, sys
pattern, texts, limit = json.load(sys.stdin)
compiled, done, length = re.compile(pattern), [], 0
group = min(compiled.groups, 1)
for text in texts:
    done.append([match[group] or "" for match in compiled.finditer(text)])
    length += sum(map(len, done[-1]))
    if length > limit:
        sys.exit("the words would become too long")
json.dump(done, sys.stdout)
"""


def find_words(pattern: str, texts: Sequence[str]) -> list[list[str]]:
    """What ``pattern`` finds in each of ``texts``; where it has groups, what the first of them finds.

    Raises BadInput as ``replace_all`` does.
    """
    found: list[list[str]] = _in_time(_FIND, pattern, [pattern, list(texts), _MOST])
    return found


def replace_all(pattern: str, replacement: str, texts: Sequence[str]) -> list[str]:
    r"""``re.sub`` in each of ``texts``; ``\1`` in the replacement is what the first group found.

    Raises BadInput for what does not compile, for what takes more than ``SECONDS``, and for what is too long.
    """
    if max(len(pattern), len(replacement)) > _LONGEST_PATTERN or max(map(len, texts), default=0) > _LONGEST:
        raise BadInput(
            f"expected at most {_LONGEST_PATTERN} characters to find and to put in their place, and captions "
            f"of at most {_LONGEST}."
        )
    done: list[str] = _in_time(_REPLACE, pattern, [pattern, replacement, list(texts), _MOST])
    return done


def _in_time(worker: str, pattern: str, given: Sequence[object]) -> Any:
    """What ``worker`` answers, given that as JSON. Raises BadInput."""
    if len(pattern) > _LONGEST_PATTERN:
        raise BadInput(f"expected a pattern of at most {_LONGEST_PATTERN} characters.")
    _check(pattern)
    # Isolated: neither the folder it starts in nor the user's environment can put in a module of theirs.
    command = [sys.executable, "-I", "-S", "-c", worker]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(given),
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise BadInput(
            f"{pattern!r} is no pattern to search with: it takes more than {SECONDS:g} seconds, which "
            "repeats within repeats do; write a simpler one."
        ) from None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["for a reason it did not tell"])[-1]
        raise BadInput(f"what {pattern!r} finds cannot be taken ({reason}).")
    return json.loads(done.stdout)


def _check(pattern: str) -> None:
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise BadInput(f"{pattern!r} is not a regular expression ({error}); mend it.") from error
