"""The native front end as an HTTP/2 server: what RFC 9113 asks of frames, streams and windows."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from tests.serving.http2 import PREFACE, Http2
from tidegate import Batcher, TensorSpec
from tidegate.serving import Limits, Models, Served
from tidegate.serving._proto import tidegate_v1_pb2 as v1
from tidegate.serving.native import NativeServer

pytest.importorskip("tidegate._frontend", reason="the native front end was not built")

PREDICT = "/tidegate.v1.Inference/Predict"
MESSAGE = v1.PredictRequest(features=[1, 2, 3]).SerializeToString()
PROTOCOL, FLOW, CLOSED, SIZE, REFUSED, COMPRESSION, CALM = 1, 3, 5, 6, 7, 9, 11
LIVE = "/inference.GRPCInferenceService/ServerLive"


@pytest.fixture(scope="module")
def server() -> Iterator[NativeServer]:
    """A server of one model that doubles three floats."""
    spec = TensorSpec((3,), "float32")
    with Batcher(lambda batch: batch * 2, inputs=spec) as batcher:
        models = Models(Served("double", batcher, example=np.zeros(3, np.float32)))
        limits = Limits(max_message_bytes=2**16)
        with NativeServer(models, limits=limits, max_streams=4) as made:
            yield made


@pytest.fixture
def client(server: NativeServer) -> Iterator[Http2]:
    """A connection that has greeted."""
    with Http2(server.address) as made:
        yield made


def predictions(data: bytes) -> list[float]:
    assert data[0] == 0
    assert struct.unpack(">I", data[1:5])[0] == len(data) - 5
    return list(v1.PredictResponse.FromString(data[5:]).predictions)


def raw(kind: int, flags: int, stream: int, body: bytes, length: int | None = None) -> bytes:
    """A frame with whatever is to be in it."""
    size = len(body) if length is None else length
    return struct.pack(">I", size)[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + body


def setting(number: int, value: int) -> bytes:
    return raw(4, 0, 0, struct.pack(">HI", number, value))


def test_a_call_is_answered_with_data_and_trailers(client: Http2) -> None:
    client.call(1, PREDICT, MESSAGE)
    data, fields = client.answer(1)
    assert predictions(data) == [2, 4, 6]
    assert fields == {":status": "200", "content-type": "application/grpc", "grpc-status": "0"}


def test_many_calls_in_pieces_of_any_size_are_all_answered(server: NativeServer) -> None:
    for size in (1, 7, 1000):
        with Http2(server.address) as client:
            whole = b""
            for stream in (1, 3, 5, 7):
                body = b"\0" + struct.pack(">I", len(MESSAGE)) + MESSAGE
                whole += client.open(stream, PREDICT).serialize()
                whole += DataFrame(stream, body[:6]).serialize()
                whole += DataFrame(stream, body[6:], flags=["END_STREAM"]).serialize()
            for at in range(0, len(whole), size):
                client.send(whole[at : at + size])
            collected: dict[int, bytes] = {}
            ended = 0
            while ended < 4:
                frame = client.until(DataFrame, HeadersFrame)
                if isinstance(frame, DataFrame):
                    collected[frame.stream_id] = collected.get(frame.stream_id, b"") + frame.data
                ended += "END_STREAM" in frame.flags
            assert [predictions(collected[stream]) for stream in (1, 3, 5, 7)] == [[2, 4, 6]] * 4


# What ends a connection (RFC 9113, numbers of sections). Each is a list of bytes to send.

Make = Callable[[Http2], list[Any]]


def block(client: Http2) -> bytes:
    return client.headers(LIVE)


BROKEN: dict[str, tuple[int, Make]] = {
    "4.2 a frame larger than allowed": (
        SIZE,
        lambda c: [c.open(1, PREDICT), raw(0, 0, 1, b"x" * 16385)],
    ),
    "4.3 a header block that is none": (COMPRESSION, lambda c: [raw(1, 5, 1, b"\xff" * 20)]),
    "4.3 a frame between the parts of a header block": (
        PROTOCOL,
        lambda c: [raw(1, 1, 1, block(c)), PingFrame(0, b"12345678")],
    ),
    "5.1 data on an idle stream": (PROTOCOL, lambda c: [raw(0, 1, 1, b"x")]),
    "5.1 a reset of an idle stream": (PROTOCOL, lambda c: [RstStreamFrame(1)]),
    "5.1 a window update of an idle stream": (PROTOCOL, lambda c: [WindowUpdateFrame(1, 10)]),
    "5.1.1 a stream with an even number": (PROTOCOL, lambda c: [c.open(2, LIVE, "END_STREAM")]),
    "6.1 data on stream 0": (PROTOCOL, lambda c: [raw(0, 1, 0, b"x")]),
    "6.1 padding longer than the frame": (
        PROTOCOL,
        lambda c: [c.open(1, PREDICT), raw(0, 8, 1, b"\x05ab")],
    ),
    "6.2 headers on stream 0": (PROTOCOL, lambda c: [raw(1, 5, 0, block(c))]),
    "6.4 a reset on stream 0": (PROTOCOL, lambda c: [raw(3, 0, 0, bytes(4))]),
    "6.4 a reset of another length": (
        SIZE,
        lambda c: [c.open(1, PREDICT), raw(3, 0, 1, bytes(3))],
    ),
    "6.5 an acknowledgement with settings": (SIZE, lambda c: [raw(4, 1, 0, bytes(6))]),
    "6.5 settings on a stream": (PROTOCOL, lambda c: [raw(4, 0, 1, b"")]),
    "6.5 settings of another length": (SIZE, lambda c: [raw(4, 0, 0, bytes(5))]),
    "6.5.2 a value for ENABLE_PUSH that is neither 0 nor 1": (PROTOCOL, lambda c: [setting(2, 2)]),
    "6.5.2 a window that is too large": (FLOW, lambda c: [setting(4, 2**31)]),
    "6.5.2 a frame size that is too small": (PROTOCOL, lambda c: [setting(5, 16383)]),
    "6.5.2 a frame size that is too large": (PROTOCOL, lambda c: [setting(5, 2**24)]),
    "6.6 a push by a client": (PROTOCOL, lambda c: [raw(5, 4, 1, bytes(4) + block(c))]),
    "6.7 a ping on a stream": (PROTOCOL, lambda c: [raw(6, 0, 1, bytes(8))]),
    "6.7 a ping of another length": (SIZE, lambda c: [raw(6, 0, 0, bytes(7))]),
    "6.8 a goaway on a stream": (PROTOCOL, lambda c: [raw(7, 0, 1, bytes(8))]),
    "6.9 a window update of nothing": (PROTOCOL, lambda c: [raw(8, 0, 0, bytes(4))]),
    "6.9 a window update of another length": (SIZE, lambda c: [raw(8, 0, 0, bytes(3))]),
    "6.9.1 a window beyond its limit": (FLOW, lambda c: [WindowUpdateFrame(0, 2**31 - 1)]),
    "6.10 a continuation without headers": (
        PROTOCOL,
        lambda c: [ContinuationFrame(1, block(c), flags=["END_HEADERS"])],
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_breaks_the_protocol_ends_the_connection(client: Http2, case: str) -> None:
    code, make = BROKEN[case]
    client.send(*make(client))
    goaway = client.until(GoAwayFrame)
    # Closing without a word is allowed too (5.4.1).
    if goaway is not None:
        assert goaway.error_code == code
        assert client.until(Frame) is None


@pytest.mark.parametrize("preface", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\0" * 100, b"PRI x"])
def test_another_preface_ends_the_connection(server: NativeServer, preface: bytes) -> None:
    with Http2(server.address, start=False) as client:
        client.send(preface, bytes(64))
        assert client.until(HeadersFrame, DataFrame) is None


def fields(**changed: Any) -> list[tuple[str, str]]:
    base = {":method": "POST", ":scheme": "http", ":path": LIVE, ":authority": "x"}
    base.update({f":{name}": value for name, value in changed.items()})
    return [(name, value) for name, value in base.items() if value is not None]


MALFORMED: dict[str, list[tuple[str, str]]] = {
    "8.2.1 a name in upper case": [*fields(), ("X-Upper", "x")],
    "8.2.2 a header of the connection": [*fields(), ("connection", "keep-alive")],
    "8.2.2 te other than trailers": [*fields(), ("te", "gzip")],
    "8.3 a pseudo header after others": [*fields(), ("a", "b"), (":method", "POST")],
    "8.3 an unknown pseudo header": [*fields(), (":unknown", "x")],
    "8.3.1 no path": fields(path=None),
    "8.3.1 no method": fields(method=None),
    "8.3.1 no scheme": fields(scheme=None),
    "8.3.1 a path twice": [*fields(), (":path", LIVE)],
    "8.1.1 a content length that is not the data's": [*fields(), ("content-length", "3")],
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_request_ends_its_stream_only(client: Http2, case: str) -> None:
    encoded = b"".join(client.encoder.encode([field]) for field in MALFORMED[case])
    client.send(HeadersFrame(1, encoded, flags=["END_HEADERS", "END_STREAM"]))
    reset = client.until(RstStreamFrame, GoAwayFrame)
    assert isinstance(reset, RstStreamFrame)
    assert reset.error_code == PROTOCOL
    client.call(3, PREDICT, MESSAGE)
    assert predictions(client.answer(3)[0]) == [2, 4, 6]


def test_a_stream_number_that_was_passed_over_is_not_served(client: Http2) -> None:
    # It cannot be told from one that has just been closed, whose trailers may still come (5.1).
    client.call(5, PREDICT, MESSAGE)
    client.send(client.open(3, LIVE, "END_STREAM"))
    client.call(7, PREDICT, MESSAGE)
    assert predictions(client.answer(5)[0]) == [2, 4, 6]
    assert predictions(client.answer(7)[0]) == [2, 4, 6]
    client.send(PingFrame(0, b"the end."))
    assert isinstance(client.until(HeadersFrame, PingFrame), PingFrame)


def test_data_after_the_end_of_a_stream_is_an_error(client: Http2) -> None:
    client.send(SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 0}))
    client.call(1, PREDICT, MESSAGE)  # which stays open until its answer has gone
    client.send(DataFrame(1, b"more"))
    frame = client.until(RstStreamFrame, GoAwayFrame)
    assert frame.error_code == CLOSED


def test_unknown_frames_and_settings_are_ignored(client: Http2) -> None:
    client.send(raw(0xEE, 0xFF, 0, b"whatever"), setting(0xFFFF, 1))
    client.call(1, PREDICT, MESSAGE)
    assert predictions(client.answer(1)[0]) == [2, 4, 6]


def test_a_ping_comes_back(client: Http2) -> None:
    client.send(PingFrame(0, b"tidegate"))
    pong = client.until(PingFrame)
    assert pong.opaque_data == b"tidegate"
    assert "ACK" in pong.flags


def test_padding_and_continuations_are_understood(client: Http2) -> None:
    encoded = client.headers(PREDICT)
    body = b"\0" + struct.pack(">I", len(MESSAGE)) + MESSAGE
    client.send(
        HeadersFrame(1, encoded[:10]),
        ContinuationFrame(1, encoded[10:20]),
        ContinuationFrame(1, encoded[20:], flags=["END_HEADERS"]),
        DataFrame(1, body, pad_length=50, flags=["PADDED", "END_STREAM"]),
    )
    assert predictions(client.answer(1)[0]) == [2, 4, 6]


def test_streams_beyond_the_limit_are_refused(client: Http2) -> None:
    limit = client.until(SettingsFrame).settings[SettingsFrame.MAX_CONCURRENT_STREAMS]
    assert limit == 4
    client.send(SettingsFrame(0, flags=["ACK"]))  # from now on the limit binds
    client.send(*[client.open(stream, PREDICT) for stream in range(1, 11, 2)])
    refused = client.until(RstStreamFrame, GoAwayFrame)
    assert refused.error_code in (REFUSED, PROTOCOL)


def test_an_answer_waits_for_the_window_to_open(client: Http2) -> None:
    client.send(SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 3}))
    client.call(1, PREDICT, MESSAGE)
    first = client.until(DataFrame)
    assert len(first.data) == 3
    client.send(PingFrame(0, b"nothing!"))
    assert isinstance(client.until(DataFrame, PingFrame), PingFrame), "the window is closed"
    client.send(WindowUpdateFrame(1, 1000))
    data, answered = client.answer(1)
    assert predictions(first.data + data) == [2, 4, 6]
    assert answered["grpc-status"] == "0"


def test_a_negative_window_is_waited_for_too(client: Http2) -> None:
    client.send(SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 10}))
    client.call(1, PREDICT, MESSAGE)
    first = client.until(DataFrame)
    client.send(SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 0}))
    client.send(WindowUpdateFrame(1, 10 + 1000))
    assert predictions(first.data + client.answer(1)[0]) == [2, 4, 6]


def test_header_lists_beyond_the_limit_are_refused(client: Http2) -> None:
    large = client.headers(PREDICT, **{f"x-{i}": "y" * 1000 for i in range(100)})
    parts = [large[at : at + 16000] for at in range(0, len(large), 16000)]
    client.send(
        HeadersFrame(1, parts[0]),
        *[ContinuationFrame(1, part) for part in parts[1:-1]],
        ContinuationFrame(1, parts[-1], flags=["END_HEADERS"]),
    )
    assert client.answer(1)[1] == {":status": "431"}


RESETS: dict[str, Callable[[int], list[Frame]]] = {
    "by itself": lambda stream: [RstStreamFrame(stream, 8)],
    # A window beyond 2^31 - 1 is an error for which the server has to do it (RFC 9113, 6.9.1).
    "by the server": lambda stream: [WindowUpdateFrame(stream, 2**31 - 1)] * 2,
}


@pytest.mark.parametrize("way", RESETS)
def test_a_client_that_resets_stream_after_stream_is_cut_off(
    server: NativeServer, way: str
) -> None:
    with Http2(server.address) as client:
        stream = 1
        goaway = None
        try:
            for _ in range(40):
                client.send(
                    *[
                        part
                        for number in range(stream, stream + 200, 2)
                        for part in (client.open(number, PREDICT), *RESETS[way](number))
                    ]
                )
                stream += 200
            goaway = client.until(GoAwayFrame)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it was cut off while we still wrote
        else:
            assert goaway is None or goaway.error_code == CALM


GRPC: dict[str, tuple[bytes, dict[str, str], str, str]] = {
    "no message": (b"", {}, "13", "ended before its message"),
    "a cut message": (b"\0\0\0\0\x09abc", {}, "13", "ended before its message"),
    "two messages": (b"\0\0\0\0\1a\0\0\0\0\1b", {}, "13", "got more"),
    "a wrong prefix": (b"\7\0\0\0\1a", {}, "13", "prefix"),
    "compressed without an encoding": (b"\1\0\0\0\1a", {}, "13", "no grpc-encoding"),
    "no gzip": (b"\1\0\0\0\1a", {"grpc_encoding": "gzip"}, "13", "cannot be decompressed"),
    "another encoding": (b"\1\0\0\0\1a", {"grpc_encoding": "br"}, "12", "deflate and identity"),
    "a large message": (b"\0\0\1\0\1a", {}, "8", "at most 65536 bytes, got 65537"),
}


@pytest.mark.parametrize("case", GRPC)
def test_a_broken_envelope_is_a_status(client: Http2, case: str) -> None:
    body, more, code, words = GRPC[case]
    client.send(client.open(1, PREDICT, **more), DataFrame(1, body, flags=["END_STREAM"]))
    _, answered = client.answer(1)
    assert answered["grpc-status"] == code
    assert words in answered["grpc-message"]


def test_other_methods_and_contents_get_their_http_status(client: Http2) -> None:
    client.send(
        HeadersFrame(
            1,
            client.encoder.encode(fields(method="GET")),
            flags=["END_HEADERS", "END_STREAM"],
        ),
        HeadersFrame(
            3,
            client.encoder.encode([*fields(), ("content-type", "application/json")]),
            flags=["END_HEADERS", "END_STREAM"],
        ),
    )
    assert client.answer(1)[1] == {":status": "405"}
    assert client.answer(3)[1] == {":status": "415"}


def test_an_answer_before_the_request_has_come_ends_the_stream(client: Http2) -> None:
    client.send(client.open(1, "/no.Such/Method"))
    _, answered = client.answer(1)
    assert answered["grpc-status"] == "12"
    assert client.until(RstStreamFrame, stream=1).error_code == 0
    client.call(3, PREDICT, MESSAGE)
    assert predictions(client.answer(3)[0]) == [2, 4, 6]


def test_the_preface_may_come_a_byte_at_a_time(server: NativeServer) -> None:
    with Http2(server.address, start=False) as client:
        for byte in PREFACE + SettingsFrame(0).serialize():
            client.send(bytes([byte]))
        client.call(1, PREDICT, MESSAGE)
        assert predictions(client.answer(1)[0]) == [2, 4, 6]
