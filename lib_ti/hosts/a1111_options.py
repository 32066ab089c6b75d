"""The studio's section among AUTOMATIC1111's settings."""

from __future__ import annotations

from pathlib import Path

_SECTION = ("ti_studio", "TI Studio")
_JOBS = "ti_studio_jobs_dir"
_DESCRIBE = "ti_studio_describe_embeddings"
_TAKE_OVER = "ti_studio_take_over_lora"


def add_options() -> None:
    from modules import shared

    where = {"section": _SECTION, "category_id": "training"}
    jobs = shared.OptionInfo("", "Folder for jobs: settings, saved states, previews", **where)
    describe = shared.OptionInfo(
        True, "Write a preview and a description beside a trained embedding", **where
    )
    shared.opts.add_option(_JOBS, jobs.info("empty: .ti-studio/jobs, which is not served over the network"))
    shared.opts.add_option(_DESCRIBE, describe)
    over = shared.OptionInfo(False, "Read <lora:...> in prompts as <net:...>", **where)
    when = "only where the built-in Lora extension is switched off; at the next start"
    shared.opts.add_option(_TAKE_OVER, over.info(when))


def jobs_folder() -> Path:
    from modules import paths, shared

    # A dot folder: the WebUI serves everything else under its own folder to whoever reaches the port.
    chosen = shared.opts.data.get(_JOBS) or Path(".ti-studio", "jobs")
    return Path(paths.data_path) / Path(chosen).expanduser()


def describe_embeddings() -> bool:
    from modules import shared

    return bool(shared.opts.data.get(_DESCRIBE, True))


def takes_over_lora() -> bool:
    from modules import shared

    return bool(shared.opts.data.get(_TAKE_OVER, False))
