"""A real AUTOMATIC1111 WebUI as a program of its own, driven over HTTP: what its figures and tests need."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_ti.core.errors import BadInput, StudioError

# On a processor, in full precision, offline, with nothing installed or downloaded.
FLAGS = (
    "--skip-prepare-environment",
    "--skip-torch-cuda-test",
    "--skip-version-check",
    "--no-download-sd-model",
    "--do-not-download-clip",
    "--use-cpu=all",
    "--no-half",
    "--precision=full",
    "--api",
)
START_SECONDS = 300
API = "/ti-studio/v1"  # of this extension
ANSWER_SECONDS = 3600


class Refused(StudioError):
    """The program answered with an error. ``status``: HTTP's; ``body``: the answer, from JSON."""

    def __init__(self, path: str, status: int, body: Any) -> None:
        super().__init__(f"{path}: {status} {body}")
        self.status, self.body = status, body


@dataclass(frozen=True)
class WebUI:
    """The running program. ``data``: its folder for models, embeddings and extensions."""

    url: str
    data: Path
    process: subprocess.Popen[bytes]
    log: Path

    def call(self, path: str, body: Mapping[str, Any] | None = None, headers: Mapping[str, str] = {}) -> Any:
        """What the program answers, from JSON; a POST where there is a ``body``. Raises Refused."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data, {"Content-Type": "application/json", **headers}
        )
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            raise Refused(path, error.code, json.loads(text) if text[:1] in "{[" else text) from error

    def txt2img(self, prompt: str, **more: Any) -> bytes:
        """One picture, as PNG."""
        return self.txt2img_all(prompt, **more)[0]

    def txt2img_all(self, prompt: str, **more: Any) -> list[bytes]:
        """All pictures, after a grid of them where the WebUI is to give one."""
        body = {"prompt": prompt, "seed": 7, "steps": 4, "width": 64, "height": 64, "cfg_scale": 5, **more}
        return [base64.b64decode(image) for image in self.call("/sdapi/v1/txt2img", body)["images"]]

    def log_tail(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]


def find_webui() -> Path:
    """The folder of an installed WebUI. Raises BadInput where there is none."""
    folder = Path(os.environ.get("WEBUI_DIR", "~/stable-diffusion-webui")).expanduser()
    if not (folder / "launch.py").is_file():
        raise BadInput(f"no WebUI in {folder}; name the folder of one in WEBUI_DIR.")
    return folder


@contextmanager
def running_webui(
    data: Path, flags: Sequence[str] = (), ready: str = "/sdapi/v1/samplers"
) -> Iterator[WebUI]:
    """The installed WebUI on a free port, with ``data`` as its data folder, until the context ends.

    Raises BadInput where none is installed, StudioError with the end of its log where it does not start.
    """
    folder = find_webui()
    python = os.environ.get("WEBUI_PYTHON") or str(folder / "venv" / "bin" / "python")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = data / "log.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [python, "-u", "launch.py", *FLAGS, *flags, f"--port={port}", f"--data-dir={data}"],
            cwd=folder,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    webui = WebUI(f"http://127.0.0.1:{port}", data, process, log)
    try:
        _wait(webui, ready)
        yield webui
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait(webui: WebUI, ready: str) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and webui.process.poll() is None:
        # A request before it has set up its server can end it.
        if "Startup time" not in webui.log.read_text(errors="replace"):
            time.sleep(0.5)
            continue
        try:
            webui.call(ready)
        except Refused as error:
            if error.status == 401:
                return  # it asks who we are, so it is there
            time.sleep(0.5)
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise StudioError(f"the WebUI did not start:\n{webui.log_tail()}")
