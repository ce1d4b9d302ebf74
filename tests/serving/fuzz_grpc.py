"""Mutated messages against a running gRPC door: only expected statuses, no hang, memory flat.

``python -m tests.serving.fuzz_grpc --count 100000`` for the long run; the suite runs a short one.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import gc
import random
import resource
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np

from tests.gated import PATIENCE
from tests.serving.grpc_door import (
    MODEL_INFER,
    PREDICT,
    living_futures,
    raw_request,
    typed_request,
)
from tests.serving.models import offered, values_of
from tidegate.serving import Limits
from tidegate.serving._proto import open_inference_pb2 as pb
from tidegate.serving._proto import tidegate_v1_pb2 as v1
from tidegate.serving.datatypes import DATATYPES
from tidegate.serving.grpc import create_server
from tidegate.serving.grpc.messages import FIELDS

AT_ONCE = 64
LIMITS = Limits(max_message_bytes=2**20, max_rows=64)
# What a client may be told for a message that is not right. A request whose own timeout is a few
# microseconds may miss it.
EXPECTED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
_GROWTH = 24 * 2**20
INFERENCE = "/inference.GRPCInferenceService/"

Case = tuple[str, bytes]


@dataclass
class Report:
    """What was seen.

    Attributes:
        statuses: How many calls ended with each.
        unexpected: Calls that ended in no way that is expected: method, message, what came.
        growth: Bytes of memory more in the end than after a fifth of the calls.
        futures: Futures that outlived it.
    """

    statuses: collections.Counter[str] = field(default_factory=collections.Counter)
    unexpected: list[tuple[str, bytes, str]] = field(default_factory=list)
    growth: int = 0
    futures: int = 0

    def problems(self) -> list[str]:
        """What should not be."""
        found = [f"{method} {message!r:.300}: {what}" for method, message, what in self.unexpected]
        if self.growth > _GROWTH:
            found.append(f"{self.growth} bytes of memory were added")
        if self.futures:
            found.append(f"{self.futures} futures are left")
        return found


def seeds() -> list[Case]:
    """Calls with nothing wrong, of every kind."""
    cases: list[Case] = []
    for datatype in DATATYPES:
        cases.append(
            (MODEL_INFER, encoded(raw_request(f"echo-{datatype}", input=values_of(datatype))))
        )
        if datatype in FIELDS:
            cases.append(
                (MODEL_INFER, encoded(typed_request(f"echo-{datatype}", input=values_of(datatype))))
            )
    row = np.ones((1, 3), np.float32)
    request = raw_request("pair", a=row, b=row)
    request.id = "id"
    request.outputs.add(name="sum")
    request.parameters["timeout"].int64_param = 10_000_000
    request.parameters["priority"].uint64_param = 1
    cases.append((MODEL_INFER, encoded(request)))
    cases.append((MODEL_INFER, encoded(raw_request("ragged", input=np.ones((2, 9), np.float32)))))
    cases.append((MODEL_INFER, encoded(raw_request("wide", input=np.ones((1, 64), np.float32)))))
    for name in ("versioned", "ragged", "echo-FP64", "echo-INT8"):
        small = v1.PredictRequest(model_name=name, features=[1, 2, 3])
        cases.append((PREDICT, encoded(small)))
        small.shape.extend([1, 3])
        small.output_name = "output"
        cases.append((PREDICT, encoded(small)))
    ready = encoded(pb.ModelReadyRequest(name="versioned", version="2"))
    cases += [(INFERENCE + "ModelReady", ready), (INFERENCE + "ModelMetadata", ready)]
    cases += [(INFERENCE + name, b"") for name in ("ServerLive", "ServerReady", "ServerMetadata")]
    cases.append(("/grpc.health.v1.Health/Check", b"\x0a\x09versioned"))
    return cases


def encoded(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data


# -- mutations --


def mutated(case: Case, others: list[Case], chance: random.Random) -> Case:
    """A case with something wrong, usually."""
    method, message = case
    if method == MODEL_INFER and chance.random() < 0.4:
        return method, _changed(message, chance)
    for _ in range(chance.choice((1, 1, 2, 4))):
        message = chance.choice(_BYTES)(message, chance.choice(others)[1], chance)
    return method, message[: LIMITS.max_message_bytes]


def _flip(message: bytes, other: bytes, chance: random.Random) -> bytes:
    if not message:
        return bytes([chance.randrange(256)])
    place = chance.randrange(len(message))
    return (
        message[:place] + bytes([message[place] ^ 1 << chance.randrange(8)]) + message[place + 1 :]
    )


def _set(message: bytes, other: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(message) + 1)
    byte = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
    return message[:place] + bytes([byte]) + message[place + 1 :]


def _cut(message: bytes, other: bytes, chance: random.Random) -> bytes:
    return message[: chance.randrange(len(message) + 1)]


def _remove(message: bytes, other: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(message) + 1)
    return message[:start] + message[start + chance.randrange(1, 9) :]


def _insert(message: bytes, other: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(message) + 1)
    return message[:place] + chance.randbytes(chance.randrange(1, 9)) + message[place:]


def _repeat(message: bytes, other: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(message) + 1)
    piece = message[start : start + chance.randrange(1, 33)]
    return message[:start] + piece * chance.choice((2, 3, 50)) + message[start:]


def _splice(message: bytes, other: bytes, chance: random.Random) -> bytes:
    return message[: chance.randrange(len(message) + 1)] + other[chance.randrange(len(other) + 1) :]


def _append(message: bytes, other: bytes, chance: random.Random) -> bytes:
    return message + other  # which merges them


def _noise(message: bytes, other: bytes, chance: random.Random) -> bytes:
    return chance.randbytes(chance.randrange(200))


_BYTES: tuple[Callable[[bytes, bytes, random.Random], bytes], ...] = (
    *(_flip, _flip, _set, _set, _cut, _remove, _insert, _repeat, _splice, _append, _noise),
)
_LENGTHS = (-(2**63), -1, 0, 1, 2, 3, 4, 2**16, 2**31, 2**32, 2**62, 2**63 - 1)
_TEXTS = ("", "input", "output", "a", "echo-BYTES", "no\0thing", "\N{SNOWMAN}" * 50, "9" * 30)
_PARAMETERS = ("timeout", "priority", "sequence_id", "shared_memory_region", "classification")
_KINDS = {
    "bool_param": (True, False),
    "int64_param": _LENGTHS,
    "uint64_param": (0, 1, 2**64 - 1),
    "string_param": ("", "1000000", "-1", "soon", "9" * 30, "\u0663"),
    "double_param": (0.0, float("nan"), 1e300),
}


def _changed(message: bytes, chance: random.Random) -> bytes:
    """A well-formed request that says something else."""
    request = pb.ModelInferRequest.FromString(message)
    for _ in range(chance.choice((1, 1, 2, 3))):
        chance.choice(_CHANGES)(request, chance)
    return encoded(request)


def _change_shape(request: Any, chance: random.Random) -> None:
    for tensor in request.inputs:
        if len(tensor.shape) and chance.random() < 0.5:
            tensor.shape[chance.randrange(len(tensor.shape))] = chance.choice(_LENGTHS)
        else:
            tensor.shape.extend(chance.choice(_LENGTHS) for _ in range(chance.choice((1, 40))))


def _change_names(request: Any, chance: random.Random) -> None:
    for part in (*request.inputs, *request.outputs):
        part.name = chance.choice(_TEXTS)
    request.model_version = chance.choice(("", "2", "10", *_TEXTS))


def _change_datatype(request: Any, chance: random.Random) -> None:
    for tensor in request.inputs:
        tensor.datatype = chance.choice((*DATATYPES, *_TEXTS))


def _change_model(request: Any, chance: random.Random) -> None:
    echo = f"echo-{chance.choice(tuple(DATATYPES))}"
    request.model_name = chance.choice((echo, "pair", "ragged", "wide", "versioned", *_TEXTS))


def _change_contents(request: Any, chance: random.Random) -> None:
    if len(request.raw_input_contents) and chance.random() < 0.7:
        place = chance.randrange(len(request.raw_input_contents))
        old = request.raw_input_contents[place]
        request.raw_input_contents[place] = chance.choice(_BYTES)(old, b"\xff\xff\xff\xff", chance)
        return
    for tensor in request.inputs:
        contents = tensor.contents
        contents.fp32_contents.extend([float("nan"), 1e38][: chance.randrange(3)])
        contents.int_contents.extend([2**31 - 1, -1][: chance.randrange(3)])
        contents.bytes_contents.extend([b"\xff", b""][: chance.randrange(3)])


def _change_parameters(request: Any, chance: random.Random) -> None:
    kind = chance.choice(tuple(_KINDS))
    holder = chance.choice((request, *request.inputs, *request.outputs))
    values: Any = _KINDS[kind]
    setattr(holder.parameters[chance.choice(_PARAMETERS)], kind, chance.choice(values))


def _change_inputs(request: Any, chance: random.Random) -> None:
    if chance.random() < 0.5 and len(request.inputs):
        request.inputs.append(request.inputs[0])
    elif len(request.inputs):
        del request.inputs[0]
    if chance.random() < 0.3:
        request.raw_input_contents.append(chance.randbytes(chance.randrange(20)))


_CHANGES: tuple[Callable[[Any, random.Random], None], ...] = (
    *(_change_shape, _change_names, _change_datatype, _change_model, _change_contents),
    *(_change_parameters, _change_inputs),
)


# -- running --


def fuzz(*, count: int, seed: int) -> Report:
    """Makes so many calls with mutated messages, and a right one among every hundred."""
    with warnings.catch_warnings():
        # Numbers beyond a model's datatype become infinite, of which NumPy warns.
        warnings.simplefilter("ignore", RuntimeWarning)
        return asyncio.run(_fuzz(count, random.Random(seed)))


async def _fuzz(count: int, chance: random.Random) -> Report:
    others = living_futures()  # of tests that ran before
    report = Report()
    cases = seeds()
    with offered() as models:
        server = create_server(models, limits=LIMITS)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        early = 0
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            for case in cases:
                await _right(channel, case, report)
            numbers = iter(range(count))

            async def worker() -> None:
                nonlocal early
                for number in numbers:
                    await _one(channel, mutated(chance.choice(cases), cases, chance), report)
                    if number % 100 == 0:
                        await _right(channel, chance.choice(cases), report)
                    if number == count // 5:
                        early = _memory()

            await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
            report.growth = _memory() - early
        await server.stop(None)
    report.futures = living_futures() - others
    return report


async def _one(channel: Any, case: Case, report: Report) -> None:
    method, message = case
    try:
        await channel.unary_unary(method)(message, timeout=PATIENCE)
        report.statuses["OK"] += 1
    except grpc.aio.AioRpcError as error:
        report.statuses[error.code().name] += 1
        missed = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and (
            "timeout passed" in str(error.details())
        )
        if error.code() not in EXPECTED and not missed:
            report.unexpected.append((method, message, f"{error.code()}, {error.details()}"))


async def _right(channel: Any, case: Case, report: Report) -> None:
    """A call with nothing wrong is answered, whatever its neighbours send."""
    method, message = case
    try:
        answer = await channel.unary_unary(method)(message, timeout=PATIENCE)
    except grpc.aio.AioRpcError as error:
        if "INT8" not in str(error.details()):  # Predict is for floats
            report.unexpected.append((method, message, f"{error.code()}, {error.details()}"))
        return
    if method == MODEL_INFER:
        sent = pb.ModelInferRequest.FromString(message)
        got = pb.ModelInferResponse.FromString(answer)
        echoed = sent.model_name in ("ragged", "wide") or sent.model_name.startswith("echo-")
        if echoed and got.raw_output_contents != sent.raw_input_contents:
            report.unexpected.append((method, message, f"another answer: {got}"))


def _memory() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> int:
    """Runs it, prints the report; 1 if there is a problem."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    report = fuzz(count=arguments.count, seed=arguments.seed)
    problems = report.problems()
    print(dict(report.statuses), f"memory {report.growth:+} bytes")
    print("\n".join(problems[:20]) or "no problems")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
