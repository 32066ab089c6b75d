"""AUTOMATIC1111's WebUI as the place of a workshop: whose turn it is, where files go, who is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

from PIL import Image

from lib_ti.core.files import write_atomically, write_text
from lib_ti.data.templates import OUR_TEMPLATES
from lib_ti.hosts.a1111 import A1111Host, sampler_names
from lib_ti.hosts.a1111_loan import condition_caches_cleared, option_set
from lib_ti.hosts.a1111_networks import builtin_networks
from lib_ti.hosts.a1111_options import describe_embeddings, jobs_folder, readable_folders
from lib_ti.hosts.base import Folders


class WebUIPlace:
    """``Place`` in the WebUI that this process is."""

    def __init__(self) -> None:
        # As it was at the start: whoever reaches the page may change the settings.
        self._readable = readable_folders()

    def folders(self) -> Folders:
        from modules import shared

        options = shared.cmd_opts
        theirs = Path(options.textual_inversion_templates_dir)
        networks = Path(options.lora_dir)  # of the built-in extension, also where that is switched off
        files = (Path(options.embeddings_dir), networks, (theirs, OUR_TEMPLATES))
        own = jobs_folder().parent
        own_files = own / "datasets", own / "cards"
        return Folders(jobs_folder(), *files, *own_files, _checkpoint_folders(), self._readable)

    def look(self) -> A1111Host:
        return A1111Host()

    @contextmanager
    def turn(self, clip_skip: int) -> Iterator[A1111Host]:
        """Under the lock that the WebUI's own generations take, in the order of asking."""
        from modules import shared
        from modules.call_queue import queue_lock

        own = option_set("CLIP_stop_at_last_layers", clip_skip) if clip_skip else nullcontext()
        with queue_lock, own:
            shared.state.begin(job="ti-studio")
            try:
                yield A1111Host()
            finally:
                shared.state.end()

    def interrupted(self) -> bool:
        from modules import shared

        return bool(shared.state.interrupted)

    def sampler_names(self) -> list[str]:
        return sampler_names()

    def checkpoints_changed(self) -> None:
        from modules import sd_models

        sd_models.list_models()

    def published(self, file: Path, preview: Path | None, description: str) -> None:
        from modules.sd_hijack import model_hijack

        if describe_embeddings():
            _describe(file, preview, description)
        # By force: it looks at the folder's time only, which a replaced file does not change.
        model_hijack.embedding_db.load_textual_inversion_embeddings(force_reload=True)
        if (networks := builtin_networks()) is not None:
            networks.list_available_networks()
        with condition_caches_cleared():
            pass


def _checkpoint_folders() -> tuple[Path, ...]:
    """Where the WebUI looks for them, the one that was named at its start first."""
    from modules import sd_models, shared

    named = shared.cmd_opts.ckpt_dir
    usual = Path(sd_models.model_path)
    return (Path(named), usual) if named else (usual,)


def _describe(file: Path, preview: Path | None, description: str) -> None:
    """The preview and the text of the file's card among the WebUI's extra networks."""
    from modules import shared

    write_text(file.with_suffix(".description.txt"), description + "\n")
    if preview is None:
        return
    kind = shared.opts.samples_format
    with Image.open(preview, formats=["PNG"]) as image:
        picture = image.convert("RGB")
    name = {"jpg": "JPEG"}.get(kind, kind.upper())
    write_atomically(file.with_suffix(f".preview.{kind}"), partial(picture.save, format=name))
