"""The arrows of the design: scripts, ui, cli -> hosts, methods -> networks, data, formats -> core."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lib_ti"

MIDDLE = {"networks", "data", "formats"}
BELOW_HOSTS = {"core", *MIDDLE, "methods"}
# What each package, or module beside the packages, may import of ours apart from itself.
MAY_IMPORT = {
    "core": set(),
    "networks": {"core", "formats"},
    "data": {"core"},
    "formats": {"core"},
    "methods": {"core", *MIDDLE},
    "hosts": {"core", *MIDDLE},
    "job_memory": BELOW_HOSTS,
    "job_run": {*BELOW_HOSTS, "job_memory"},
    "regularisation": BELOW_HOSTS,
    "job_cards": {*BELOW_HOSTS, "job_run"},
    "jobs": {*BELOW_HOSTS, "job_cards", "job_memory", "job_run", "regularisation"},
    "runs": {*BELOW_HOSTS, "job_run"},
    "report": {"core", "formats"},
    "tools": BELOW_HOSTS,
    "tinyworld": {*BELOW_HOSTS, "hosts"},
    "bench": {*BELOW_HOSTS, "hosts", "job_memory", "job_run", "jobs", "report", "runs", "tinyworld"},
    "job_queue": {*BELOW_HOSTS, "job_run", "jobs", "runs"},
    "workshop": {*BELOW_HOSTS, "job_queue", "jobs", "runs", "tools"},
    "api": {"core", "methods", "job_run", "tools", "workshop"},
    "ui": {"core", "networks", "methods", "runs", "tools", "workshop"},
    "webui": {"hosts", "workshop", "api", "ui"},
    "commands": {*BELOW_HOSTS, "hosts", "job_run", "jobs", "report", "tinyworld", "tools", "bench"},
    "cli": {"core", "commands"},
}
# The protocol itself imports no host, so what works with any host may speak of it.
SEAM = "lib_ti.hosts.base"
MAY_IMPORT_SEAM = {
    "methods",
    "tools",
    "job_memory",
    "regularisation",
    "job_cards",
    "job_run",
    "jobs",
    "job_queue",
    "workshop",
}

HOSTLESS = {
    "core",
    *MIDDLE,
    "methods",
    "job_memory",
    "job_cards",
    "regularisation",
    "job_run",
    "jobs",
    "runs",
    "job_queue",
    "tools",
    "workshop",
    "api",
}
# Who may import a host, and which. A WebUI's own modules are for its adapter alone.
HOST_MODULES = {
    "diffusers": {"hosts", "tinyworld", "bench"},
    "gradio": {"ui", "webui"},
    "modules": {"hosts", "bench"},
    "backend": {"hosts"},
    "launch": set(),
}
CORE_PACKAGES = {"torch", "numpy", "safetensors", *sys.stdlib_module_names}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path) -> Iterator[str]:
    """The full name of every module that the file imports, wherever in it the import stands; also of those
    that it names for a ``Later``."""
    package = path.relative_to(ROOT).parent.parts
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    if any(isinstance(node, ast.Name) and node.id == "Later" for node in nodes):
        named = [node.value for node in nodes if isinstance(node, ast.Constant)]
        yield from (name for name in named if isinstance(name, str) and is_module(name))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            source = ".".join((*start, *filter(None, [node.module])))
            # "from lib_ti import core" and "from . import x" import modules too.
            yield from (
                f"{source}.{alias.name}" if is_module(f"{source}.{alias.name}") else source
                for alias in node.names
            )


def is_module(name: str) -> bool:
    if not name.startswith("lib_ti."):
        return False
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def layer_of(path: Path) -> str:
    """The package right below ours, or the module beside those."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def is_allowed(layer: str, name: str) -> bool:
    first, *rest = name.split(".")
    if first == "lib_ti":
        seam = layer in MAY_IMPORT_SEAM and name == SEAM
        return seam or not rest or rest[0] in MAY_IMPORT[layer] | {layer}
    if first in HOST_MODULES:
        return layer in HOST_MODULES[first]
    return layer != "core" or first in CORE_PACKAGES


def wrong_imports(path: Path) -> list[str]:
    """The imports of a file of ours that go against the arrows."""
    return [name for name in imports_of(path) if not is_allowed(layer_of(path), name)]


SOURCES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_arrows_point_one_way(path: Path) -> None:
    assert wrong_imports(path) == []


def test_the_package_itself_is_empty() -> None:
    """Whoever imports a part of it imports nothing else."""
    assert list(imports_of(PACKAGE / "__init__.py")) == []


def test_the_seam_imports_no_host() -> None:
    imported = {name.split(".")[0] for name in imports_of(PACKAGE / "hosts" / "base.py")}
    assert imported.isdisjoint(HOST_MODULES)


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("core/x.py", "import PIL"),
        ("core/x.py", "def f():\n    from ..methods import y"),
        ("core/x.py", "from lib_ti import data"),
        ("data/x.py", "from lib_ti.formats import y"),
        ("networks/x.py", "import diffusers.models"),
        ("methods/x.py", "from lib_ti.hosts.standalone import y"),
        ("methods/x.py", "from modules import shared"),
        ("hosts/x.py", "import gradio as gr"),
        ("hosts/x.py", "from ..methods import y"),
        ("jobs.py", "from lib_ti.hosts.standalone import StandaloneHost"),
        ("core/x.py", "y = Later('lib_ti.data', 'z')"),
    ],
)
def test_a_wrong_import_is_seen(
    file: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("ROOT", tmp_path), ("PACKAGE", tmp_path / "lib_ti")):
        monkeypatch.setitem(globals(), name, value)
    for package in MAY_IMPORT:
        (tmp_path / "lib_ti" / package).mkdir(parents=True)
    path = tmp_path / "lib_ti" / file
    path.write_text(line, encoding="utf-8")
    assert len(wrong_imports(path)) == 1


LOUD = """
import logging, torch
torch.nn.Module.half = None
logging.basicConfig()
torch.manual_seed(0)
import gradio
"""


def import_bare(*modules: str, path: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Import ``modules`` from ``path`` in a new interpreter that refuses every host."""
    return subprocess.run(
        [sys.executable, str(ROOT / "tests" / "import_bare.py"), ",".join(HOST_MODULES), *modules],
        env={**os.environ, "PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_importing_leaves_no_trace() -> None:
    """Without any host, and with no line, no patch, no setting and no random number drawn."""
    done = import_bare(*(module_name(path) for path in SOURCES if layer_of(path) in HOSTLESS))
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_a_trace_is_seen(tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text(LOUD, encoding="utf-8")
    assert import_bare("loud", path=tmp_path).stdout.splitlines() == [
        "loud: gradio is refused",
        "patched: Module.half",
        "changed: logging",
        "changed: torch random",
    ]
