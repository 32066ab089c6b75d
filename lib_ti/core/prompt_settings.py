"""The settings of how prompts are read while a job trains."""

from __future__ import annotations

from dataclasses import dataclass

from lib_ti.core.settings import option


@dataclass(frozen=True)
class PromptSettings:
    """How prompts are read. Previews are drawn as the program always draws, whatever these say."""

    emphasis: str = option(
        "webui",
        "What brackets in captions and templates mean. webui: emphasis, as the program reads them; none: "
        "nothing, they are signs like others; sd-scripts: emphasis by that program's rules (weights without "
        "a mean kept, no BREAK).",
        group="pictures",
        choices=("webui", "none", "sd-scripts"),
        label="Brackets in prompts",
    )
    max_token_length: int = option(
        0,
        "Cut prompts after 75, 150 or 225 tokens, and read longer ones in sd-scripts' chunks; 0: any length, "
        "in the WebUI's chunks.",
        group="pictures",
        low=0,
        high=225,
        unit="tokens",
    )
