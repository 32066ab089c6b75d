"""The settings of what a file says of itself."""

from __future__ import annotations

from dataclasses import dataclass

from lib_ti.core.settings import option

_KEYS = ("title", "author", "description", "license", "tags")


@dataclass(frozen=True)
class MetadataSettings:
    """What is written into the files that a job makes, by the modelspec standard
    (Stability-AI/ModelSpec)."""

    metadata_title: str = option("", "Title in the file; empty: its name.", group="saving")
    metadata_author: str = option("", "Author in the file.", group="saving")
    metadata_description: str = option("", "Description in the file.", group="saving")
    metadata_license: str = option("", "License in the file.", group="saving")
    metadata_tags: str = option("", "Tags in the file, separated by commas.", group="saving")
    training_comment: str = option("", "A note for the file.", group="saving", label="Comment in the file")

    @property
    def metadata(self) -> dict[str, str]:
        """Those that were given, by their keys in a file."""
        told = {f"modelspec.{key}": getattr(self, f"metadata_{key}") for key in _KEYS}
        told["ss_training_comment"] = self.training_comment
        return {key: text for key, text in told.items() if text}
