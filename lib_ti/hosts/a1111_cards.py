"""A page of cards among the WebUI's extra networks: the networks that ``<net:...>`` can call."""

from __future__ import annotations

import html
import logging
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lib_ti.core.errors import BadInput
from lib_ti.core.files import parse_json
from lib_ti.formats.card_picture import FAMILIES
from lib_ti.hosts.a1111_model import family_of
from lib_ti.hosts.a1111_networks import network_folders
from lib_ti.networks.prompt import WORD
from lib_ti.networks.prompt_files import family_of_network, metadata_of

TITLE = "Networks"
UNKNOWN = "unknown family"
UNREADABLE = "cannot be read"

log = logging.getLogger(__name__)

# As the WebUI's editor of a card has it -> as we say it.
_CHOSEN = {family.upper(): said for family, said in FAMILIES.items()}
_PLAIN = re.compile(r"[\w ./-]{1,60}")


def register() -> None:
    from modules import ui_extra_networks

    ui_extra_networks.register_page(_make_page())


def _make_page() -> Any:
    from modules import ui_extra_networks
    from modules.ui_extra_networks import quote_js

    class Page(ui_extra_networks.ExtraNetworksPage):
        def __init__(self) -> None:
            super().__init__(TITLE)
            self.allow_negative_prompt = True  # a tag there acts on that half alone

        def refresh(self) -> None:
            """The folders are read whenever the cards are made."""

        def create_item(
            self, name: str, index: int | None = None, enable_filter: bool = True
        ) -> dict[str, Any] | None:
            path = network_folders().files().get(name)
            return None if path is None else self._item(name, path, index)

        def list_items(self) -> Iterator[dict[str, Any]]:
            for index, (name, path) in enumerate(network_folders().files().items()):
                item = self._item(name, path, index)
                if _is_of_use(item["family"]):
                    yield item

        def _item(self, name: str, path: Path, index: int | None) -> dict[str, Any]:
            from modules import shared

            stem = str(path.with_suffix(""))
            metadata, family = _told_by(path)
            item = {
                "name": name,
                "filename": str(path),
                "shorthash": metadata.get("sshs_model_hash", "")[:12] or None,
                "preview": self.find_preview(stem) or self.find_embedded_preview(stem, name, metadata),
                "description": self.find_description(stem),
                "local_preview": f"{stem}.{shared.opts.samples_format}",
                "metadata": {key: _shown(value) for key, value in metadata.items()},
                "sort_keys": {"default": index, **self.get_sort_keys(str(path))},
            }
            self.read_user_metadata(item)
            own = item["user_metadata"]
            item["family"] = family = _CHOSEN.get(str(own.get("sd version")), family)
            found_by = self.search_terms_from_path(str(path)), family
            item["search_terms"] = [html.escape(term) for term in found_by]
            item["description"] = "\n".join(filter(None, [family, item["description"]]))
            weight = _weight(own.get("preferred weight"))
            words = f" {text}" if (text := own.get("activation text")) else ""
            item["prompt"] = f"{quote_js(f'<{WORD}:{name}:')} + {weight} + {quote_js('>' + words)}"
            if text := own.get("negative text"):
                item["negative_prompt"] = quote_js(f"({text}:1)")  # which a second click takes out again
            return item

        def allowed_directories_for_previews(self) -> list[str]:
            return [str(folder) for folder in network_folders().folders]

    return Page()


def _told_by(path: Path) -> tuple[dict[str, str], str]:
    """Metadata and base family of a network file, of any kind."""
    try:
        metadata = metadata_of(path)
        told = family_of_network(path)
        family = FAMILIES[told] if told else base_family(metadata)
    except BadInput as error:
        log.warning("%s", error)
        return {}, UNREADABLE
    return metadata, family


def _is_of_use(family: str) -> bool:
    """With the model that is loaded, if one is; as the WebUI's own page does, and by its own setting."""
    from modules import sd_models, shared

    model = sd_models.model_data.sd_model  # of "shared", it would be waited for
    if model is None or getattr(shared.opts, "lora_show_all", False):
        return True
    needed = FAMILIES.get(family_of(model) or "")
    return needed is None or family == needed or family not in FAMILIES.values()


def _weight(told: Any) -> str:
    """In the page's script."""
    try:
        weight = float(told or 0)
    except (TypeError, ValueError):
        weight = 0.0
    return repr(weight) if weight and math.isfinite(weight) else "opts.extra_networks_default_multiplier"


def base_family(metadata: dict[str, str]) -> str:
    """For which models the network was made, as people say it; from what trainers write."""
    told = metadata.get("modelspec.architecture", "") or metadata.get("ss_base_model_version", "")
    for mark, family in (("xl", "SDXL"), ("v2", "SD 2.x"), ("v1", "SD 1.x")):
        if mark in told:
            return family
    if metadata.get("ss_v2") == "True":
        return "SD 2.x"
    if metadata.get("ss_v2") == "False" and not told:
        return "SD 1.x"
    # The WebUI puts it into its page as it is, and a file's author may have written anything there.
    return told if _PLAIN.fullmatch(told) else UNKNOWN


def _shown(value: str) -> Any:
    """Metadata are strings; those that hold a JSON object are shown as what they hold."""
    try:
        return parse_json(value) if value.startswith("{") else value
    except ValueError:
        return value
