"""What listens for HTTP: how its connections are set up."""

from __future__ import annotations

import socket

from tests.gated import PATIENCE
from tidegate.serving.addresses import listen, parse


def test_connections_send_at_once_and_notice_who_is_gone() -> None:
    with listen(parse("127.0.0.1:0"), reuse_port=False) as listening:
        listening.settimeout(PATIENCE)
        with socket.create_connection(listening.getsockname(), PATIENCE):
            accepted, _ = listening.accept()
            with accepted:
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
