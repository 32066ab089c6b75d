"""sd-scripts' options of where a network's training begins, and of the pictures it is validated on.

Source: kohya-ss/sd-scripts, train_network.py.
"""

from __future__ import annotations

from collections.abc import Mapping

from lib_ti.commands.sd_scripts_entry import Entry, Ours, becomes, number
from lib_ti.core.errors import BadInput

BEGINNING: Mapping[str, Entry] = {
    "initial_step": Entry(),  # see beginning_of
    "initial_epoch": Entry(),
    "skip_until_initial_step": Entry(switch=True),
}
VALIDATION: Mapping[str, Entry] = {
    "validation_split": becomes("--validation-split"),
    "validation_seed": becomes("--validation-seed"),
    "validate_every_n_steps": becomes("--evaluate-every"),
    "validate_every_n_epochs": becomes("--evaluate-every-epochs"),
    "max_validation_steps": Entry(),  # see validation_of
}


def beginning_of(given: Mapping[str, str]) -> tuple[Ours, list[str]]:
    """The steps that are left out at the beginning, and what to say of them. Raises BadInput."""
    named = next((option for option in ("initial_step", "initial_epoch") if option in given), None)
    if named is None:
        return {}, []
    place = number(named, given[named])
    if place < 0 or place % 1:
        raise BadInput(f"--{named}={given[named]}: expected a whole number.")
    said = []
    if "initial_step" in given and "initial_epoch" in given:
        said.append("--initial_epoch: as there, --initial_step takes its place")
    if "skip_until_initial_step" not in given:
        said.append(
            f"--{named}: it begins as with --skip_until_initial_step, at that very step; without that, "
            "sd-scripts begins at the epoch it is in, and counts from 0"
        )
    if named == "initial_epoch":
        return {"--initial-epochs": str(max(0, int(place) - 1))}, said
    return {"--initial-step": str(int(place))}, said


def validation_of(given: Mapping[str, str]) -> tuple[Ours, list[str]]:
    """How often and how many of the pictures held out are looked at, and what to say. A data set file may
    hold some out too; without those of either nothing is looked at."""
    share = number("validation_split", given.get("validation_split", "0"))
    if not 0 <= share <= 1:
        return {"--validation-split": "0"}, ["--validation_split: as there, what is no share is passed over"]
    asked = [option for option in ("validate_every_n_steps", "validate_every_n_epochs") if option in given]
    if not share and "dataset_config" not in given:
        nothing = {"--evaluate-every": "0", "--evaluate-every-epochs": "0"} if asked else {}
        return nothing, [
            f"--{option}: without --validation_split there is nothing to look at" for option in asked
        ]
    often = {} if asked else {"--evaluate-every-epochs": "1"}
    if "max_validation_steps" not in given:
        return {**often, "--evaluate-pictures": "0"}, []
    batches = number("max_validation_steps", given["max_validation_steps"])
    size = number("train_batch_size", given.get("train_batch_size", "1"))
    return {**often, "--evaluate-pictures": str(int(batches * size))}, []
