"""The options of sd-scripts' textual inversion, and what becomes of each in ``ti-studio train``.

Source of the options: kohya-ss/sd-scripts, train_textual_inversion.py and sdxl_train_textual_inversion.py.
"""

from __future__ import annotations

from collections.abc import Mapping

from lib_ti.commands.sd_scripts_entry import Entry, Ours
from lib_ti.commands.sd_scripts_learning import LEARNING
from lib_ti.commands.sd_scripts_machine import MACHINE
from lib_ti.commands.sd_scripts_model import EMBEDDING, MODEL
from lib_ti.commands.sd_scripts_pictures import PICTURES
from lib_ti.commands.sd_scripts_saving import SAVING

# In the order in which they are translated: of two that set the same option of ours the later one wins.
OPTIONS: Mapping[str, Entry] = {
    **MODEL, **EMBEDDING, **PICTURES, **LEARNING, **MACHINE, **SAVING,
}  # fmt: skip

# Options that mean something together which there is no saying here, and what to do instead.
NOT_TOGETHER = (("save_every_n_steps", "save_every_n_epochs", "choose one of the two"),)

# What sd-scripts does where it is told nothing.
DEFAULTS: Ours = {
    "--prediction": "eps",
    "--steps": "1600",
    "--learning-rate": "2e-6",
    "--batch-size": "1",
    "--accumulation": "1",
    "--clip": "norm",
    "--clip-at": "1.0",
    "--vectors": "1",
    "--init": "random",
    "--template": "captions",
    "--caption-extension": ".caption",
    "--emphasis": "none",
    "--max-token-length": "75",
    "--no-normalise-masks": "",
    "--no-buckets": "",
    "--weighting": "none",
    "--copy-every": "0",
    "--preview-every": "0",
    "--overwrite": "",
}
