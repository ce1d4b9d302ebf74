"""Tokens: who may ask. The same check for HTTP's header and gRPC's metadata."""

from __future__ import annotations

from collections.abc import Iterable

from tidegate.errors import ConfigError
from tidegate.serving.errors import AuthenticationError

__all__ = ["Tokens"]

_SCHEME = "bearer "


class Tokens:
    """Bearer tokens that a door accepts (RFC 6750: ``authorization: Bearer <token>``).

    Args:
        tokens: Those accepted; several let one be replaced without a gap.

    Raises:
        ConfigError: There is none, or one is empty or holds a character that no header can carry.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        accepted = [tokens] if isinstance(tokens, str) else list(tokens)
        if not accepted:
            raise ConfigError("Tokens needs at least one token")
        for token in accepted:
            if not token or not token.isascii() or not token.isprintable() or " " in token:
                raise ConfigError("a token is visible ASCII without spaces, and not empty")
        self.accepted = accepted
        # Digests have one length, so that comparing them tells nothing about the tokens'.
        self._digests = [_digest(token) for token in accepted]

    def check(self, authorization: str | None) -> None:
        """Raises AuthenticationError unless the header's value carries an accepted token."""
        if authorization is None:
            raise AuthenticationError(
                "a token is needed: send the header 'authorization: Bearer <token>'"
            )
        if authorization[: len(_SCHEME)].lower() != _SCHEME:
            raise AuthenticationError("the authorization header must be 'Bearer <token>'")
        import hmac

        given = _digest(authorization[len(_SCHEME) :].strip())
        # All are compared, so that the time taken does not tell which came close.
        if not sum(hmac.compare_digest(given, digest) for digest in self._digests):
            raise AuthenticationError("the token is not one that this server accepts")


def _digest(token: str) -> bytes:
    # Imported here, as hmac is above: they take 4 MB, which a server without tokens is spared.
    import hashlib

    return hashlib.sha256(token.encode()).digest()
