#!/usr/bin/env python3
"""TI Studio: teach Stable Diffusion a new word from a handful of images.

    python studio.py demo           the main job, on the model that comes with it, with pictures
    python studio.py COMMAND ...    any command of ti-studio; "python studio.py --help" lists them
    python studio.py test           the checks and tests of this project

The first start sets everything up in the folder .venv beside this file, which takes a few minutes
and the internet; later starts need neither. To remove it all, delete the folder .venv.
"""

# Needs nothing but Python. No `from __future__ import annotations` and no newer syntax, because
# a Python as old as 3.6 must get far enough to be told, in a sentence, that it is too old.
import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent
OLDEST = (3, 10)
TESTED = ((3, 10), (3, 11))

# Each group is the file requirements/<group>.txt.
GROUPS = {
    "standalone": "PyTorch and diffusers (the large part)",
    "vocabulary": "the vocabulary of CLIP",
    "dev": "the tools that test it",
}
TO_RUN = ("standalone", "vocabulary")
TO_TEST = (*TO_RUN, "dev")
PIP_OPTIONS = {
    # Wanted for one data file; what it depends on would bring a second PyTorch.
    "vocabulary": ("--no-deps",),
    # The tools must not move what the program runs on.
    "dev": ("--constraint", "requirements/standalone.txt"),
}
CHECKS = (("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",))

# Starts the command with nothing on the path that merely lies in the folder where the user stands: Python
# 3.10 knows no PYTHONSAFEPATH.
START = (
    "import sys; sys.path[:] = filter(None, sys.path); "
    "import runpy; runpy.run_module('lib_ti.cli', run_name='__main__', alter_sys=True)"
)

# Variables that would point Python or pip at another environment than ours.
ELSEWHERE = ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "PIP_USER", "PIP_TARGET", "PIP_PREFIX")

DOWNLOAD = re.compile(r"Downloading (?:\S*/)?(?P<name>\w+)-\S+ \((?P<size>\d{2,}(?:\.\d+)? [MG]B)\)")
NO_NETWORK = (
    r"ConnectionError|name resolution|getaddrinfo|[Tt]imed out|Timeout|ProxyError|SSLError"
    r"|Network is unreachable|[Cc]onnection (broken|refused|reset|aborted)"
)
REMEDIES = (
    (r"No space left|not enough space", "The disk is full: free about 8 GB, then start again."),
    (r"Permission denied|Access is denied", "This folder is write-protected: move it into your home."),
    (r"ensurepip", "This Python lacks its venv part; on Debian and Ubuntu: apt install python3-venv"),
    (NO_NETWORK, "The download did not work: check the internet connection, then start again."),
    (r"No matching distribution", "Check the internet connection; if it works, use 64-bit Python 3.11."),
)
NO_REMEDY = "Start again; if it fails in the same way, please report it together with that file."


class SetupFailed(Exception):
    """The environment could not be made; the message is for the user."""


def say(line: str) -> None:
    """To standard error: standard output belongs to the command."""
    print(line, file=sys.stderr, flush=True)


def remedy(output: str) -> str:
    """What a user can do about a set-up command that ended with ``output``."""
    return next((advice for pattern, advice in REMEDIES if re.search(pattern, output)), NO_REMEDY)


