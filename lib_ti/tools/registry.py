"""Every tool there is, by the group that page, HTTP and command line show it in."""

from __future__ import annotations

from lib_ti.core.errors import BadInput
from lib_ti.tools import (
    captions,
    cards,
    choosing,
    describing,
    embedding_files,
    embedding_import,
    embedding_vectors,
    embeddings,
    images,
    network_merging,
    network_ranks,
    networks,
    resizing,
)
from lib_ti.tools.tool import Tool

# The groups in the order of a page, and what it calls them.
GROUPS = {"card": "Cards", "images": "Data sets", "embedding": "Embeddings", "lora": "LoRAs"}
TOOLS: tuple[Tool, ...] = (
    *embeddings.TOOLS,
    *embedding_import.TOOLS,
    *embedding_files.TOOLS,
    *embedding_vectors.TOOLS,
    *images.TOOLS,
    *describing.TOOLS,
    *captions.TOOLS,
    *choosing.TOOLS,
    *resizing.TOOLS,
    *cards.TOOLS,
    *networks.TOOLS,
    *network_merging.TOOLS,
    *network_ranks.TOOLS,
)


def tools_of(group: str) -> list[Tool]:
    return [tool for tool in TOOLS if tool.group == group]


def find_tool(group: str, name: str) -> Tool:
    """Raises BadInput where there is none."""
    for tool in TOOLS:
        if (tool.group, tool.name) == (group, name):
            return tool
    raise BadInput(
        f"there is no tool {group} {name}; there are {', '.join(f'{t.group} {t.name}' for t in TOOLS)}."
    )
