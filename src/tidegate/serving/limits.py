"""Limits: what a door takes in one message, checked before anything is allocated for it."""

from __future__ import annotations

from dataclasses import dataclass

from tidegate.errors import ConfigError
from tidegate.serving.errors import TooLargeError

__all__ = ["Limits"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The largest that a client may send.

    Args:
        max_message_bytes: Of one request's body, or of one gRPC message; compressed bodies count
            as what they expand to.
        max_rows: Of one request.
        receive_timeout: Seconds that a client may take to send the body of its request; None for as
            long as it likes.

    Raises:
        ConfigError: A limit is below 1, or the time limit is no positive number.
    """

    max_message_bytes: int = 64 * 2**20
    max_rows: int = 4096
    receive_timeout: float | None = 30.0

    def __post_init__(self) -> None:
        """Checks the limits."""
        for name in ("max_message_bytes", "max_rows"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value!r}")
        seconds = self.receive_timeout
        if seconds is not None and (
            isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0
        ):
            raise ConfigError(f"receive_timeout must be seconds > 0 or None, got {seconds!r}")

    def check_message(self, size: int) -> None:
        """Raises TooLargeError if a message of `size` bytes is too large."""
        if size > self.max_message_bytes:
            raise TooLargeError(
                f"a message has at most {self.max_message_bytes} bytes, got {size} or more",
                expected=f"at most {self.max_message_bytes} bytes",
                given=f"{size} bytes",
            )

    def check_rows(self, rows: int) -> None:
        """Raises TooLargeError if a request of `rows` rows is too large."""
        if rows > self.max_rows:
            raise TooLargeError(
                f"a request has at most {self.max_rows} rows, got {rows}",
                expected=f"at most {self.max_rows} rows",
                given=f"{rows} rows",
            )
