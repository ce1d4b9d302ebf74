"""What the two ways to a server have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tidegate.errors import TidegateError
from tidegate.serving.datatypes import Array
from tidegate.serving.tensors import Tensor

__all__ = ["Access", "Connection", "InquiryError"]


class InquiryError(TidegateError):
    """A server could not be asked, or its answer is an error or none."""


@dataclass(frozen=True, kw_only=True)
class Access:
    """How to be let in, and how long to wait.

    Attributes:
        token: For the authorization header; None without one.
        ca: Certificates to trust, PEM; None for the system's.
        certificate: The client's own, PEM; None without one.
        key: Its key, PEM.
        timeout: Seconds that an answer may take.
    """

    token: str | None = None
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    timeout: float = 30.0

    @property
    def headers(self) -> dict[str, str]:
        """The header or metadata with the token."""
        return {} if self.token is None else {"authorization": f"Bearer {self.token}"}


class Connection(Protocol):
    """A way to a server."""

    def inputs(self, model: str, version: str) -> tuple[Tensor, ...]:
        """What the model takes."""

    def infer(
        self, model: str, version: str, tensors: Mapping[str, Array], outputs: Sequence[str]
    ) -> dict[str, Array]:
        """What the model answers."""

    def close(self) -> None:
        """Ends the connection."""
