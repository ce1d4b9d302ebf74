"""NativeServer: gRPC without the GIL; Python is entered once per batch, and for what is unusual."""

from __future__ import annotations

import atexit
import logging
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

from tidegate import _engine
from tidegate.errors import ConfigError, ModelError
from tidegate.serving.authentication import Tokens
from tidegate.serving.errors import log_failure
from tidegate.serving.limits import Limits
from tidegate.serving.models import Models
from tidegate.serving.native_layout import layouts_of, promise_of
from tidegate.serving.served import Served

if TYPE_CHECKING:
    from tidegate._frontend import Server
    from tidegate.serving.native_calls import Calls

__all__ = ["NativeServer"]

_LOGGER = logging.getLogger("tidegate.serving.native")
_MOST_THREADS = 64
_PATIENCE = 3600.0  # of the steward: it is woken when there is something to do
_LOOK = 0.01  # seconds between two looks whether all calls have ended
_NEVER = 1e10
_UNIMPLEMENTED = 12
_NEEDS = (
    "calls that are not read natively need grpcio, grpcio-health-checking and protobuf at the "
    "server: pip install 'tidegate[serve]'"
)
_HOW_TO_GET_IT = (
    "tidegate was built without its native front end, which needs the headers of libnghttp2, "
    "OpenSSL and zlib (Debian: apt install libnghttp2-dev libssl-dev zlib1g-dev pkg-config); "
    "install them and reinstall tidegate, or serve with --grpc-backend python"
)
# The methods that Calls answers and the one of them that needs no token. Named here too, so that
# protobuf and grpcio are imported when the first such call comes: they take 20 MB.
PATHS = (
    *(
        f"/inference.GRPCInferenceService/{name}"
        for name in (
            "ServerLive",
            "ServerReady",
            "ModelReady",
            "ServerMetadata",
            "ModelMetadata",
            "ModelInfer",
        )
    ),
    "/tidegate.v1.Inference/Predict",
    "/grpc.health.v1.Health/Check",
)
OPEN_PATHS = ("/grpc.health.v1.Health/Check",)
# The front end takes the core's table of functions from an engine that serves nothing.
_NO_ENGINE = _engine.Engine(
    _engine.Policy(max_batch_size=1, max_queue_delay=0.0, max_queue_size=0, caller_runs=False)
)


def _log_failed_batch(error: ModelError) -> None:
    """Logs why: clients are told that the model failed, and native threads know no more."""
    log_failure(error, "a batch of calls")


