"""Who is let in: tokens and TLS on both doors; and sockets that are not to be had."""

from __future__ import annotations

import asyncio
import http.client
import socket
import ssl
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from tests import child
from tests.gated import PATIENCE
from tests.serving.callers import message_of
from tests.serving.opened import http_status, opened, while_open
from tidegate import ConfigError, cli
from tidegate.serving import Models
from tidegate.serving.configuration import Configuration
from tidegate.serving.doors import make_doors

# Tokens


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


def test_a_tls_client_that_hangs_up_does_not_end_the_process(certificates: Certificates) -> None:
    pytest.importorskip("tidegate._frontend", reason="the native front end was not built")
    files = {"certificate": str(certificates.server), "key": str(certificates.server_key)}
    child.run(f"""
        import signal, socket, ssl, struct
        from tidegate.serving import Models
        from tidegate.serving.native import NativeServer

        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # as scripts that print into pipes have it
        context = ssl.create_default_context(cafile={str(certificates.ca)!r})
        context.set_alpn_protocols(["h2"])
        with NativeServer(Models(), **{files!r}) as server:
            for _ in range(20):
                bare = socket.create_connection(server.address)
                client = context.wrap_socket(bare, server_hostname="127.0.0.1")
                # By a reset.
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
            bare = socket.create_connection(server.address)
            with context.wrap_socket(bare, server_hostname="127.0.0.1") as client:
                assert client.recv(9)[3] == 4  # SETTINGS
    """)


def test_doors_may_ask_clients_for_certificates(echo: Models, certificates: Certificates) -> None:
    def ask(web: str, rpc: str) -> None:
        assert http_status(web, context=certificates.context(client=True)) == 200
        assert grpc_status(rpc, credentials=certificates.credentials(client=True)) == "OK"
        with pytest.raises((OSError, http.client.HTTPException)):
            http_status(web, context=certificates.context(client=False))
        assert grpc_status(rpc, credentials=certificates.credentials(client=False)) == "UNAVAILABLE"

    while_open(echo, ask, **certificates.settings(), tls_client_ca=certificates.ca)


def test_the_command_line_asks_through_tls_with_a_certificate_and_a_token(
    echo: Models, certificates: Certificates, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["--certificate", str(certificates.client), "--key", str(certificates.client_key)]

    def ask(web: str, rpc: str) -> None:
        for url in (f"https://{web}", f"grpcs://{rpc}"):
            question = ["infer", url, "echo", "--input=[1,2,3]", "--token=t"]
            assert cli.main([*question, *own, "--ca", str(certificates.ca)]) == 0
            assert "[[1. 2. 3.]]" in capsys.readouterr().out
            assert cli.main([*question, "--timeout=5"]) == cli.WRONG
            assert "tidegate infer: error: " in capsys.readouterr().err
            assert cli.main([*question, "--ca=nowhere"]) == cli.WRONG
            assert "cannot read the certificates" in capsys.readouterr().err

    settings = {**certificates.settings(), "tls_client_ca": certificates.ca, "token": ("t",)}
    while_open(echo, ask, **settings)


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


def test_grpc_may_listen_at_a_unix_socket(
    echo: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def ask(named: str) -> None:
        assert cli.main(["infer", f"grpc+unix://{named}", "echo", "--input=[1,2,3]"]) == 0
        assert "[[1. 2. 3.]]" in capsys.readouterr().out

    while_open(echo, ask, grpc=f"unix:{tmp_path / 'door'}")


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
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # it would share
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
