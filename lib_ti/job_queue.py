"""Jobs that wait for their turn, and the one that has it: so many and no more, in the order of asking.

A waiting job lies in its folder, in ``waiting.json``: it still waits after the program has ended, and keeps
the names of the files that it will make.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from lib_ti import jobs
from lib_ti.core.errors import BadInput, Interrupted, QueueFull, StudioError
from lib_ti.core.files import reserved
from lib_ti.core.job import Job
from lib_ti.core.settings import as_dict
from lib_ti.hosts.base import Host, Place
from lib_ti.job_run import saved_steps, told_files
from lib_ti.methods.kind import JobSettings, Product
from lib_ti.methods.registry import kind_of
from lib_ti.runs import RUNNING, Run, State

log = logging.getLogger(__name__)

MAX_WAITING = 32

Published = Callable[[Mapping[Product, Path], Job, int], object]


class JobQueue:
    """Trains one job after the other, on what ``place`` lends, in a thread of its own.

    ``published`` is told of files that were put where prompts find them, their job and their step.
    """

    def __init__(self, place: Place, published: Published) -> None:
        self.place, self._published = place, published
        self._waiting: list[Run] = []
        self._lock = threading.Lock()
        self._working = False
        self._current: Run | None = None

    def waiting(self) -> list[Run]:
        """Those whose turn has not come, the next first."""
        return list(self._waiting)

    def check_room(self) -> None:
        """Raises QueueFull."""
        if len(self._waiting) >= MAX_WAITING:
            raise QueueFull(f"{MAX_WAITING} jobs wait already; wait until one has ended, or stop one.")

    def add(self, run: Run) -> None:
        """Put a job at the end, which has the names of its files from now on.

        Raises BadInput where somebody else makes a file of one of them, QueueFull, CannotWrite.
        """
        with self._lock:
            for other in (*filter(None, [self._current]), *self._waiting):
                if other.job.id == run.job.id and other.state in RUNNING:
                    raise BadInput(f"job {run.job.id} is {other.state} already.")
            self.check_room()
            targets = jobs.check_targets(run.settings, self.place.folders(), run.job)
            run.names.enter_context(reserved(targets.values(), run.job.id))
            try:
                run.job.wait(_record(run.settings))
                run.waits.enter_context(run.job.waiting_alone())
            except BaseException:
                run.names.close()
                run.job.stop_waiting()
                raise
            self._waiting.append(run)

    def take_up(self) -> list[Run]:
        """Add the jobs that waited when the program ended, in their order; those of a program that runs
        beside this one stay its own."""
        folders, found = self.place.folders(), []
        for job in Job.waiting_in(folders.jobs):
            try:
                run = Run(job, jobs.settings_of(job.waiting()))
                run.waits.enter_context(job.waiting_alone())
            except (StudioError, LookupError, TypeError) as error:
                log.warning("job %s waited, and is not taken up: %s", job.id, error)
                continue
            try:
                targets = jobs.check_targets(run.settings, folders, job)
                run.names.enter_context(reserved(targets.values(), job.id))
            except StudioError as error:  # its turn will come, and fail with this sentence
                log.warning("job %s: %s", job.id, error)
            found.append(run)
        with self._lock:
            self._waiting += found
        return found

    def go_on(self) -> None:
        """See that somebody is at work as long as jobs wait."""
        with self._lock:
            if self._working or not self._waiting:
                return
            self._working = True
        threading.Thread(target=self._run, name="ti-studio jobs", daemon=True).start()

    def stop(self, run: Run) -> None:
        """Ask a job to stop, which ends at once where its turn has not come."""
        run.stop.set()
        with self._lock:
            waited = run in self._waiting
            if waited:
                self._waiting.remove(run)
        if waited:
            self._end(run, lambda: None)

    def _run(self) -> None:
        while True:
            with self._lock:
                self._current = run = self._waiting.pop(0) if self._waiting else None
                if run is None:
                    self._working = False
                    return
            self._end(run, partial(self._turn, run))

    def _turn(self, run: Run) -> None:
        with self.place.turn(run.settings.clip_skip) as host:
            if not run.stop.is_set():
                run.leave_queue()
                run.state = "preparing"
                self._train(run, host)

    def _end(self, run: Run, work: Callable[[], object]) -> None:
        """Whatever happens in ``work`` becomes the job's state."""
        try:
            work()
            state: State = "done" if run.files else "stopped"
            saved = saved_steps(run.job)
            if run.publish and saved and not run.files:
                run.files = jobs.publish(run.job, saved[-1], self.place.folders())
                self._published(run.files, run.job, saved[-1])
        except Interrupted as error:
            run.messages.append(str(error))
            state = "stopped"
        except StudioError as error:
            run.error, state = str(error), "failed"
        except Exception as error:  # a bug or the machine's; it must not look like success
            log.exception("job %s", run.job.id)
            run.error, state = f"{type(error).__name__}: {error}", "failed"
        self._conclude(run, state)

    def _train(self, run: Run, host: Host) -> None:
        folders = self.place.folders()

        def stopped() -> bool:
            return run.stop.is_set() or self.place.interrupted()

        if run.job.began:
            outcome = jobs.resume(host, run.job, folders=folders, report=run, stopped=stopped)
        else:
            outcome = jobs.start(
                host,
                run.settings,
                folders=folders,
                model=host.info.name,
                report=run,
                stopped=stopped,
                job=run.job,
            )
        run.outcome = outcome
        if outcome.status == "done":
            run.files = outcome.files
            self._published(run.files, run.job, outcome.kept_step)

    def _conclude(self, run: Run, state: State) -> None:
        """Write down how it ended; the state changes last, so that who sees it finds everything there."""
        try:
            run.leave_queue()
            if run.job.began:
                run.job.write_result(
                    {
                        **(run.outcome.as_json() if run.outcome else {}),
                        "status": state,
                        "job": run.job.id,
                        "step": run.status().step,
                        **told_files(run.files),
                        "error": run.error,
                        "messages": run.status().messages,
                    }
                )
            else:
                run.job.discard()
        except (OSError, StudioError) as error:  # a disk that is full must not hide how the job ended
            run.messages.append(f"the result could not be written down: {error}")
        finally:
            run.names.close()
            run.state = state


def _record(settings: JobSettings) -> dict[str, object]:
    return {"method": kind_of(settings).name, "settings": as_dict(settings)}
