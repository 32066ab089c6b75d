"""What network files hold and say of themselves."""

from __future__ import annotations

from pathlib import Path

from lib_ti.networks.applied import notes_of
from lib_ti.networks.files import read_network
from lib_ti.networks.prompt_metadata import metadata_shown, save_metadata_text
from lib_ti.networks.tools.describe import describe
from lib_ti.tools.network_tools import InspectSettings, MetadataSettings
from lib_ti.tools.tool import Answer, Context


def inspect(settings: InspectSettings, context: Context) -> Answer:
    network = read_network(Path(settings.file))
    found = describe(network)
    layers = found.pop("layers")
    if settings.layers:
        found["layers"] = [{"layer": name, **told} for name, told in layers.items()]
    algorithms = " and ".join(found["algorithms"])
    rank = f" of rank {next(iter(found['ranks']))}" if len(found["ranks"]) == 1 else ""
    family = f"for {found['family']}" if found["family"] else "it does not say for which family"
    sentence = f"{found['name']}: {algorithms}{rank} in {found['modules']} layers; {family}."
    return Answer(sentence, found, notes=notes_of(network))


def edit_metadata(settings: MetadataSettings, context: Context) -> Answer:
    """What is not changed keeps its very text, and the tensors every byte."""
    path = Path(settings.file)
    if not settings.metadata.strip():
        return Answer(f"What {path.name} says of itself.", {"metadata": metadata_shown(path)})
    save_metadata_text(path, settings.metadata)
    return Answer(f"Saved into {path}.", {"metadata": metadata_shown(path)}, (path,))
