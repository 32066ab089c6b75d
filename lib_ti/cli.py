"""``ti-studio COMMAND ...``: the command line.

Exit codes: 0 done, 1 failed, 2 bad input, 130 stopped by the user with everything saved. With
``--json`` the last line of standard output is one JSON object; logs and progress go to standard error.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from lib_ti.commands import bench, demo, generate, sd_scripts, suggest, tools, train
from lib_ti.core.errors import BadInput, StudioError
from lib_ti.core.files import CannotWrite, write_text

COMMANDS = (demo, train, suggest, sd_scripts, generate, tools, bench)
STOPPED = 130


class _Parser(argparse.ArgumentParser):
    """argparse whose complaints are one sentence, like all others."""

    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message}; see {self.prog} --help.")


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


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = _Parser(prog="ti-studio", description="Teach Stable Diffusion a new word.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    for module in COMMANDS:
        module.add_to(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
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
        print(json.dumps(result, ensure_ascii=False, allow_nan=False), flush=True)
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