class NativeServer:
    """Serves models over gRPC from native threads, inside this process.

    Requests are read and their rows put into batches in C++, and answers are written from the
    batches' outputs, all without the GIL. What only Python understands (models that take objects,
    conversions, metadata, health, errors of input) is answered in Python, by the same code as in
    the other doors.

    Args:
        models: What is on offer; may change while the server runs.
        host: Address to listen at.
        port: Its port; 0 for any that is free.
        threads: Native threads; one serves some hundred thousand requests a second.
        limits: What a client may send; None for the defaults of Limits.
        tokens: Those that a call must carry one of; None for none. Health checks need none.
        certificate, key: PEM files; with them the server speaks TLS alone.
        client_authorities: A PEM file; clients must show a certificate of one of these.
        max_connections: At a time; more are turned away.
        max_streams: Calls of one connection at a time.
        keepalive: Seconds after which a silent client is asked whether it is there; None for never.
        reuse_port: Whether other processes may listen at the same port (SO_REUSEPORT).

    Raises:
        ConfigError: A setting has a value that it cannot have, or the native front end is missing.
    """

    def __init__(
        self,
        models: Models,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        threads: int = 1,
        limits: Limits | None = None,
        tokens: Tokens | None = None,
        certificate: str | None = None,
        key: str | None = None,
        client_authorities: str | None = None,
        max_connections: int = 20_000,
        max_streams: int = 1024,
        keepalive: float | None = 60.0,
        reuse_port: bool = False,
    ) -> None:
        if not isinstance(models, Models):
            raise ConfigError(f"models must be Models, got {type(models).__name__}")
        if type(port) is not int or not 0 <= port < 65536:
            raise ConfigError(f"port must be from 0 to 65535, got {port!r}")
        if (certificate is None) != (key is None) or (client_authorities and not certificate):
            raise ConfigError("TLS needs a certificate and its key, both or neither")
        for name, count, most in (
            ("threads", threads, _MOST_THREADS),
            ("max_connections", max_connections, 2**31 - 1),
            ("max_streams", max_streams, 2**31 - 1),
        ):
            if type(count) is not int or not 1 <= count <= most:
                raise ConfigError(f"{name} must be from 1 to {most}, got {count!r}")
        if keepalive is not None and not keepalive > 0:
            raise ConfigError(f"keepalive must be seconds > 0 or None, got {keepalive!r}")
        try:
            from tidegate import _frontend  # noqa: F401
        except ImportError as error:
            raise ConfigError(_HOW_TO_GET_IT) from error
        self._models = models
        self._limits = Limits() if limits is None else limits
        self._settings: dict[str, Any] = {
            "host": host,
            "port": port,
            "reuse_port": bool(reuse_port),
            "threads": threads,
            "max_message_bytes": self._limits.max_message_bytes,
            "max_connections": max_connections,
            "max_streams": max_streams,
            "receive_timeout": self._limits.receive_timeout or _NEVER,
            "keepalive": keepalive or _NEVER,
            "tokens": [] if tokens is None else tokens.accepted,
            "certificate": certificate or "",
            "key": key or "",
            "client_authorities": client_authorities or "",
        }
        self._server: Server | None = None
        self._calls: Calls | None = None
        self._steward = threading.Thread(
            target=self._serve, name="tidegate-native-steward", daemon=True
        )
        self._offered: list[Served] = []  # by the number that the native threads know them by
        self._lock = threading.Lock()  # of publishing
        self._stopping = False

    @property
    def address(self) -> tuple[str, int]:
        """Host and port; raises ConfigError before start()."""
        return self._started().address

    def _started(self) -> Server:
        if self._server is None:
            raise ConfigError("the server has not been started; call start() first")
        return self._server

    def start(self) -> NativeServer:
        """Listens and serves, in threads of its own; returns itself.

        Raises:
            OSError: The address cannot be listened at.
            ConfigError: The server was started before, or a certificate cannot be used.
        """
        from tidegate._frontend import Server

        if self._server is not None:
            raise ConfigError("the server was started before; make another")
        try:
            self._server = Server(
                capsule=_NO_ENGINE.capsule(),
                python_paths=list(PATHS),
                open_paths=list(OPEN_PATHS),
                **self._settings,
            )
        except RuntimeError as error:
            raise ConfigError(str(error)) from error
        _started.add(self)
        self._models.watch(self._publish)
        self._publish()
        self._steward.start()
        return self

    # -- what is on offer --

    def _publish(self) -> None:
        """Tells the native threads which models they can serve by themselves."""
        with self._lock:
            offers = [offer for served in self._models if (offer := self._offer(served))]
            self._started().publish(offers, len(self._models))

    def _offer(self, served: Served) -> dict[str, Any] | None:
        batcher, session = served.batcher, served.batcher._session
        layouts, lane = layouts_of(served), session.native_lane()
        if layouts is None or lane is None:
            return None
        session.show_in_order(*promise_of(served), _log_failed_batch)
        if served not in self._offered:
            self._offered.append(served)
            session.add_native_buffer()
        return {
            "capsule": lane[0],
            "lane": lane[1],
            "model": served.name,
            "version": served.version,
            "newest": self._models.get(served.name) is served,
            "number": self._offered.index(served),
            "most_rows": min(batcher.max_batch_size, self._limits.max_rows),
            "default_timeout": batcher.default_timeout,
            "inputs": layouts[0],
            "outputs": layouts[1],
        }

    def _learned(self) -> None:
        """An answer has come through Python: a model whose outputs were unknown may be known."""
        if any(layouts_of(served) and served not in self._offered for served in self._models):
            self._publish()

    # -- what only Python can do --

    def _serve(self) -> None:
        """The steward's thread: has calls answered, and makes room for batches."""
        server = self._started()
        while not self._stopping:
            for event in server.take_events(_PATIENCE):
                try:
                    self._handle(*event)
                except Exception:
                    _LOGGER.exception("the steward failed to handle a %s", event[0])

    def _handle(self, kind: str, *what: Any) -> None:
        if kind == "call":
            if self._calls is None:
                try:
                    from tidegate.serving.native_calls import Calls
                except ModuleNotFoundError as error:
                    self._reply(what[0], _UNIMPLEMENTED, f"{_NEEDS} ({error})".encode(), 0)
                    return
                self._calls = Calls(self._models, self._limits, self._reply, self._learned)
            self._calls.call(*what)
        elif kind == "cancel":
            if self._calls is not None:
                self._calls.cancel(*what)
        else:
            self._offered[what[0]].batcher._session.add_native_buffer()
            self._started().retry()

    def _reply(self, number: int, status: int, text: bytes, pushback: int) -> None:
        self._started().answer(number, status, text, pushback)

    # -- the end --

    def drain(self) -> None:
        """Takes no more connections or calls; those under way are answered."""
        if self._server is not None:
            self._server.drain()

    def stop(self, grace: float | None = 10.0) -> None:
        """Drains, and cuts off what is open after a while. Idempotent.

        Args:
            grace: Seconds to wait for calls under way; None for as long as it takes.
        """
        if self._server is None:
            return
        self.drain()
        end = None if grace is None else time.monotonic() + grace
        while not self._server.drained and not self._stopping:
            if end is not None and time.monotonic() >= end:
                break
            time.sleep(_LOOK)
        self.abort()
        self._steward.join()

    def abort(self) -> None:
        """Cuts off what is open at once."""
        if self._server is not None and not self._stopping:
            self._stopping = True
            self._models.unwatch(self._publish)
            self._server.stop()

    def statistics(self) -> dict[str, int]:
        """Connections now and ever, requests read natively and those that Python answered."""
        return self._started().statistics()

    def __enter__(self) -> NativeServer:
        """Starts the server."""
        return self.start()

    def __exit__(self, *error: object) -> None:
        """Stops it."""
        self.stop()


_started: weakref.WeakSet[NativeServer] = weakref.WeakSet()


def _abort_all() -> None:
    """At interpreter exit: native threads must not use OpenSSL, or call Python, while both end."""
    for server in list(_started):
        server.abort()


atexit.register(_abort_all)
