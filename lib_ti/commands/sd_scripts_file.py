"""Options of sd-scripts in a file: its ``--config_file options.toml``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib_ti.commands.sd_scripts_entry import Entry, unknown_option
from lib_ti.core.errors import BadInput
from lib_ti.core.files import parse_toml, read_text


def read_options(name: str, known: Mapping[str, Entry]) -> dict[str, str]:
    """The options that the file gives, as they are parsed from a command line. Tables only arrange them.

    Raises BadInput for what cannot be read, and by its key for what is not known.
    """
    path = Path(name if name.endswith(".toml") else f"{name}.toml").expanduser()
    try:
        tables = parse_toml(read_text(path))
    except ValueError as error:
        raise BadInput(f"--config_file={name} cannot be read ({error}); mend it, or leave it out.") from error
    flat: dict[str, Any] = {}
    for key, value in tables.items():
        flat |= value if isinstance(value, dict) else {key: value}
    found = {}
    for key, value in flat.items():
        if key == "config_file" or value is False or value in ("", []):
            continue  # to sd-scripts an empty value is none
        if key not in known:
            raise BadInput(f"--config_file={name}: {unknown_option(key, known)}")
        found[key] = _text(f"--config_file={name}: {key}", value, known[key])
    return found


def _text(where: str, value: Any, entry: Entry) -> str:
    if entry.switch:
        if value is not True:
            raise BadInput(f"{where}: got {value!r}, expected true or false.")
        return ""
    values = value if isinstance(value, list) and entry.several else [value]
    if not all(isinstance(one, str | int | float) and not isinstance(one, bool) for one in values):
        wanted = "text or numbers, in a list" if entry.several else "text or a number"
        raise BadInput(f"{where}: got {value!r}, expected {wanted}.")
    return "\n".join(map(str, values))
