"""The workshop over HTTP, under /ti-studio/v1/: the same settings, checks and sentences as everywhere."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Body, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from fastapi.routing import APIRoute
from PIL import Image
from starlette.requests import ClientDisconnect

from lib_ti.core import limits
from lib_ti.core.errors import BadInput, QueueFull, StudioError
from lib_ti.core.settings import json_schema
from lib_ti.job_run import told_files
from lib_ti.methods.kind import Kind
from lib_ti.methods.registry import DEFAULT, KINDS
from lib_ti.tools.registry import TOOLS
from lib_ti.tools.tool import Tool
from lib_ti.workshop import Workshop

PREFIX = "/ti-studio/v1"
SETTINGS = Body(...)  # as a default: the FastAPI of AUTOMATIC1111's WebUI is older than Annotated


MAX_BODY = limits.CARD_FILE * 4 // 3 + (1 << 20)  # bytes: a card in base64, and settings
Guard = Callable[[Request], None]


class _Json(JSONResponse):
    """Also of numbers that are not finite, as null, and of paths that are no UTF-8."""

    def render(self, content: Any) -> bytes:
        try:
            text = json.dumps(content, allow_nan=False)
        except ValueError:
            text = json.dumps(_finite(content))
        return text.encode()


def _finite(told: Any) -> Any:
    if isinstance(told, dict):
        return {key: _finite(value) for key, value in told.items()}
    if isinstance(told, list | tuple):
        return list(map(_finite, told))
    return None if isinstance(told, float) and not math.isfinite(told) else told


class _TooLong(Exception):
    """A body of more than ``MAX_BODY`` bytes."""


def _route_class(guard: Guard) -> type[APIRoute]:
    """Routes that let nobody through but whom ``guard`` does, before a byte of the body is read, and read no
    more of it than ``MAX_BODY``. A sentence instead of a traceback: 422 for what was given, 429 where there
    is no room for it now, 500 for what went wrong."""

    class Route(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def told(request: Request) -> Response:
                guard(request)
                try:
                    return await handle(await _with_body(request) if self.body_field else request)
                except _TooLong:
                    return _error(f"the body is too long; at most {MAX_BODY} bytes are read.", 413)
                except ClientDisconnect:
                    return _error("the body came to no end.", 400)
                except StudioError as error:
                    return _error(str(error), _code(error))

            return told

    return Route


def _code(error: StudioError) -> int:
    if isinstance(error, QueueFull):
        return 429
    return 422 if isinstance(error, BadInput) else 500


def _error(sentence: str, code: int) -> JSONResponse:
    return _Json({"error": sentence}, status_code=code)


async def _with_body(request: Request) -> Request:
    """The request, its body read and counted, whatever it says of its length. Raises _TooLong."""
    said = request.headers.get("content-length", "0")
    if not said.isdecimal() or len(said) > 18 or int(said) > MAX_BODY:
        raise _TooLong
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            raise _TooLong

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": bytes(body), "more_body": False}

    return Request(request.scope, receive)


def _settings_body(needed: list[str]) -> dict[str, Any]:
    """What OpenAPI tells of a request whose body are settings, of whichever method it names."""
    schema = {"oneOf": [_settings_schema(kind, needed) for kind in KINDS.values()]}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _settings_schema(kind: Kind, needed: list[str]) -> dict[str, Any]:
    schema = json_schema(kind.settings)
    method = {"type": "string", "enum": [kind.name]}
    required = needed if kind.name == DEFAULT else ["method", *needed]
    properties = {"method": method, **schema["properties"]}
    return {**schema, "title": kind.title, "properties": properties, "required": required}


# Not coroutines: FastAPI runs plain functions in threads of their own, so that none keeps others waiting.
def make_router(workshop: Workshop, guard: Guard) -> APIRouter:
    """Routes to ``workshop``, for those whom ``guard`` lets through."""
    router = APIRouter(
        prefix=PREFIX,
        tags=["TI Studio"],
        route_class=_route_class(guard),
        default_response_class=_Json,
    )
    _offer_files(router, workshop)
    _offer_jobs(router, workshop)
    _offer_works(router, workshop)
    for tool in TOOLS:
        _offer_tool(router, workshop, tool)
    return router


def _offer_files(router: APIRouter, workshop: Workshop) -> None:
    """What a job starts from."""

    @router.get("/embeddings")
    def list_embeddings() -> list[dict[str, Any]]:
        """What lies in the embeddings folder."""
        return workshop.embeddings()

    @router.post("/embeddings", openapi_extra=_settings_body(["name"]))
    def create_embedding(settings: dict[str, Any] = SETTINGS) -> dict[str, Any]:
        """Write the embedding, or the two, of a job that has not begun."""
        return told_files(workshop.create(settings))

    @router.post("/suggest", openapi_extra=_settings_body(["images"]))
    def suggest(settings: dict[str, Any] = SETTINGS) -> list[dict[str, Any]]:
        """Words of the model for the init text, the likeliest first, and their losses on the pictures."""
        return [asdict(suggestion) for suggestion in workshop.suggest(settings)]

    @router.get("/templates")
    def list_templates() -> list[str]:
        """The prompt templates to choose from."""
        return workshop.templates()


def _offer_jobs(router: APIRouter, workshop: Workshop) -> None:
    """Jobs, from the start to what comes of them."""

    @router.get("/jobs")
    def list_jobs() -> dict[str, Any]:
        """The ids of all jobs, the newest first, of the one that runs, and of those that wait, the next
        first."""
        current = workshop.current()
        running = current if current and workshop.status(current).running else None
        return {"jobs": workshop.jobs(), "running": running, "waiting": workshop.waiting()}

    @router.post("/jobs", status_code=202, openapi_extra=_settings_body(["name"]))
    def train(settings: dict[str, Any] = SETTINGS) -> dict[str, Any]:
        """Start a job; it waits until those before it have ended and the model is free. 429: so many wait
        that no more are taken."""
        return {"job": workshop.train(settings)}

    @router.get("/jobs/{job}")
    def status(job: str) -> dict[str, Any]:
        """How a job stands, or how it ended."""
        return workshop.status(job).as_json()

    @router.get("/jobs/{job}/losses")
    def losses(job: str) -> list[tuple[int, float, float]]:
        """Step, loss and learning rate of every step so far."""
        return workshop.losses(job)

    @router.get("/jobs/{job}/samples/{name}", response_class=FileResponse)
    def sample(job: str, name: str) -> FileResponse:
        """A preview picture."""
        return FileResponse(workshop.sample(job, name), media_type="image/png")

    @router.post("/jobs/{job}/interrupt")
    def interrupt(job: str, publish: bool = False) -> dict[str, Any]:
        """Stop a job after its present step; ``publish`` puts what it has into the embeddings folder."""
        workshop.stop(job, publish=publish)
        return {"job": job}

    @router.post("/jobs/{job}/resume", status_code=202)
    def resume(job: str) -> dict[str, Any]:
        """Go on with a job that was stopped, failed or was broken off."""
        return {"job": workshop.resume(job)}

    @router.post("/jobs/{job}/publish")
    def publish(job: str, step: int) -> dict[str, Any]:
        """Put a saved step into the embeddings folder."""
        return told_files(workshop.publish(job, step))


def _offer_works(router: APIRouter, workshop: Workshop) -> None:
    """Tools at work, from whichever door."""

    @router.get("/tools")
    def works() -> list[dict[str, Any]]:
        """How far each tool is that is at work now and takes its time."""
        return [{"tool": work.name, "done": work.done, "of": work.of} for work in workshop.works.now()]

    @router.post("/tools/stop")
    def stop() -> None:
        """Ask them all to stop."""
        workshop.works.stop()


def _offer_tool(router: APIRouter, workshop: Workshop, tool: Tool) -> None:
    body = {"required": True, "content": {"application/json": {"schema": json_schema(tool.settings)}}}

    @router.post(f"/tools/{tool.group}/{tool.name}", openapi_extra={"requestBody": body}, summary=tool.help)
    def use(settings: dict[str, Any] = SETTINGS) -> dict[str, Any]:
        answer = workshop.use(tool.group, tool.name, settings)
        return {**answer.as_json(), "pictures": [[_png(picture), told] for picture, told in answer.pictures]}


def _png(picture: Image.Image) -> str:
    """As base64 of a PNG, the way WebUIs send pictures."""
    file = io.BytesIO()
    picture.save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()
