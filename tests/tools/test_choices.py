"""What a tool offers to choose from is what its code knows: settings import none of that code."""

from __future__ import annotations

from typing import get_args

import pytest

from lib_ti.core.precision import DTYPES
from lib_ti.core.settings import options_of
from lib_ti.data.shrinking import INTERPOLATIONS
from lib_ti.data.tags import SORTS
from lib_ti.formats.embedding_layouts import LAYOUTS
from lib_ti.methods.mixing import Short
from lib_ti.methods.pruning import CRITERIA
from lib_ti.networks.svd import METHODS
from lib_ti.tools.registry import find_tool


@pytest.mark.parametrize(
    ("group", "verb", "setting", "known"),
    [
        ("embedding", "convert", "layout", ("auto", *LAYOUTS)),
        ("embedding", "convert", "precision", tuple(DTYPES)),
        ("embedding", "merge", "short", get_args(Short)),
        ("embedding", "mix", "short", get_args(Short)),
        ("embedding", "prune", "criterion", CRITERIA),
        ("images", "edit-captions", "sort", SORTS),
        ("images", "resize", "interpolation", tuple(INTERPOLATIONS)),
        ("lora", "merge", "save_precision", ("as read", *DTYPES)),
        ("lora", "resize", "method", tuple(METHODS)),
    ],
)
def test_all_of_them(group: str, verb: str, setting: str, known: tuple[str, ...]) -> None:
    assert options_of(find_tool(group, verb).settings)[setting][1].choices == known
