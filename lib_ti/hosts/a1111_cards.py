"""A page of cards among the WebUI's extra networks: the networks that ``<net:...>`` can call."""

from __future__ import annotations

import html
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lib_ti.core.errors import BadInput
from lib_ti.core.files import parse_json
from lib_ti.hosts.a1111_networks import network_folders
from lib_ti.networks.prompt import WORD
from lib_ti.networks.prompt_files import metadata_of

TITLE = "Networks"
UNKNOWN = "unknown family"
UNREADABLE = "cannot be read"

log = logging.getLogger(__name__)

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
                yield self._item(name, path, index)

        def _item(self, name: str, path: Path, index: int | None) -> dict[str, Any]:
            from modules import shared

            stem = str(path.with_suffix(""))
            try:
                metadata = metadata_of(path)
                family = base_family(metadata)
            except BadInput as error:
                log.warning("%s", error)
                metadata, family = {}, UNREADABLE
            preview = self.find_preview(stem) or self.find_embedded_preview(stem, name, metadata)
            item = {
                "name": name,
                "filename": str(path),
                "shorthash": metadata.get("sshs_model_hash", "")[:12] or None,
                "preview": preview,
                "description": self.find_description(stem),
                "search_terms": [
                    html.escape(term) for term in (self.search_terms_from_path(str(path)), family)
                ],
                "local_preview": f"{stem}.{shared.opts.samples_format}",
                "metadata": {key: _shown(value) for key, value in metadata.items()},
                "sort_keys": {"default": index, **self.get_sort_keys(str(path))},
            }
            self.read_user_metadata(item)
            item["description"] = "\n".join(filter(None, [family, item["description"]]))
            told = item["user_metadata"]
            weight = told.get("preferred weight") or 0
            number = json.dumps(float(weight)) if weight else "opts.extra_networks_default_multiplier"
            words = f" {text}" if (text := told.get("activation text")) else ""
            item["prompt"] = f"{quote_js(f'<{WORD}:{name}:')} + {number} + {quote_js('>' + words)}"
            return item

        def allowed_directories_for_previews(self) -> list[str]:
            return [str(folder) for folder in network_folders().folders]

    return Page()


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
