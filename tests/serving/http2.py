"""A bare HTTP/2 client: frames as a test wants them, also those that no library would send."""

from __future__ import annotations

import socket
import struct
from typing import Any

import hpack
from hyperframe.frame import DataFrame, Frame, HeadersFrame, SettingsFrame

from tests.gated import PATIENCE

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Http2:
    """One connection; the preface and empty settings are sent at once unless told otherwise."""

    def __init__(self, address: tuple[str, int], *, start: bool = True) -> None:
        self.socket = socket.create_connection(address, timeout=PATIENCE)
        self.encoder = hpack.Encoder()
        self.decoder = hpack.Decoder()
        self._buffer = b""
        if start:
            self.send(PREFACE, SettingsFrame(0))

    def send(self, *parts: Frame | bytes) -> None:
        """Sends frames, or bytes as they are."""
        data = b"".join(part if isinstance(part, bytes) else part.serialize() for part in parts)
        self.socket.sendall(data)

    def headers(self, path: str, **more: str) -> bytes:
        """A request's header block."""
        fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "test"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            *((name.replace("_", "-"), value) for name, value in more.items()),
        ]
        block: bytes = self.encoder.encode(fields)
        return block

    def open(self, stream: int, path: str, *flags: str, **more: str) -> HeadersFrame:
        """A HEADERS frame that opens a stream."""
        return HeadersFrame(stream, self.headers(path, **more), flags=["END_HEADERS", *flags])

    def call(self, stream: int, path: str, message: bytes, **more: str) -> None:
        """A whole request."""
        body = b"\0" + struct.pack(">I", len(message)) + message
        self.send(self.open(stream, path, **more), DataFrame(stream, body, flags=["END_STREAM"]))

    def read(self) -> Frame | None:
        """The next frame; None once the server has closed the connection."""
        header = self._exactly(9)
        if header is None:
            return None
        frame, length = Frame.parse_frame_header(memoryview(header))
        body = self._exactly(length)
        if body is None:
            return None
        frame.parse_body(memoryview(body))
        return frame

    def until(self, *kinds: type[Frame], stream: int | None = None) -> Any:
        """The next frame of these kinds; None once the connection is closed."""
        while (frame := self.read()) is not None:
            if isinstance(frame, kinds) and stream in (None, frame.stream_id):
                return frame
        return None

    def answer(self, stream: int) -> tuple[bytes, dict[str, str]]:
        """The data and all header fields of a stream, up to its end."""
        data = b""
        fields: dict[str, str] = {}
        while True:
            frame = self.until(HeadersFrame, DataFrame, stream=stream)
            assert frame is not None, "the connection was closed"
            if isinstance(frame, DataFrame):
                data += frame.data
            else:
                fields.update(
                    {str(name): str(value) for name, value in self.decoder.decode(frame.data)}
                )
            if "END_STREAM" in frame.flags:
                return data, fields

    def _exactly(self, count: int) -> bytes | None:
        while len(self._buffer) < count:
            try:
                more = self.socket.recv(65536)
            except ConnectionResetError:
                more = b""
            if not more:
                return None
            self._buffer += more
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    def close(self) -> None:
        """Hangs up."""
        self.socket.close()

    def __enter__(self) -> Http2:
        """The connection."""
        return self

    def __exit__(self, *error: object) -> None:
        """Hangs up."""
        self.close()
