"""A merged checkpoint draws what the network draws that is loaded beside the original one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lib_ti.cli import main
from lib_ti.networks.tools.saving import save_network
from tests.networks.tools.made import BUILTIN, builtin, in_float, lora


def test_merged_and_loaded_draw_the_same_picture(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    from lib_ti.hosts.base import SampleRequest
    from lib_ti.hosts.standalone import StandaloneHost
    from lib_ti.networks.attach import attach

    base, file, new = in_float(tmp_path), tmp_path / "net.safetensors", tmp_path / "new.safetensors"
    base.with_suffix(".yaml").write_bytes(BUILTIN.with_suffix(".yaml").read_bytes())
    save_network(file, lora(builtin()).updates, None, {})
    assert main(["lora", "merge-into-checkpoint", str(base), str(file), str(new), "--ratios", "0.7"]) == 0

    def draw(host: StandaloneHost) -> np.ndarray:
        with host.lend():
            picture = host.sample(SampleRequest(["a red circle"], [3], steps=6, width=64, height=64))[0]
        return np.asarray(picture, dtype=np.float32) / 255

    host = StandaloneHost.load(str(base), "cpu")
    plain = draw(host)
    with attach(host, file, 0.7) as attached:
        assert not attached.unmatched
        loaded = draw(host)
    merged = draw(StandaloneHost.load(str(new), "cpu"))
    assert np.abs(merged - loaded).mean() < 1e-3 and np.abs(merged - loaded).max() < 1.5 / 255
    assert np.abs(merged - plain).mean() > 0.01
