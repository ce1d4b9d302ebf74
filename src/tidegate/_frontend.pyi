"""Types of the native front end: gRPC over HTTP/2 in threads that never take the GIL."""

from typing import Any

from typing_extensions import CapsuleType

class _Pybind11Type(type): ...

class Server(metaclass=_Pybind11Type):
    def __init__(
        self,
        *,
        capsule: CapsuleType,
        host: str,
        port: int,
        reuse_port: bool,
        threads: int,
        max_message_bytes: int,
        max_connections: int,
        max_streams: int,
        receive_timeout: float,
        keepalive: float,
        tokens: list[str],
        open_paths: list[str],
        python_paths: list[str],
        certificate: str,
        key: str,
        client_authorities: str,
    ) -> None: ...
    @property
    def address(self) -> tuple[str, int]: ...
    def publish(self, models: list[dict[str, Any]], count: int) -> None: ...
    def take_events(self, timeout: float) -> list[tuple[Any, ...]]: ...
    def answer(
        self, number: int, status: int, text: bytes, pushback_milliseconds: int = 0
    ) -> None: ...
    def retry(self) -> None: ...
    def drain(self) -> None: ...
    @property
    def drained(self) -> bool: ...
    def stop(self) -> None: ...
    def statistics(self) -> dict[str, int]: ...
