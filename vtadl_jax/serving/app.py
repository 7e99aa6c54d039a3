"""The HTTP interface of a service: its addresses, and a request's way to its answer."""

import asyncio
import json
import time
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Path, Query
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from vtadl_jax import __version__
from vtadl_jax.serving import schema
from vtadl_jax.serving.answers import answer_of, shown_name, take_in
from vtadl_jax.serving.batching import Batcher, Scored, Stopping
from vtadl_jax.serving.bodies import images_of
from vtadl_jax.serving.envelope import Envelope, error_body, error_headers
from vtadl_jax.serving.limits import Refused
from vtadl_jax.serving.measured import CONTENT_TYPE, Measured
from vtadl_jax.serving.models import Model
from vtadl_jax.serving.page import PAGE, PAGE_POLICY
from vtadl_jax.serving.state import READY, Service

MapFormat = Annotated[
    Literal["none", "png", "npy"],
    Query(description="Also send the anomaly map: in colours, or as float32 numbers."),
]
Name = Annotated[
    str, Query(max_length=200, description="Name of an image that is sent as raw bytes.")
]
ModelName = Annotated[str, Path(description="As in /models.")]
SCORE: dict[str, Any] = {
    "response_model": schema.Answer,
    "openapi_extra": schema.IMAGE_BODY,
    "responses": {
        207: {"model": schema.Answer, "description": "Some of several images have no score."},
        **schema.responses(400, 401, 403, 404, 408, 413, 422, 429, 503, 504),
    },
}


def make_app(service: Service, measured: Measured) -> FastAPI:
    """Returns the ASGI application of a service; it loads nothing from elsewhere."""
    app = FastAPI(
        title="vtadl_jax",
        version=__version__,
        description="Scores images with trained runs: docs/serve.md.",
        docs_url=None,  # FastAPI's pages load scripts from another site
        redoc_url=None,
    )
    app.add_middleware(Envelope, service=service)
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    _add_states(app, service, measured)

    @app.post("/score", summary="Score images with the first model", **SCORE)
    async def score(request: Request, map: MapFormat = "none", name: Name = "image") -> Response:
        return await _score(request, service, measured, None, map, name)

    @app.post("/models/{model}/score", summary="Score images with a model", **SCORE)
    async def score_with(
        request: Request, model: ModelName, map: MapFormat = "none", name: Name = "image"
    ) -> Response:
        return await _score(request, service, measured, model, map, name)

    return app


def _add_states(app: FastAPI, service: Service, measured: Measured) -> None:
    """Adds the addresses that score nothing."""

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return HTMLResponse(PAGE, headers={"content-security-policy": PAGE_POLICY})

    @app.get("/health", response_model=schema.State, summary="The process lives")
    async def health() -> Response:
        return _json({"status": "ok"})

    @app.get(
        "/ready",
        response_model=schema.State,
        summary="The models are warm and images are taken",
        responses={503: {"model": schema.State, "description": "Not yet, or no more."}},
    )
    async def ready() -> Response:
        return _json({"status": service.state}, 200 if service.state == READY else 503)

    @app.get(
        "/metrics",
        response_class=PlainTextResponse,
        summary="Figures for Prometheus",
        responses=schema.responses(401),
    )
    async def metrics() -> Response:
        text = measured.text(service.state == READY, service.queued)
        return Response(text, headers={"content-type": CONTENT_TYPE})

    @app.get(
        "/models",
        response_model=schema.Models,
        summary="The models",
        responses=schema.responses(401, 503),
    )
    async def models() -> Response:
        service.check_ready()
        return _json({"models": [_facts(*item) for item in service.models.items()]})


def _facts(name: str, model: Model) -> dict[str, Any]:
    return {
        "name": name,
        "threshold": model.threshold,
        "pixel_threshold": model.calibration.pixel_threshold,
        "terms": list(model.calibration.terms),
        "channels": model.channels,
        "batch_size": model.batch_size,
    }


