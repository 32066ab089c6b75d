"""The WebUI's interrogators: deepbooru, which knows tags, and BLIP, which makes sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from PIL import Image

from lib_ti.core.errors import BadInput, StudioError
from lib_ti.hosts.a1111_loan import option_set
from lib_ti.hosts.base import Describing

Describe = Callable[[Image.Image], str]


def describer(asked: Describing) -> AbstractContextManager[Describe]:
    """See ``Host``; a context."""
    if asked.by == "deepbooru":
        return _deepbooru(asked)
    if asked.by == "blip":
        return _blip()
    raise BadInput(f"there is no interrogator {asked.by!r} here; choose deepbooru or blip.")


@contextmanager
def _deepbooru(asked: Describing) -> Iterator[Describe]:
    """What is asked goes before the user's settings; the tags that those filter out stay out."""
    from modules import deepbooru

    options = {
        "interrogate_deepbooru_score_threshold": asked.threshold,
        "deepbooru_sort_alpha": not asked.by_score,
        "deepbooru_use_spaces": asked.spaces,
        "deepbooru_escape": asked.escape,
    }
    with ExitStack() as undo:
        for name, value in options.items():
            undo.enter_context(option_set(name, value))
        with _loading("deepbooru"):
            deepbooru.model.start()
        undo.callback(deepbooru.model.stop)
        yield lambda image: deepbooru.model.tag_multi(image, force_disable_ranks=True)


@contextmanager
def _blip() -> Iterator[Describe]:
    """The sentence alone, without the artists and media that "Interrogate CLIP" adds."""
    from modules import devices, lowvram, shared

    lowvram.send_everything_to_cpu()
    devices.torch_gc()
    with ExitStack() as undo:
        undo.callback(shared.interrogator.unload)
        with _loading("BLIP"):
            shared.interrogator.load()
        yield shared.interrogator.generate_caption


@contextmanager
def _loading(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the WebUI's: of the network, the disk, the file, or of a list that is empty
        raise StudioError(
            f"{name} cannot be loaded ({type(error).__name__}: {error}); the WebUI downloads it at its first "
            "use: see whether the machine is connected, or try Interrogate in img2img."
        ) from error
