"""What the extension's script calls: the one workshop of this WebUI, its tab and its routes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastapi import FastAPI
    from gradio import Blocks

    from lib_ti.ui.slots import Slots
    from lib_ti.workshop import Workshop


@lru_cache(maxsize=1)
def workshop() -> Workshop:
    """The same one after "Reload UI", with whatever runs in it."""
    from lib_ti.hosts.a1111_place import WebUIPlace
    from lib_ti.workshop import Workshop

    return Workshop(WebUIPlace())


def add_options() -> None:
    """The studio's section of the WebUI's settings."""
    from lib_ti.hosts.a1111_options import add_options as add

    add()


def before_page() -> None:
    """What the WebUI forgets when it makes its page anew: networks in prompts, cards, axes."""
    from lib_ti.hosts import a1111_cards, a1111_networks, a1111_slots
    from lib_ti.hosts.a1111_options import takes_over_lora

    a1111_networks.register(takes_over=takes_over_lora())
    a1111_cards.register()
    a1111_slots.add_axes()


def before_denoising(params: Any) -> None:
    """At every step of every picture."""
    from lib_ti.hosts.a1111_networks import before_denoising as tell

    tell(params)


def build_slots(tab: str) -> Slots:
    """The slots for networks, in the gradio context that is open now. ``tab``: "txt2img" or "img2img"."""
    from lib_ti.hosts.a1111_networks import network_folders
    from lib_ti.ui.slots import build_slots as build

    return build(lambda: [*network_folders().files()], tab)


def text_pasted(_text: str, told: dict[str, Any]) -> None:
    """When a picture's text is read into the page; ``told``: what it says, by key."""
    from lib_ti.hosts.a1111_slots import pasted

    pasted(told)


def use_slots(generation: Any, values: Sequence[Any]) -> None:
    from lib_ti.hosts.a1111_slots import use_slots as use

    use(generation, values)


def build_tab(txt2img: Sequence[Any]) -> None:
    """The studio's controls, in the gradio context that is open now."""
    from lib_ti.ui.page import build_page

    build_page(workshop(), txt2img)


def add_routes(page: Blocks | None, app: FastAPI) -> None:
    """The HTTP interface, for those who may use the WebUI's own; jobs' folders are served to nobody. Jobs
    that waited when the WebUI ended go on."""
    from lib_ti.api import make_router
    from lib_ti.hosts.a1111_web import guard

    app.include_router(make_router(workshop(), guard))
    workshop().go_on()
    if page is not None:
        page.blocked_paths = [*page.blocked_paths, str(workshop().place.folders().jobs)]
