"""The studio's section among AUTOMATIC1111's settings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

_SECTION = ("ti_studio", "TI Studio")
_JOBS = "ti_studio_jobs_dir"
_DESCRIBE = "ti_studio_describe_embeddings"
_READABLE = "ti_studio_readable_folders"
_TAKE_OVER = "ti_studio_take_over_lora"
# Options of WebUIs, and of extensions with tunnels, that let other computers in.
_TO_OTHERS = ("listen", "share", "ngrok", "cloudflared", "localhostrun", "remotemoe", "tunnel_webhook")


def add_options() -> None:
    from modules import shared

    where = {"section": _SECTION, "category_id": "training"}
    jobs = shared.OptionInfo("", "Folder for jobs: settings, saved states, previews", **where)
    describe = shared.OptionInfo(
        True, "Write a preview and a description beside a trained embedding", **where
    )
    shared.opts.add_option(_JOBS, jobs.info("empty: .ti-studio/jobs, which is not served over the network"))
    shared.opts.add_option(_DESCRIBE, describe)
    folders = shared.OptionInfo(
        "", "Folders to read pictures from while others can reach this WebUI", **where
    )
    told = "--listen, --share and the like; several with ; between them; data sets of the studio's own are "
    shared.opts.add_option(_READABLE, folders.info(f"{told}always read; from the next start on"))
    # Where people may not choose folders, they may not choose these.
    shared.restricted_opts.add(_READABLE)
    over = shared.OptionInfo(False, "Read <lora:...> in prompts as <net:...>", **where)
    when = "only where the built-in Lora extension is switched off; at the next start"
    shared.opts.add_option(_TAKE_OVER, over.info(when))


def jobs_folder() -> Path:
    from modules import paths, shared

    # A dot folder: the WebUI serves everything else under its own folder to whoever reaches the port.
    chosen = shared.opts.data.get(_JOBS) or Path(".ti-studio", "jobs")
    return Path(paths.data_path) / Path(chosen).expanduser()


def readable_folders() -> tuple[Path, ...] | None:
    """Below which pictures and files of settings are read; None: anywhere, nobody else reaches the WebUI."""
    from modules import paths, shared

    if not _others_reach(shared.cmd_opts):
        return None
    named = str(shared.opts.data.get(_READABLE) or "").split(";")
    return tuple(Path(paths.data_path, Path(name.strip()).expanduser()) for name in named if name.strip())


def _others_reach(options: Any) -> bool:
    """Whether the WebUI answers other computers, as it was started. Gradio looks at the environment too."""
    if any(getattr(options, name, None) for name in _TO_OTHERS):
        return True
    if os.environ.get("GRADIO_SHARE", "").lower() == "true":
        return True
    name = getattr(options, "server_name", None) or os.environ.get("GRADIO_SERVER_NAME", "")
    return name not in ("", "localhost", "::1") and not name.startswith("127.")


def describe_embeddings() -> bool:
    from modules import shared

    return bool(shared.opts.data.get(_DESCRIBE, True))


def takes_over_lora() -> bool:
    from modules import shared

    return bool(shared.opts.data.get(_TAKE_OVER, False))