class Environment:
    """The folder .venv of one checkout.

    A stamp in it names the groups that were installed completely, each with the hash of its file.
    A folder without a stamp is a set-up that did not end: it is never used, and made anew.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / ".venv"
        self.python = self.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        self.stamp = self.folder / "installed.txt"
        self.log = self.folder / "setup.log"

    def variables(self) -> "dict[str, str]":
        """The process environment in which this checkout's package is found, and no other environment."""
        inherited = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
        return {**inherited, "PYTHONPATH": str(self.root)}

    def missing(self, groups: "tuple[str, ...]") -> "list[str]":
        """The groups that are not installed, or not as their files say now."""
        installed = self._installed()
        return [group for group in groups if installed.get(group) != self._hash(group)]

    def set_up(self, groups: "tuple[str, ...]") -> None:
        """Install what is missing. Raises SetupFailed."""
        if not self.missing(groups):
            return
        started = time.monotonic()
        try:
            with self._lock():
                self._install(groups)
        except OSError as error:
            raise SetupFailed(f"The set-up failed: {error}\n{remedy(str(error))}") from error
        say(f"Ready after {time.monotonic() - started:.0f} s.\n")

    def _install(self, groups: "tuple[str, ...]") -> None:
        say("TI Studio is being set up; this is needed once and takes a few minutes.")
        if sys.version_info[:2] not in TESTED:
            say(f"Note: Python {sys.version.split()[0]} is newer than the tested 3.10 and 3.11; trying it.")
        installed = self._installed()
        if not installed:
            self._make_folder()
        for group in self.missing(groups):
            say(f"- installing {GROUPS[group]}")
            options = PIP_OPTIONS.get(group, ())
            pip = (str(self.python), "-m", "pip", "--disable-pip-version-check", "--no-input", "install")
            self._run(*pip, *options, "--requirement", f"requirements/{group}.txt")
            installed[group] = self._hash(group)
        lines = (f"{group} {its_hash}\n" for group, its_hash in installed.items())
        self.stamp.write_text("".join(lines), encoding="utf-8")

    def _make_folder(self) -> None:
        if self.folder.exists():
            if not self.log.exists():
                raise SetupFailed(f"{self.folder} is not ours: move or delete it, then start again.")
            say("- removing what an earlier set-up left")
            shutil.rmtree(self.folder)
        self.folder.mkdir()
        say("- making a place for it: .venv")
        self._run(sys.executable, "-m", "venv", str(self.folder))

    def _run(self, *command: str) -> None:
        """One set-up command, its output kept in the log, its long parts named on the screen."""
        lines = []
        with self.log.open("a", encoding="utf-8") as log:
            process = subprocess.Popen(
                command,
                cwd=self.root,
                env=self.variables(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                close_fds=False,  # the lock
            )
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    log.write(line)
                    lines.append(line)
                    self._follow(line)
            except BaseException:
                process.kill()
                raise
            finally:
                process.wait()
        if process.returncode != 0:
            tail = "".join(f"  | {line}" for line in lines[-6:])
            raise SetupFailed(f"The set-up failed:\n{tail}All of it: {self.log}\n{remedy(''.join(lines))}")

    def _follow(self, line: str) -> None:
        download = DOWNLOAD.search(line)
        if download:
            say(f"  downloading {download['name']}, {download['size']}")
        elif line.startswith("Installing collected packages"):
            say("  unpacking")
            # From here to the end of pip the folder is half of something.
            self.stamp.unlink(missing_ok=True)

    def _hash(self, group: str) -> str:
        return hashlib.sha256((self.root / "requirements" / f"{group}.txt").read_bytes()).hexdigest()

    def _installed(self) -> "dict[str, str]":
        """The hash of each group that was installed completely, from the stamp."""
        # A Python that was uninstalled leaves a link to nothing.
        if not (self.stamp.exists() and self.python.exists()):
            return {}
        lines = self.stamp.read_text(encoding="utf-8").splitlines()
        return {group: its_hash for group, _, its_hash in (line.partition(" ") for line in lines)}

    @contextlib.contextmanager
    def _lock(self) -> "Iterator[None]":
        """Held by one set-up at a time and freed by its death."""
        with (self.root / ".venv.lock").open("a") as file:
            # What a killed set-up started may live a little longer, and holds the lock as long.
            os.set_inheritable(file.fileno(), True)
            try:
                if sys.platform == "win32":
                    import msvcrt

                    msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
                else:
                    import fcntl

                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise SetupFailed("Another start is setting this up already: wait for it.") from error
            yield


def hand_over(command: "list[str]", variables: "dict[str, str]") -> int:
    """Become ``command``, so that it gets each signal once and its exit code is ours."""
    if os.name != "nt":
        os.execve(command[0], command, variables)
    # Windows has no exec: the console sends Ctrl-C to both processes, and only the command answers it.
    signal.signal(signal.SIGINT, lambda *_: None)
    return subprocess.call(command, env=variables)


def run_tests(environment: Environment, options: "list[str]") -> int:
    """The checks, up to the first that fails; then pytest with ``options``."""
    os.chdir(environment.root)
    for check in CHECKS:
        say("> " + " ".join(check))
        code = subprocess.call([str(environment.python), "-m", *check], env=environment.variables())
        if code != 0:
            return code
    say(" ".join(["> pytest", *options]))
    return hand_over([str(environment.python), "-m", "pytest", *options], environment.variables())


def main(arguments: "list[str]", root: Path = ROOT) -> int:
    """Exit codes: the command's own; 1 where the set-up failed, 130 where it was stopped."""
    if sys.version_info < OLDEST:
        say(f"TI Studio needs Python 3.10 or 3.11, not {sys.version.split()[0]}: get 3.11 from python.org.")
        return 1
    if not arguments:
        print(__doc__)
        return 0
    environment = Environment(root)
    testing = arguments[0] == "test"
    try:
        environment.set_up(TO_TEST if testing else TO_RUN)
        if testing:
            return run_tests(environment, arguments[1:])
        variables = {**environment.variables(), "PYTHONSAFEPATH": "1"}  # for what it starts itself
        return hand_over([str(environment.python), "-c", START, *arguments], variables)
    except SetupFailed as failure:
        say(str(failure))
        return 1
    except KeyboardInterrupt:
        say("\nStopped.")
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
