"""The ``/metrics`` page: what Prometheus reads of the models on offer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from starlette.types import Receive, Scope, Send

from tidegate import Batcher
from tidegate.errors import ConfigError
from tidegate.serving.asgi import answers
from tidegate.serving.errors import UnsupportedError
from tidegate.serving.models import Models

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

__all__ = ["Scrape"]


class Scrape:
    """Answers a scrape, an ASGI application by itself.

    Args:
        models: Whose batchers are shown.
        metrics: True for a registry of its own with these batchers; or a registry, which is shown
            as it is; False for nothing.

    Raises:
        ConfigError: `metrics` is neither.
    """

    def __init__(self, models: Models, metrics: CollectorRegistry | bool) -> None:
        if not isinstance(metrics, bool) and not hasattr(metrics, "collect"):
            raise ConfigError(
                f"metrics must be a CollectorRegistry, True or False, got {type(metrics).__name__}"
            )
        self._models = models
        self._registry: Any = None if isinstance(metrics, bool) else metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one scrape."""
        try:
            body, kind = self._page(dict(scope["headers"]).get(b"accept", b"").decode("latin-1"))
        except ModuleNotFoundError as error:
            missing = UnsupportedError(
                f"metrics need {error.name}: pip install 'tidegate[metrics]' on the server"
            )
            await answers.send_failure(send, missing, during="GET /metrics")
            return
        await answers.send(send, 200, [(b"content-type", kind.encode())], body)

    def _page(self, accept: str) -> tuple[bytes, str]:
        from prometheus_client import CollectorRegistry
        from prometheus_client.exposition import choose_encoder

        if self._registry is None:
            from tidegate.metrics import Collector

            registry = CollectorRegistry()
            registry.register(Collector(self._batchers))
            self._registry = registry
        encoder, kind = choose_encoder(accept)
        return encoder(self._registry), kind

    def _batchers(self) -> Iterator[Batcher]:
        """Each batcher once, though it may serve under several names."""
        return iter({id(served.batcher): served.batcher for served in self._models}.values())
