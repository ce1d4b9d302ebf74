"""Who is let in: tokens and TLS on both doors, slow clients, and what may not be opened at all."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import select
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import trustme

from tests.gated import PATIENCE
from tests.helpers import identity
from tests.serving.callers import body_of, message_of
from tidegate import Batcher, ConfigError, TensorSpec
from tidegate.serving import Models, Served
from tidegate.serving.configuration import Configuration
from tidegate.serving.connections import MOST_HEADERS
from tidegate.serving.doors import Doors, make_doors

INFER = "/v2/models/echo/infer"
Ask = Callable[..., Any]


@pytest.fixture
def echo() -> Iterator[Models]:
    """A model that answers with what it was given."""
    with Batcher(identity, inputs=TensorSpec((3,), "float32", name="x")) as batcher:
        yield Models(Served("echo", batcher))


@contextlib.asynccontextmanager
async def opened(models: Models, **settings: Any) -> AsyncIterator[Doors]:
    """Both doors, or those of the settings, in the running loop."""
    if not {"http", "grpc", "uds"} & settings.keys():
        settings |= {"http": "0", "grpc": "0"}
    doors = make_doors(models, Configuration(**settings))
    for door in doors:
        await door.open()
    try:
        yield doors
    finally:
        await asyncio.gather(*[door.close() for door in doors])
        doors.discard()


def while_open(models: Models, ask: Callable[..., Any], **settings: Any) -> Any:
    """What a thread gets that asks open doors; it is given their addresses."""

    async def run() -> Any:
        async with opened(models, **settings) as doors:
            addresses = [door.url.partition("://")[2] for door in doors]
            return await asyncio.wait_for(asyncio.to_thread(ask, *addresses), PATIENCE)

    return asyncio.run(run())


# Tokens


def http_status(address: str, *, path: str = INFER, context: Any = None, **headers: str) -> int:
    """The status of a request over HTTP, or over HTTPS with a context."""
    if context is None:
        connection = http.client.HTTPConnection(address, timeout=PATIENCE)
    else:
        connection = http.client.HTTPSConnection(address, timeout=PATIENCE, context=context)
    try:
        connection.request("POST" if path == INFER else "GET", path, body_of(1), headers)
        return connection.getresponse().status
    finally:
        connection.close()


def grpc_status(
    address: str, token: str | None = None, *, method: str = "ModelInfer", credentials: Any = None
) -> str:
    """The status of a call."""
    name = method if method.startswith("/") else f"/inference.GRPCInferenceService/{method}"
    options = [("grpc.use_local_subchannel_pool", 1)]
    channel: Any = (
        grpc.insecure_channel(address, options=options)
        if credentials is None
        else grpc.secure_channel(address, credentials, options=options)
    )
    message = message_of("echo", 1) if method == "ModelInfer" else b""
    metadata = () if token is None else (("authorization", f"Bearer {token}"),)
    with channel:
        try:
            channel.unary_unary(name)(message, timeout=PATIENCE, metadata=metadata)
        except grpc.RpcError as error:
            return str(error.code().name)
    return "OK"


def test_a_token_is_asked_for_on_both_doors(echo: Models, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("old\nnew\n")

    def ask(web: str, rpc: str) -> None:
        for token in ("old", "new"):
            assert http_status(web, authorization=f"Bearer {token}") == 200
            assert grpc_status(rpc, token) == "OK"
        for wrong in (None, "older"):
            headers = {} if wrong is None else {"authorization": f"Bearer {wrong}"}
            assert http_status(web, **headers) == 401
            assert http_status(web, path="/metrics", **headers) == 401
            assert grpc_status(rpc, wrong) == "UNAUTHENTICATED"
            assert grpc_status(rpc, wrong, method="ServerMetadata") == "UNAUTHENTICATED"
        # Probes have none.
        assert http_status(web, path="/v2/health/ready") == 200
        assert grpc_status(rpc, method="/grpc.health.v1.Health/Check") == "OK"

    while_open(echo, ask, token_file=tokens)


# TLS


class Certificates:
    """An authority, a server's certificate and a client's, as files."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.ca = folder / "ca.pem"
        authority.cert_pem.write_to_path(str(self.ca))
        self.server, self.server_key = self._issue(authority, folder / "server", "127.0.0.1")
        self.client, self.client_key = self._issue(authority, folder / "client", "a-client")

    def _issue(self, authority: trustme.CA, path: Path, name: str) -> tuple[Path, Path]:
        issued = authority.issue_cert(name)
        certificate, key = path.with_suffix(".pem"), path.with_suffix(".key")
        for blob in issued.cert_chain_pems:
            blob.write_to_path(str(certificate), append=True)
        issued.private_key_pem.write_to_path(str(key))
        return certificate, key

    def settings(self) -> dict[str, Any]:
        """Those of a server."""
        return {"tls_certificate": self.server, "tls_key": self.server_key}

    def context(self, *, client: bool) -> ssl.SSLContext:
        """That of an HTTPS client, with a certificate of its own or without."""
        context = ssl.create_default_context(cafile=self.ca)
        if client:
            context.load_cert_chain(self.client, self.client_key)
        return context

    def credentials(self, *, client: bool) -> grpc.ChannelCredentials:
        """The same for gRPC."""
        own = (self.client_key.read_bytes(), self.client.read_bytes()) if client else (None, None)
        return grpc.ssl_channel_credentials(self.ca.read_bytes(), *own)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """One set for all tests."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


def test_both_doors_speak_tls_and_nothing_else(echo: Models, certificates: Certificates) -> None:
    def ask(web: str, rpc: str) -> None:
        assert http_status(web, context=certificates.context(client=False)) == 200
        assert grpc_status(rpc, credentials=certificates.credentials(client=False)) == "OK"
        with pytest.raises((OSError, http.client.HTTPException)):
            http_status(web)
        assert grpc_status(rpc) == "UNAVAILABLE"
        with pytest.raises(ssl.SSLCertVerificationError):
            http_status(web, context=ssl.create_default_context())

    while_open(echo, ask, **certificates.settings())


def test_doors_may_ask_clients_for_certificates(echo: Models, certificates: Certificates) -> None:
    def ask(web: str, rpc: str) -> None:
        assert http_status(web, context=certificates.context(client=True)) == 200
        assert grpc_status(rpc, credentials=certificates.credentials(client=True)) == "OK"
        with pytest.raises((OSError, http.client.HTTPException)):
            http_status(web, context=certificates.context(client=False))
        assert grpc_status(rpc, credentials=certificates.credentials(client=False)) == "UNAVAILABLE"

    while_open(echo, ask, **certificates.settings(), tls_client_ca=certificates.ca)


def test_wrong_certificates_are_found_before_a_door_opens(
    echo: Models, certificates: Certificates, tmp_path: Path
) -> None:
    empty = tmp_path / "empty.pem"
    empty.touch()
    for settings, complaint in [
        ({"tls_key": certificates.client_key}, "are no certificate and its key"),
        ({"tls_key": empty}, "are no certificate and its key"),
        ({"tls_certificate": tmp_path / "nothing"}, "cannot read .*nothing: No such file"),
        ({"tls_client_ca": empty}, "holds no certificates"),
    ]:
        configuration = Configuration(**{"http": "0", **certificates.settings(), **settings})
        with pytest.raises(ConfigError, match=complaint):
            make_doors(echo, configuration)


# Slow clients, and too much of anything


def exchange(address: str, sent: bytes, later: bytes = b"") -> bytes:
    """All that comes back on a connection that is left open, until the server closes it.

    Args:
        address: HOST:PORT.
        sent: What is sent at once.
        later: What is sent after the first answer.
    """
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
        received = b""
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(sent)
            if later:
                received += connection.recv(65536)
                connection.sendall(later)
            while part := connection.recv(65536):
                received += part
    return received


HEADERS = f"POST {INFER} HTTP/1.1\r\nhost: x\r\n"


@pytest.mark.parametrize(
    ("sent", "later"),
    [
        ("", ""),
        (HEADERS, ""),
        (HEADERS + "content-length: 100\r\n\r\nhalf", ""),
        ("GET /v2 HTTP/1.1\r\nhost: x\r\n\r\n", HEADERS),
    ],
    ids=["nothing", "half its headers", "half a body", "half a second request"],
)
def test_a_client_that_sends_too_slowly_is_not_waited_for(
    echo: Models, sent: str, later: str
) -> None:
    def ask(web: str) -> bytes:
        return exchange(web, sent.encode(), later.encode())

    received = while_open(echo, ask, http="0", receive_timeout=0.2)
    assert (b"200 OK" in received) == bool(later)


def test_an_idle_connection_is_closed_in_the_end(echo: Models) -> None:
    def ask(web: str) -> bytes:
        return exchange(web, b"GET /v2 HTTP/1.1\r\nhost: x\r\n\r\n")

    assert b"200 OK" in while_open(echo, ask, http="0", keep_alive=0.1)


def test_a_client_that_does_not_take_its_answer_is_not_waited_for() -> None:
    def large(rows: Any) -> Any:  # more than the kernel's buffers hold
        return np.zeros((len(rows), 2**22), np.float32)

    message = json.loads(body_of(1))
    message["parameters"] = {"binary_data_output": True}
    body = json.dumps(message).encode()

    def ask(web: str) -> None:
        host, _, port = web.rpartition(":")
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect((host, int(port)))
            connection.sendall(f"{HEADERS}content-length: {len(body)}\r\n\r\n".encode() + body)
            poll = select.poll()
            poll.register(connection, 0)  # errors only: it never reads
            assert poll.poll(PATIENCE * 1000), "the server still waits"

    with Batcher(large, inputs=TensorSpec((3,), "float32", name="x")) as batcher:
        while_open(Models(Served("echo", batcher)), ask, http="0", receive_timeout=0.3)


@pytest.mark.parametrize(
    "sent",
    [
        HEADERS + "a: " + "b" * 2 * MOST_HEADERS,
        HEADERS + "a: b\r\n" * MOST_HEADERS,
        f"POST /{'x' * 2 * MOST_HEADERS}",
        HEADERS + "transfer-encoding: chunked\r\n\r\n1;" + "e" * 20 * MOST_HEADERS,
        HEADERS + "transfer-encoding: chunked\r\n\r\n0\r\n" + "a: b\r\n" * 4 * MOST_HEADERS,
    ],
    ids=["one header", "many headers", "a path", "an extension of a chunk", "trailers"],
)
def test_what_comes_besides_a_body_is_bounded(echo: Models, sent: str) -> None:
    def ask(web: str) -> bytes:
        return exchange(web, sent.encode())

    received = while_open(echo, ask, http="0")
    assert received == b"" or received.startswith((b"HTTP/1.1 431", b"HTTP/1.1 400"))


def test_a_body_in_many_chunks_is_no_long_header(echo: Models) -> None:
    body = body_of(7)
    padded = body + b" " * 2 * MOST_HEADERS
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in padded) + b"0\r\n\r\n"

    def ask(web: str) -> bytes:
        head = HEADERS + "connection: close\r\ntransfer-encoding: chunked\r\n\r\n"
        return exchange(web, head.encode() + chunks)

    assert while_open(echo, ask, http="0").startswith(b"HTTP/1.1 200")


def test_connections_beyond_the_limit_are_told_so(echo: Models) -> None:
    def ask(web: str) -> int:
        host, _, port = web.rpartition(":")
        with contextlib.ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(socket.create_connection((host, int(port)), timeout=PATIENCE))
            return http_status(web)

    assert while_open(echo, ask, http="0", max_connections=3) == 503


# Unix sockets


def test_a_unix_socket_is_removed_and_one_left_behind_replaced(
    echo: Models, tmp_path: Path
) -> None:
    path = tmp_path / "door"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert path.is_socket(), "it outlives its listener"

    def ask(named: str) -> bool:
        assert named == str(path)
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(named)
            client.sendall(b"GET /v2 HTTP/1.0\r\n\r\n")
            return client.recv(100).startswith(b"HTTP/1.1 200")

    assert while_open(echo, ask, uds=path)
    assert not path.exists()


def test_what_is_in_the_way_of_a_unix_socket_is_left_alone(echo: Models, tmp_path: Path) -> None:
    path = tmp_path / "door"
    path.write_text("mine")
    with pytest.raises(ConfigError, match="it exists, and is no socket"):
        make_doors(echo, Configuration(uds=path))
    assert path.read_text() == "mine"
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(ConfigError, match="another process does"):
            make_doors(echo, Configuration(uds=path))
    with pytest.raises(ConfigError, match="cannot listen at"):
        make_doors(echo, Configuration(uds=tmp_path / ("x" * 200)))


@pytest.mark.parametrize("door", ["http", "grpc"])
def test_a_port_that_is_taken_is_an_error(echo: Models, door: str) -> None:
    async def open_it(port: int) -> None:
        async with opened(echo, **{door: str(port)}):
            pass

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{port}: Address already in use"):
            asyncio.run(open_it(port))


def test_processes_may_share_a_port_if_told_to(echo: Models) -> None:
    async def share() -> None:
        async with opened(echo, http="0", reuse_port=True) as first:
            port = next(iter(first)).url.rpartition(":")[2]
            async with opened(echo, http=port, reuse_port=True) as second:
                assert next(iter(second)).url == next(iter(first)).url

    asyncio.run(share())
