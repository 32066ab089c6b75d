"""What network files hold and say of themselves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lib_ti.core.settings import option
from lib_ti.networks.files import read_network
from lib_ti.networks.prompt_metadata import metadata_shown, save_metadata_text
from lib_ti.networks.tools.describe import describe
from lib_ti.tools import network_options as options
from lib_ti.tools.tool import Answer, Context, Tool


@dataclass(frozen=True)
class InspectSettings:
    file: str = options.network("The network to look into.")
    layers: bool = options.layers()


def inspect(settings: InspectSettings, context: Context) -> Answer:
    found = describe(read_network(Path(settings.file)))
    layers = found.pop("layers")
    if settings.layers:
        found["layers"] = [{"layer": name, **told} for name, told in layers.items()]
    algorithms = " and ".join(found["algorithms"])
    rank = f" of rank {next(iter(found['ranks']))}" if len(found["ranks"]) == 1 else ""
    family = f"for {found['family']}" if found["family"] else "it does not say for which family"
    sentence = f"{found['name']}: {algorithms}{rank} in {found['modules']} layers; {family}."
    return Answer(sentence, found)


@dataclass(frozen=True)
class MetadataSettings:
    file: str = options.network("The network whose metadata are changed.")
    metadata: str = option(
        "", "All of them, as one JSON object; empty: only tell what they are now.", group="file"
    )


def edit_metadata(settings: MetadataSettings, context: Context) -> Answer:
    """What is not changed keeps its very text, and the tensors every byte."""
    path = Path(settings.file)
    if not settings.metadata.strip():
        return Answer(f"What {path.name} says of itself.", {"metadata": metadata_shown(path)})
    save_metadata_text(path, settings.metadata)
    return Answer(f"Saved into {path}.", {"metadata": metadata_shown(path)}, (path,))


TOOLS = (
    Tool("lora", "inspect", "what a network file holds", InspectSettings, inspect),
    Tool("lora", "edit-metadata", "what a network file says of itself", MetadataSettings, edit_metadata),
)
