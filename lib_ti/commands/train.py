"""``ti-studio train``: train an embedding or a network, or go on with a job."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from tqdm import tqdm

from lib_ti.commands.shared import Stopped, given_settings
from lib_ti.core.errors import BadInput
from lib_ti.core.files import CannotWrite
from lib_ti.core.job import Job
from lib_ti.core.loop import Progress
from lib_ti.data.source import Source, first_prompts
from lib_ti.data.templates import with_whole_path
from lib_ti.hosts.base import Folders
from lib_ti.hosts.shown_tokens import shown, token_table
from lib_ti.hosts.standalone import StandaloneHost
from lib_ti.job_run import Drawn, Event, Message, Outcome, Preview
from lib_ti.jobs import (
    PLACES,
    check,
    folders_under,
    prediction_of,
    read_source,
    resume,
    settings_of,
    settle,
    start,
)
from lib_ti.methods.conditioning import conditioning_of
from lib_ti.methods.kind import JobSettings
from lib_ti.methods.registry import kind_of, read_settings
from lib_ti.report import plot_losses


def run(
    args: argparse.Namespace, stopped: Stopped, heard: Callable[[Event], None] = lambda event: None
) -> dict[str, Any]:
    """``heard``: told of every event of the job, after it was shown."""
    watch = Watch(heard)
    try:
        return _run(args, stopped, watch)
    finally:
        watch.close()  # or what is said of an error stands behind the bar


def _run(args: argparse.Namespace, stopped: Stopped, watch: Watch) -> dict[str, Any]:
    given, folders = given_settings(args), folders_under(args.data)
    if args.resume:
        outcome = _go_on(args, given, folders, watch, stopped)
    else:
        settings = read_settings(given)
        if not settings.name:
            raise BadInput("name: missing; give the new word, such as --name my-cat.")
        settings = replace(settings, template=with_whole_path(settings.template, folders.templates))
        checked = settle(settings, folders) if args.show_tokens else check(settings, folders)
        model = args.model or "builtin"
        host = StandaloneHost.load(model, args.device, settings.clip_skip or 1, args.prediction)
        if args.show_tokens:
            return show_tokens(host, settings, checked[1], quiet=args.json)
        outcome = start(
            host,
            settings,
            folders=folders,
            model=model,
            report=watch,
            stopped=stopped,
            checked=checked,
        )
    watch.close()  # before what is said of the end
    return conclude(outcome)


def _go_on(
    args: argparse.Namespace, given: Mapping[str, Any], folders: Folders, watch: Watch, stopped: Stopped
) -> Outcome:
    """Resume a job, whose model, pictures and template may lie elsewhere by now. Raises BadInput."""
    if others := given.keys() - PLACES:
        flags = ", ".join("--" + name.replace("_", "-") for name in given if name in others)
        raise BadInput(f"--resume goes on with the job's own settings; leave out {flags}.")
    moved = dict(given)
    if "template" in moved:
        moved["template"] = with_whole_path(moved["template"], folders.templates)
    job = Job.open(folders.jobs, args.resume)
    record = job.settings()
    settings = replace(settings_of(record), **moved)
    began_with = prediction_of(record)
    if args.prediction not in (None, began_with):
        raise BadInput(
            f"--prediction: got {args.prediction}, and --resume goes on as the job began"
            f"{f', with {began_with}' if began_with else ''}; leave it out."
        )
    read_source(settings, folders, saved=True)  # before a model is loaded
    model = args.model or record["model"]
    try:
        host = StandaloneHost.load(model, args.device, settings.clip_skip or 1, began_with)
    except BadInput as error:
        raise BadInput(f"{error} If the job's model has moved, give --model with its place.") from error
    return resume(host, job, folders=folders, report=watch, stopped=stopped, moved=moved)


def show_tokens(
    host: StandaloneHost, settings: JobSettings, source: Source, *, quiet: bool
) -> dict[str, Any]:
    """The prompts of the first epoch as the text encoder will get them."""
    kind = kind_of(settings)
    prompts = first_prompts(source, settings, settings.trigger, others=kind.words(settings).others)
    words = kind.start(host, settings)
    counts = {word: len(next(iter(vectors.values()))) for word, vectors in words.items()}
    table = token_table(prompts, host.tokenize, counts, conditioning_of(settings))
    if not quiet:
        print("\n".join(shown(table)))
    return {"status": "done", "tokens": table}


class Watch:
    """Shows a job's events: sentences, a progress bar with time left, where previews lie."""

    def __init__(self, heard: Callable[[Event], None] = lambda event: None) -> None:
        self.heard = heard
        self.bar: tqdm | None = None

    def __call__(self, event: Event) -> None:
        self._show(event)
        self.heard(event)

    def _show(self, event: Event) -> None:
        if isinstance(event, Message):
            tqdm.write(event.text, file=sys.stderr)
        elif isinstance(event, Drawn):
            tqdm.write(f"regularisation picture {event.there} of {event.count} drawn", file=sys.stderr)
        elif isinstance(event, Progress):
            if self.bar is None:
                first = event.step - len(event.rows)
                self.bar = tqdm(
                    total=event.steps, initial=first, unit="step", file=sys.stderr, dynamic_ncols=True
                )
            self.bar.set_postfix(loss=f"{event.loss:.4f}", refresh=False)
            self.bar.update(event.step - self.bar.n)
            if event.step == event.steps:
                self.close()
        elif isinstance(event, Preview):
            tqdm.write(
                f"step {event.step}: {len(event.paths)} previews in {event.paths[0].parent}", file=sys.stderr
            )

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def conclude(outcome: Outcome) -> dict[str, Any]:
    """Draw the loss curve, tell where everything is; the result also goes into the job's folder."""
    plot = outcome.job.folder / "loss.png"
    result = {**outcome.as_json(), "loss_plot": None}
    try:
        result["loss_plot"] = str(plot) if plot_losses(outcome.job.losses(), plot) else None
        outcome.job.write_result(result)
    except CannotWrite as error:  # which must not hide how the job ended
        print(f"warning: {error}", file=sys.stderr)
    files = " and ".join(map(str, outcome.files.values())) or "nothing"
    if outcome.status == "done":
        told = f"done: {files} after {outcome.step} steps"
    else:
        told = (
            f"stopped at step {outcome.step}; go on with: train --resume {outcome.job.id} (so far: {files})"
        )
    print(told, file=sys.stderr)
    return result
