"""The WebUI's hook, run as a program at each of its starts.

It changes nothing: an extension that installs or moves a version breaks other people's WebUI. What the
studio needs comes with every WebUI; what it could use besides is named here where it is missing.
"""

from __future__ import annotations

from importlib.util import find_spec

OPTIONAL = {"matplotlib": "the loss curve as a picture"}


def main() -> None:
    missing = [f"{package} ({use})" for package, use in OPTIONAL.items() if find_spec(package) is None]
    if missing:
        print(f"TI Studio: optional and not installed, all else works without: {', '.join(missing)}")


if __name__ == "__main__":
    main()
