"""What the native fuzzing starts from: ``python -m tests.serving.fuzz_seeds`` writes it anew.

Each file under csrc/fuzz/seeds is one input of the fuzzer with that name: messages for the reader
of requests, and for the connection a byte of choices (csrc/fuzz/fuzz_connection.cpp names them)
before what a client sends after its preface.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator
from pathlib import Path

import hpack
import numpy as np
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from tests.serving.grpc_door import MODEL_INFER, PREDICT, raw_request, typed_request
from tidegate.serving._proto import tidegate_v1_pb2 as v1

SEEDS = Path(__file__).parents[2] / "csrc" / "fuzz" / "seeds"
HEALTH = "/grpc.health.v1.Health/Check"

# The choices of csrc/fuzz/fuzz_connection.cpp.
PREFACE, TOKENS, AT_ONCE, PIECES, BETWEEN, TIME, DRAIN = (1 << bit for bit in range(7))


def messages() -> Iterator[tuple[str, bytes]]:
    """Requests for the models that csrc/fuzz/fuzz_messages.cpp offers."""
    pair = np.arange(4, dtype=np.float32).reshape(2, 2)
    byte = np.arange(2, dtype=np.int8)
    for name, inputs in (("", {"x": pair}), ("m", {"x": pair, "n": byte})):
        for form, request in (("typed", typed_request), ("raw", raw_request)):
            made = request(name, **inputs)
            made.id = "7"
            yield f"infer-{form}-{name or 'unnamed'}", made.SerializeToString()
            made.parameters["timeout"].int64_param = 1000
            made.model_version = "1"
            made.outputs.add(name="y")
            yield f"infer-{form}-{name or 'unnamed'}-all", made.SerializeToString()
    predict = v1.PredictRequest(model_name="model", features=[1, 2]).SerializeToString()
    yield "predict", predict
    yield "predict-gzip", gzip.compress(predict, mtime=0)
    yield "timeout", b"100m"
    yield "text", "50 % of a naïve text\n".encode()


def framed(message: bytes, *, compressed: bool = False) -> bytes:
    """As gRPC sends it."""
    return struct.pack(">BI", compressed, len(message)) + message


def block(encoder: hpack.Encoder, path: str, **more: str) -> bytes:
    """A request's header block."""
    fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "t"}
    fields |= {"content-type": "application/grpc", "te": "trailers"}
    fields |= {name.replace("_", "-"): value for name, value in more.items()}
    made: bytes = encoder.encode(list(fields.items()))
    return made


def conversations() -> Iterator[tuple[str, int, list[Frame]]]:
    """What a client may do: a name, the choices, and its frames."""
    even, odd = framed(b"ab"), framed(b"abc")

    def opened(stream: int, path: str = PREDICT, **more: str) -> HeadersFrame:
        return HeadersFrame(stream, block(hpack.Encoder(), path, **more), flags=["END_HEADERS"])

    def ended(stream: int, body: bytes = even) -> DataFrame:
        return DataFrame(stream, body, flags=["END_STREAM"])

    yield "call", PREFACE, [opened(1), ended(1)]
    yield "call-at-once", PREFACE | AT_ONCE | PIECES, [opened(1), ended(1, odd)]
    encoder = hpack.Encoder()
    several: list[Frame] = []
    for stream in (1, 3, 5, 7):
        head = block(encoder, MODEL_INFER, grpc_timeout="3S")
        several += [HeadersFrame(stream, head, flags=["END_HEADERS"]), ended(stream)]
    yield "calls", PREFACE | BETWEEN, several
    yield "python", PREFACE, [opened(1, "/p"), ended(1), opened(3, HEALTH), ended(3)]
    zipped = framed(gzip.compress(b"ab" * 99, mtime=0), compressed=True)
    yield "gzip", PREFACE, [opened(1, grpc_encoding="gzip"), ended(1, zipped)]
    yield "token", PREFACE | TOKENS, [opened(1, authorization="Bearer token"), ended(1)]
    yield "no-token", PREFACE | TOKENS, [opened(1), ended(1)]
    parts = [DataFrame(1, even[:3]), DataFrame(1, even[3:], flags=["END_STREAM"])]
    yield "parts", PREFACE | PIECES | TIME, [opened(1), *parts]
    yield "slow", PREFACE | BETWEEN | TIME, [opened(1), DataFrame(1, even[:3])]
    reset = RstStreamFrame(1, error_code=8)
    yield "reset", PREFACE, [opened(1), ended(1), reset, opened(3), RstStreamFrame(3, error_code=8)]
    yield "drain", PREFACE | DRAIN, [opened(1), ended(1)]
    windows = [SettingsFrame(0, settings={4: 1}), opened(1), ended(1)]
    yield "windows", PREFACE, [*windows, WindowUpdateFrame(0, 9), WindowUpdateFrame(1, 9)]
    half = block(hpack.Encoder(), PREDICT)
    cut = [HeadersFrame(1, half[:9]), ContinuationFrame(1, half[9:], flags=["END_HEADERS"])]
    yield "continued", PREFACE, [*cut, ended(1)]
    other: list[Frame] = [PingFrame(0, b"12345678"), PriorityFrame(1, depends_on=3)]
    yield "other", PREFACE, [*other, SettingsFrame(0, flags=["ACK"]), GoAwayFrame(0, 1)]
    first: list[Frame] = [SettingsFrame(0), opened(1), ended(1)]
    yield "no-preface", 0, first


def inputs() -> dict[Path, bytes]:
    """All of it, by file."""
    made = {SEEDS / "messages" / name: data for name, data in messages()}
    for name, choices, frames in conversations():
        sent = b"".join(frame.serialize() for frame in frames)
        made[SEEDS / "connection" / name] = bytes([choices]) + sent
    return made


def main() -> None:
    for path, data in inputs().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


if __name__ == "__main__":
    main()
