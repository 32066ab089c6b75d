"""Every tool there is, by the group that page, HTTP and command line show it in."""

from __future__ import annotations

from lib_ti.core.errors import BadInput
from lib_ti.core.nearest import perhaps
from lib_ti.tools import card_tools, embedding_tools, image_tools, network_tools
from lib_ti.tools.tool import Tool

# The groups in the order of a page, and what it calls them.
GROUPS = {"card": "Cards", "images": "Data sets", "embedding": "Embeddings", "lora": "LoRAs"}
TOOLS: tuple[Tool, ...] = (
    *embedding_tools.TOOLS,
    *image_tools.TOOLS,
    *card_tools.TOOLS,
    *network_tools.TOOLS,
)


def tools_of(group: str) -> list[Tool]:
    return [tool for tool in TOOLS if tool.group == group]


def find_tool(group: str, name: str) -> Tool:
    """Raises BadInput where there is none."""
    for tool in TOOLS:
        if (tool.group, tool.name) == (group, name):
            return tool
    names = [f"{tool.group} {tool.name}" for tool in TOOLS]
    raise BadInput(
        f"there is no tool {group} {name}; there are {', '.join(names)}{perhaps(f'{group} {name}', names)}."
    )
