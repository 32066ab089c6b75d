"""What a network's file says of its pictures."""

from __future__ import annotations

import json
from pathlib import Path

from lib_ti.core.train_settings import TrainSettings
from lib_ti.data.captions import CaptionRules
from lib_ti.data.dataset import Subset
from lib_ti.data.latents import LatentCache
from lib_ti.data.samples import TrainingSet
from lib_ti.methods.picture_metadata import picture_metadata


def test_tags_are_counted_by_folder_as_sd_scripts_does() -> None:
    own = Subset(Path("/home/me/10_my cat"), repeats=10)
    other = Subset(Path("/home/me/two"), captions=CaptionRules(separator=";"))
    regular = Subset(Path("/home/me/1_cat"), regularisation=True)
    captions = ["[name], Red ,, a cat", "red, ねこ", "red; a, b", "private"]
    subsets = [own, own, other, regular]
    samples = TrainingSet(
        LatentCache([], []), captions, ["[filewords]"], "zqx", TrainSettings(), subsets=subsets
    )
    said = picture_metadata(samples)
    assert json.loads(said["ss_tag_frequency"]) == {
        "10_my cat": {"zqx": 1, "red": 2, "a cat": 1, "ねこ": 1},
        "two": {"red": 1, "a, b": 1},
    }
    assert json.loads(said["ss_dataset_dirs"]) == {
        "10_my cat": {"n_repeats": 10, "img_count": 2},
        "two": {"n_repeats": 1, "img_count": 1},
    }
    assert json.loads(said["ss_reg_dataset_dirs"]) == {"1_cat": {"n_repeats": 1, "img_count": 1}}
    assert (said["ss_num_train_images"], said["ss_num_reg_images"]) == ("21", "1")
    assert "/home" not in "".join(said.values())
