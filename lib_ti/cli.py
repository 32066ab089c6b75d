"""``ti-studio COMMAND ...``: the command line.

Exit codes: 0 done, 1 failed, 2 bad input, 130 stopped by the user with everything saved. With
``--json`` the last line of standard output is one JSON object; logs and progress go to standard error.
"""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from lib_ti import __version__
from lib_ti.commands.options import COMMANDS
from lib_ti.commands.parser import Parser
from lib_ti.core.errors import StudioError
from lib_ti.core.files import CannotWrite, write_text

STOPPED = 130


class Stop:
    """Turns the first Ctrl-C into a request; the second one interrupts for good."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self) -> bool:
        return self.asked

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        print("\nstopping after this step; press Ctrl-C again to stop at once", file=sys.stderr)

    def listen(self) -> Stop:
        signal.signal(signal.SIGINT, self._ask)
        signal.signal(signal.SIGTERM, self._ask)
        return self


def build_parser() -> Parser:
    """All commands; each learns its options when it is the one that is typed."""
    parser = Parser(prog="ti-studio", description="Teach Stable Diffusion a new word.")
    parser.add_argument("--version", action="version", version=f"ti-studio {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for add_to in COMMANDS:
        add_to(commands)
    return parser


def _speak_any_encoding() -> None:
    """A pipe or console of another code page gets escapes for what it has no signs for, and no error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _as_json(result: dict[str, Any]) -> str:
    """In a line. Whoever reads JSON reads it as UTF-8: in another encoding it is kept to ASCII."""
    is_utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    return json.dumps(result, ensure_ascii=not is_utf8, allow_nan=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    _speak_any_encoding()
    # Read by Intel's mathematics at its first use: without it the latest processors do not give the same bits
    # for the same numbers, and a job that is done again would not be the same to the byte.
    os.environ.setdefault("MKL_CBWR", "AUTO")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("lib_ti").setLevel(logging.INFO)
    given = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in given
    result: dict[str, Any]
    try:
        args = build_parser().parse_args(given)
        result = args.run(args, Stop().listen())
        code = STOPPED if result.get("status") == "stopped" else 0
    except KeyboardInterrupt:
        result, code = {"error": "stopped"}, STOPPED
    except StudioError as error:
        result, code = {"error": str(error)}, error.exit_code
    except Exception as error:  # the edge: nobody should meet a traceback, and it must not be lost
        result, code = {"error": f"{type(error).__name__}: {error} ({_noted(traceback.format_exc())})"}, 1
    if "error" in result:
        print(f"ti-studio: {result['error']}", file=sys.stderr)
    if as_json:
        print(_as_json(result), flush=True)
    return code


def _noted(details: str) -> str:
    """Where the details of a bug are: in a file, or on standard error where none can be written."""
    log_file = Path(".ti-studio") / "error.log"
    try:
        write_text(log_file, details)
    except CannotWrite as error:
        print(details, file=sys.stderr)
        return f"a bug; {error}"
    return f"a bug; details in {log_file}"


if __name__ == "__main__":
    # Never reach for a hub unless a model was named that lives on one.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    sys.exit(main())
