"""Is a job in the WebUI the job of the command line? Same settings, same seed: the vectors compared."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from lib_ti.bench.quality import TRIGGER, Exam, judge_words, lesson
from lib_ti.bench.webui import API, WebUI, find_webui, running_webui
from lib_ti.bench.webui_data import install_builtin, install_extension
from lib_ti.core.errors import StudioError
from lib_ti.core.job import Job
from lib_ti.core.settings import as_dict, build
from lib_ti.formats.embedding import read_embedding
from lib_ti.hosts.standalone import StandaloneHost
from lib_ti.job_run import saved_steps
from lib_ti.jobs import folders_under, start
from lib_ti.methods.kind import Words
from lib_ti.methods.vector_settings import InversionSettings
from lib_ti.tinyworld.concepts import Concept
from lib_ti.tinyworld.judge import Judge

log = logging.getLogger(__name__)

MOMENTS = 10  # of the training at which the vectors are compared


def bench_parity(concept: Concept, steps: int, seed: int, images: int) -> dict[str, Any]:
    """The largest difference of any number in the vectors, by step, and both results' scores.

    Raises BadInput where no WebUI is installed, StudioError where a job fails there.
    """
    find_webui()
    exam = Exam(concept, 8, images, seed)
    with TemporaryDirectory(prefix="ti-studio-bench-") as folder:
        data = Path(folder)
        exam.write_pictures(data / "pictures")
        told = lesson(exam, data / "pictures", steps=steps, seed=seed, copy_every=max(1, steps // MOMENTS))
        settings = build(InversionSettings, told)
        checkpoint = install_builtin(data)
        install_extension(data)
        log.info("training in the WebUI")
        with running_webui(data, ready=f"{API}/jobs") as webui:
            theirs = Job.open(folders_under(data).jobs, train_there(webui, as_dict(settings)))
        host = StandaloneHost.load(checkpoint, "cpu")
        log.info("training standalone")
        ours = start(
            host,
            settings,
            folders=folders_under(data / "standalone"),
            model=str(checkpoint),
            report=lambda event: None,
            stopped=lambda: False,
        ).job
        differences = {step: _difference(theirs, ours, step) for step in saved_steps(ours)}
        judge = Judge()
        return {
            "concept": concept.name,
            "steps": steps,
            "differences": differences,
            "webui": _scores(host, judge, exam, _vectors(theirs, steps)),
            "standalone": _scores(host, judge, exam, _vectors(ours, steps)),
        }


def train_there(webui: WebUI, settings: dict[str, Any]) -> str:
    """Train through the extension's HTTP interface; the job's id. Raises StudioError where it fails."""
    job = webui.call(f"{API}/jobs", settings)["job"]
    while (status := webui.call(f"{API}/jobs/{job}"))["running"]:
        time.sleep(0.2)
    if status["status"] != "done":
        raise StudioError(f"the job in the WebUI ended as {status['status']}: {status['error']}")
    return job


def _vectors(job: Job, step: int) -> dict[str, torch.Tensor]:
    (file,) = job.copies.glob(f"*-{step:06d}.safetensors")
    return dict(read_embedding(file).vectors)


def _difference(one: Job, other: Job, step: int) -> float:
    a, b = _vectors(one, step), _vectors(other, step)
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def _scores(
    host: StandaloneHost, judge: Judge, exam: Exam, vectors: dict[str, torch.Tensor]
) -> dict[str, Any]:
    _, plain, edited = judge_words(host, judge, exam, Words(TRIGGER), {TRIGGER: vectors})
    return {
        "success": round(sum(plain.learned) / len(plain.learned), 4),
        "ceiling": round(sum(plain.ceiling) / len(plain.ceiling), 4),
        "ratio": round((plain.ratio() + edited.ratio()) / 2, 4),
    }
