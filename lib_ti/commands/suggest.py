"""``ti-studio suggest``: words of the model to start from."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from typing import Any

from lib_ti import jobs
from lib_ti.commands.shared import Stopped, given_settings
from lib_ti.core.loop import check_learning
from lib_ti.hosts.standalone import StandaloneHost
from lib_ti.methods.registry import read_settings


def run(args: argparse.Namespace, stopped: Stopped) -> dict[str, Any]:
    settings = jobs.told_to_suggest(read_settings(given_settings(args)))
    folders = jobs.folders_under(args.data)
    jobs.settle(settings, folders)  # what is wrong with folder and template is said before a model is loaded
    check_learning(settings)
    host = StandaloneHost.load(args.model, args.device, settings.clip_skip or 1, args.prediction)
    found = jobs.suggest(
        host,
        settings,
        folders=folders,
        say=lambda sentence: print(sentence, file=sys.stderr),
        stopped=stopped,
    )
    print(host.info.prediction_told, file=sys.stderr)
    if not args.json:
        print("\n".join(f"{suggestion.word:<20} loss {suggestion.loss:.4f}" for suggestion in found))
    status = "stopped" if stopped() else "done"
    suggestions = [asdict(suggestion) for suggestion in found]
    return {"status": status, "suggestions": suggestions, "notes": [host.info.prediction_told]}
