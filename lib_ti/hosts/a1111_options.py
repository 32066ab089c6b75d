"""The studio's section among AUTOMATIC1111's settings."""

from __future__ import annotations

from pathlib import Path

_SECTION = ("ti_studio", "TI Studio")
_JOBS = "ti_studio_jobs_dir"
_DESCRIBE = "ti_studio_describe_embeddings"


def add_options() -> None:
    from modules import shared

    where = {"section": _SECTION, "category_id": "training"}
    jobs = shared.OptionInfo("", "Folder for jobs: settings, saved states, previews", **where)
    describe = shared.OptionInfo(
        True, "Write a preview and a description beside a trained embedding", **where
    )
    shared.opts.add_option(_JOBS, jobs.info("empty: .ti-studio/jobs, which is not served over the network"))
    shared.opts.add_option(_DESCRIBE, describe)


def jobs_folder() -> Path:
    from modules import paths, shared

    # A dot folder: the WebUI serves everything else under its own folder to whoever reaches the port.
    chosen = shared.opts.data.get(_JOBS) or Path(".ti-studio", "jobs")
    return Path(paths.data_path) / Path(chosen).expanduser()


def describe_embeddings() -> bool:
    from modules import shared

    return bool(shared.opts.data.get(_DESCRIBE, True))
