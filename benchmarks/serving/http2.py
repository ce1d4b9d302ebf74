"""HTTP/2 connections of the load, with just what a unary gRPC call needs.

A client in Python that knows gRPC costs more than the server that is measured. This one writes
frames made beforehand: the headers are sent once as literals, which both sides remember, and from
then on as six bytes (RFC 7541). What the server says in its headers is not read: an answer that is
an error has no message, or the wrong one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import perf_counter

from benchmarks.serving.load import Connection, Load

CONNECTIONS = 4

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW, _MORE = 0, 1, 3, 4, 6, 7, 8, 9
_END_STREAM, _ACK, _END_HEADERS, _PADDED = 1, 1, 4, 8
_WIDEST = 2**31 - 1
_FIRST_WINDOW = 65535
_INITIAL_WINDOW_SIZE = 4

# Places in HPACK's static table, and in the dynamic one after the four literals of _literals().
_POST, _HTTP = b"\x83", b"\x86"
_REMEMBERED = b"\xc1\xc0\xbf\xbe"


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One frame."""
    head = len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big")
    return head + payload


def _text(text: str) -> bytes:
    assert len(text) < 127  # a length of one byte
    return bytes((len(text),)) + text.encode()


def _literals(path: str) -> bytes:
    """The headers of a connection's first request, all of them to be remembered."""
    return (
        _POST
        + _HTTP
        + (b"\x44" + _text(path))  # :path
        + (b"\x41" + _text("localhost"))  # :authority
        + (b"\x5f" + _text("application/grpc"))  # content-type
        + (b"\x40\x02te" + _text("trailers"))
    )


class Http2Connection(Connection):
    """Keeps `streams` unary calls under way.

    Args:
        load: What is asked.
        streams: Calls at a time.
    """

    def __init__(self, load: Load, streams: int) -> None:
        super().__init__(load)
        self._streams = streams
        self._received = b""
        self._out = bytearray()
        self._stream = 1
        self._under_way: dict[int, tuple[int, float]] = {}
        self._bodies: dict[int, bytes] = {}
        self._room = _FIRST_WINDOW  # bytes of data that the server takes before it gives more
        self._waiting: deque[tuple[int, float]] = deque()  # rows that wait for room, since when
        self._headers = _literals(load.questions.path)
        self._messages = [
            b"\0" + len(request).to_bytes(4, "big") + request for request in load.questions.requests
        ]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        window = _INITIAL_WINDOW_SIZE.to_bytes(2, "big") + _WIDEST.to_bytes(4, "big")
        self._out += _PREFACE
        self._out += frame(_SETTINGS, 0, 0, window)
        self._out += frame(_WINDOW, 0, 0, (_WIDEST - _FIRST_WINDOW).to_bytes(4, "big"))

    def start(self) -> None:
        for _ in range(self._streams):
            self._ask()
        self._flush()

    def ask_once(self, asked: float) -> None:
        """Send one more request, whose latency counts from `asked`."""
        self._send(self.load.ask(), asked)
        self._flush()

    def _ask(self) -> None:
        self._send(self.load.ask(), perf_counter())

    def _send(self, number: int, asked: float) -> None:
        message = self._messages[number]
        if len(message) > self._room:
            self._waiting.append((number, asked))
            return
        self._room -= len(message)
        stream = self._stream
        self._stream = stream + 2
        self._under_way[stream] = number, asked
        self._out += frame(_HEADERS, _END_HEADERS, stream, self._headers)
        self._out += frame(_DATA, _END_STREAM, stream, message)
        self._headers = _POST + _HTTP + _REMEMBERED

    def _flush(self) -> None:
        if self._out and self.transport is not None:
            self.transport.write(bytes(self._out))
            self._out.clear()

    def data_received(self, data: bytes) -> None:
        data = self._received + data if self._received else data
        place, end = 0, len(data)
        while end - place >= 9:
            after = place + 9 + int.from_bytes(data[place : place + 3], "big")
            if after > end:
                break
            stream = int.from_bytes(data[place + 5 : place + 9], "big") & _WIDEST
            self._take(data[place + 3], data[place + 4], stream, data[place + 9 : after])
            place = after
        self._received = data[place:]
        self._flush()

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """One frame of the server's."""
        if kind == _DATA:
            if flags & _PADDED:
                self.load.fail(RuntimeError("padded data, which this client does not read"))
                return
            self._bodies[stream] = self._bodies.get(stream, b"") + payload
        if kind in (_DATA, _HEADERS):
            if flags & _END_STREAM:
                self._end(stream, payload)
        elif kind == _SETTINGS and not flags & _ACK:
            self._out += frame(_SETTINGS, _ACK, 0, b"")
        elif kind == _PING and not flags & _ACK:
            self._out += frame(_PING, _ACK, 0, payload)
        elif kind == _WINDOW and stream == 0:
            self._room += int.from_bytes(payload, "big")
            waiting, self._waiting = self._waiting, deque()
            for number, asked in waiting:
                self._send(number, asked)
        elif kind in (_RESET, _GOAWAY, _MORE):
            self.load.fail(RuntimeError(f"the server sent a frame of type {kind}: {payload!r}"))

    def _end(self, stream: int, last: bytes) -> None:
        """The call has ended: its message is whole."""
        number, asked = self._under_way.pop(stream)
        body = self._bodies.pop(stream, b"")
        if len(body) < 5 or body[0] or int.from_bytes(body[1:5], "big") != len(body) - 5:
            self.load.fail(RuntimeError(f"row {number} was answered with {body!r}, {last!r}"))
        elif self.load.answered(number, asked, body[5:]):
            self._ask()


def connections(load: Load) -> list[Http2Connection]:
    """CONNECTIONS of them, each with its share of the requests in flight."""
    shares = [len(range(place, load.in_flight, CONNECTIONS)) for place in range(CONNECTIONS)]
    return [Http2Connection(load, share) for share in shares if share]