async def _score(
    request: Request,
    service: Service,
    measured: Measured,
    wanted: str | None,
    map_format: str,
    name: str,
) -> Response:
    """Scores all images of a request; counts and logs it whatever its end."""
    start, label, status = time.perf_counter(), "", 499
    logged = request.state.logged
    try:
        service.check_ready()
        label, model = service.model(wanted)
        logged["model"] = label
        with service.room() as room:
            images = await images_of(request, service.limits, name)
            room.take(len(images) - 1)
            logged |= {"images": len(images), "bytes": sum(len(image) for _, image in images)}
            left = service.limits.timeout_s - (time.perf_counter() - start)
            one = _One(service, measured, label, model, map_format, max(left, 0))
            found = await asyncio.gather(*(one.answer(*image) for image in images))
        status = _status_of(found)
        if len(found) == 1 and status != 200:
            after = found[0].pop("retry_after", None)
            raise Refused(status, found[0]["error"], after)
        for each in found:
            each.pop("retry_after", None)
        body = {"model": label, "request": request.state.request_id, "images": found}
        if status not in (200, 207):
            first = found[0]
            body["error"] = f"no image has a score; of the first, {first['name']}: {first['error']}"
        if map_format == "none":
            return _json(body, status)
        return await asyncio.to_thread(_json, body, status)  # megabytes
    except Refused as refused:
        status = refused.status
        raise
    except ClientDisconnect:
        return Response(status_code=499)  # nobody reads it
    finally:
        measured.request(label, status, time.perf_counter() - start)


def _status_of(found: list[dict[str, Any]]) -> int:
    """Returns 200 if all images have a score, 207 if some have, else the status of the first."""
    faults = [each["status"] for each in found if "error" in each]
    if not faults:
        return 200
    return 207 if len(faults) < len(found) else faults[0]


class _One:
    """One image's way through decoding, scoring and its answer, for all images of a request."""

    def __init__(
        self,
        service: Service,
        measured: Measured,
        label: str,
        model: Model,
        map_format: str,
        seconds: float,
    ):
        assert service.batcher is not None, "it is ready"
        self._batcher: Batcher = service.batcher
        self._limits, self._measured, self._drift = service.limits, measured, service.drift
        self._label, self._model = label, model
        self._map_format, self._seconds = map_format, seconds

    async def answer(self, name: str, content: bytes) -> dict[str, Any]:
        """Returns the answer for an image, or its name, error and status."""
        try:
            async with asyncio.timeout(self._seconds):
                return await self._scored(name, content)
        except Refused as refused:
            fault = refused
        except TimeoutError:
            seconds = self._limits.timeout_s
            fault = Refused(504, f"no score within {seconds:g} seconds: try again, or raise "
                            f"--timeout_s")  # fmt: skip
        except Stopping:
            fault = Refused(503, "the service is stopping: try again later", 2)
        self._measured.refused(fault.status)
        return {
            "name": shown_name(name),
            "error": fault.text,
            "status": fault.status,
            "retry_after": fault.retry_after,
        }

    async def _scored(self, name: str, content: bytes) -> dict[str, Any]:
        limits, model = self._limits, self._model

        def finish(scored: Scored) -> tuple[dict[str, Any], Scored]:
            found = answer_of(name, scored, model, limits, self._map_format)
            if self._drift is not None:
                self._drift.add(self._label, scored.prediction)
            return found, scored

        job = self._batcher.submit(self._label, lambda: take_in(model, content, limits), finish)
        found, scored = await asyncio.wrap_future(job)
        self._measured.image(self._label, found["decision"], scored)
        return found


def _json(body: Any, status: int = 200) -> Response:
    text = json.dumps(body, allow_nan=False)
    return Response(text, status, {"content-type": "application/json"})


async def _refused(request: Request, error: Any) -> Response:
    body = error_body(error.text, request.state.request_id)
    return Response(body, error.status, error_headers(error))


async def _http_error(request: Request, error: Any) -> Response:
    texts = {404: "there is nothing at this address", 405: "this address has no such method"}
    text = f"{texts.get(error.status_code, str(error.detail))}: /openapi.json lists all"
    body = error_body(text, request.state.request_id)
    headers = {"content-type": "application/json", **(error.headers or {})}
    return Response(body, error.status_code, headers)


async def _invalid(request: Request, error: Any) -> Response:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    body = error_body(f"{where}: {first['msg']}", request.state.request_id)
    return Response(body, 400, {"content-type": "application/json"})
