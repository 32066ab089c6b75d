"""What a network's file says of the pictures it was trained on, by sd-scripts' keys."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping

from lib_ti.data.captions import tags_of
from lib_ti.data.samples import TrainingSet


def picture_metadata(samples: TrainingSet) -> dict[str, str]:
    """Folders by name, pictures and tags by number. Repeats count as pictures, but not as tags."""
    tags: dict[str, Counter[str]] = {}
    folders: dict[bool, dict[str, dict[str, int]]] = {False: {}, True: {}}
    held = frozenset(samples.held)
    for row, (subset, caption) in enumerate(zip(samples.subsets, samples.captions, strict=True)):
        if row in held:
            continue
        name = subset.folder.name
        of_folder = folders[subset.regularisation].setdefault(
            name, {"n_repeats": subset.repeats, "img_count": 0}
        )
        of_folder["img_count"] += 1
        if not subset.regularisation:
            found = tags_of(caption.replace("[name]", samples.trigger), subset.captions.separator)
            tags.setdefault(name, Counter()).update(tag.lower() for tag in found)
    return {
        "ss_num_train_images": str(_shown(folders[False])),
        "ss_num_validation_images": str(len(held)),
        "ss_num_reg_images": str(_shown(folders[True])),
        "ss_dataset_dirs": json.dumps(folders[False], ensure_ascii=False),
        "ss_reg_dataset_dirs": json.dumps(folders[True], ensure_ascii=False),
        "ss_tag_frequency": json.dumps(tags, ensure_ascii=False),
    }


def _shown(folders: Mapping[str, Mapping[str, int]]) -> int:
    return sum(folder["n_repeats"] * folder["img_count"] for folder in folders.values())
