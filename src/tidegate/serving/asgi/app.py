"""The ASGI app of the HTTP door: its routes, and everything but inference."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import tidegate
from tidegate.errors import ClosedError, ConfigError, TidegateError
from tidegate.serving.asgi.guard import AccessLog, Guard
from tidegate.serving.asgi.inference import Infer
from tidegate.serving.asgi.openapi import describe
from tidegate.serving.asgi.scrape import Scrape
from tidegate.serving.authentication import Tokens
from tidegate.serving.errors import UnsupportedError, message_of, status_of
from tidegate.serving.limits import Limits
from tidegate.serving.models import Models
from tidegate.serving.rest import to_json
from tidegate.serving.served import Served
from tidegate.serving.tensors import Tensor

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

__all__ = ["create_app"]

_LIMITS = Limits()
_MODEL = "/v2/models/{name}"
_VERSION = _MODEL + "/versions/{version}"


def create_app(
    models: Models,
    *,
    limits: Limits = _LIMITS,
    tokens: Tokens | None = None,
    metrics: CollectorRegistry | bool = True,
    access_log: logging.Logger | bool = False,
) -> Starlette:
    """An ASGI app for the models on offer.

    It needs no lifespan events, and opens and closes nothing: the batchers are yours.

    Args:
        models: On offer; they may change while it runs.
        limits: The largest and slowest request that it takes.
        tokens: Accepted ones; None lets everybody ask. Liveness and readiness need none.
        metrics: Whether ``/metrics`` shows Prometheus the batchers, or a registry to show instead.
        access_log: Whether to log each answer to the logger ``tidegate.access``, or a logger.

    Raises:
        ConfigError: A setting is of another type.
    """
    _check("models", models, Models)
    _check("limits", limits, Limits)
    if tokens is not None:
        _check("tokens", tokens, Tokens)
    scrape = Scrape(models, metrics)
    middleware = []
    if access_log is not False:
        logger = logging.getLogger("tidegate.access") if access_log is True else access_log
        _check("access_log", logger, logging.Logger)
        middleware.append(Middleware(AccessLog, logger=logger))
    if tokens is not None:
        middleware.append(Middleware(Guard, tokens=tokens))
    infer = Infer(models, limits)
    door = _Door(models, authenticated=tokens is not None, metrics=metrics is not False)
    routes = [
        # The busiest first: routes are tried one after another.
        Route(f"{_MODEL}/infer", infer, methods=["POST"]),
        Route(f"{_VERSION}/infer", infer, methods=["POST"]),
        Route("/v2/health/live", door.live),
        Route("/v2/health/ready", door.ready),
        Route("/v2", door.metadata),
        Route("/v2/repository/index", door.index, methods=["POST"]),
        Route("/openapi.json", door.openapi),
    ]
    if metrics is not False:
        routes.append(Route("/metrics", scrape, methods=["GET"]))
    for model in (_MODEL, _VERSION):
        routes += [
            Route(model, door.model),
            Route(f"{model}/ready", door.model_ready),
            Route(f"{model}/stats", door.unsupported),
            Route(f"{model}/config", door.unsupported),
        ]
    app = Starlette(
        routes=routes,
        middleware=middleware,
        exception_handlers={HTTPException: _refused, TidegateError: _failed, Exception: _failed},
    )
    app.router.redirect_slashes = False
    return app


class _Door:
    """Everything but inference."""

    def __init__(self, models: Models, *, authenticated: bool, metrics: bool) -> None:
        self._models = models
        self._authenticated = authenticated
        self._metrics = metrics

    async def live(self, request: Request) -> Response:
        return _json({"live": True})

    async def ready(self, request: Request) -> Response:
        if self._models.ready:
            return _json({"ready": True})
        draining = self._models.draining
        return _not_ready("the server is draining" if draining else "a model is not ready")

    async def metadata(self, request: Request) -> Response:
        return _json(
            {
                "name": "tidegate",
                "version": tidegate.__version__,
                "extensions": ["binary_tensor_data"],
            }
        )

    async def model(self, request: Request) -> Response:
        served = self._served(request)
        versions = self._models.versions(served.name)
        return _json(
            {
                "name": served.name,
                "versions": versions,
                "platform": "tidegate",
                "inputs": [_described(tensor) for tensor in served.inputs],
                "outputs": [_described(tensor) for tensor in served.outputs],
            }
        )

    async def model_ready(self, request: Request) -> Response:
        served = self._served(request)
        if served.ready:
            return _json({"name": served.name, "ready": True})
        return _not_ready(f"model {served.name!r} is not ready")

    async def unsupported(self, request: Request) -> Response:
        raise UnsupportedError(
            "statistics are at /metrics, and models have no configuration to show"
        )

    async def index(self, request: Request) -> Response:
        return _json([_entry(served) for served in self._models])

    async def openapi(self, request: Request) -> Response:
        return _json(
            describe(
                self._models,
                root=request.scope.get("root_path", ""),
                authenticated=self._authenticated,
                metrics=self._metrics,
            )
        )

    def _served(self, request: Request) -> Served:
        parameters = request.path_params
        return self._models.get(parameters["name"], parameters.get("version", ""))


def _json(message: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(to_json(message), status, headers, "application/json")


def _not_ready(reason: str) -> Response:
    retry_after = str(status_of(ClosedError()).retry_after)
    return _json({"ready": False, "error": reason}, 503, {"retry-after": retry_after})


def _described(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": [-1, *tensor.shape]}


def _entry(served: Served) -> dict[str, str]:
    ready = served.ready
    return {
        "name": served.name,
        "version": served.version,
        "state": "READY" if ready else "UNAVAILABLE",
        "reason": "" if ready else "closed" if served.batcher.closed else "stuck",
    }


async def _refused(request: Request, error: Exception) -> Response:
    """What no route takes: 404 and 405."""
    assert isinstance(error, HTTPException)
    path = request.scope["path"]
    message = (
        f"there is nothing at {path:.200}"
        if error.status_code == 404
        else f"{error.detail}: {request.method:.20} {path:.200}"
    )
    return _json({"error": message}, error.status_code, dict(error.headers or {}))


async def _failed(request: Request, error: Exception) -> Response:
    """What an endpoint raised, without telling what is not the client's business."""
    return _json({"error": message_of(error)}, status_of(error).http)


def _check(setting: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        raise ConfigError(f"{setting} must be {kind.__name__}, got {type(value).__name__}")
