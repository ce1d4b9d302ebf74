"""What is refused over gRPC, with which status, and in which words."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from tests.gated import PATIENCE, Gated
from tests.helpers import identity, occupy
from tests.serving.grpc_door import (
    KINDS,
    MODEL_INFER,
    ROW,
    Door,
    door,
    failure_of,
    raw_request,
    typed_request,
)
from tidegate import Batcher, ConfigError, TensorSpec
from tidegate.serving import Limits, Models, Served
from tidegate.serving._proto import open_inference_pb2 as pb
from tidegate.serving.grpc import add_to_server, create_server

LIMITS = Limits(max_message_bytes=2**20, max_rows=16)
SPEC = TensorSpec((3,), "float64")


@pytest.fixture(scope="module", params=KINDS)
def opened(request: pytest.FixtureRequest, models: Models) -> Iterator[Door]:
    """A door of either kind, with limits."""
    with door(models, request.param, limits=LIMITS) as made:
        yield made


Change = Callable[[pb.ModelInferRequest], object]


def request_after(change: Change, typed: bool = False) -> pb.ModelInferRequest:
    made = (typed_request if typed else raw_request)("echo-FP32", input=ROW)
    change(made)
    return made


def timeout_of(kind: str, value: Any) -> Change:
    return lambda request: setattr(request.parameters["timeout"], kind, value)


RAW: dict[str, tuple[Change, str]] = {
    "a datatype that does not exist": (
        lambda request: setattr(request.inputs[0], "datatype", "FP8"),
        "tensor 'input' has the datatype 'FP8'; there are BOOL",
    ),
    "another number of bytes": (
        lambda request: request.inputs[0].shape.__setitem__(0, 2),
        "and shape [2, 3] has 24 bytes, got 12",
    ),
    "a negative length": (
        lambda request: request.inputs[0].shape.__setitem__(0, -1),
        "should be >= 0, got [-1, 3]",
    ),
    "too many axes": (
        lambda request: request.inputs[0].shape.extend([1] * 40),
        "has at most 32 axes, got 42",
    ),
    "no rows": (
        lambda request: (
            request.inputs[0].shape.__setitem__(0, 0),
            request.raw_input_contents.__setitem__(0, b""),
        ),
        "has at least one row, got none",
    ),
    "another shape": (
        lambda request: request.inputs[0].shape.__setitem__(slice(None), [3]),
        "should be FP32 of shape [-1, 3]",
    ),
    "an input twice": (
        lambda request: (
            request.inputs.append(request.inputs[0]),
            request.raw_input_contents.append(b"\0" * 12),
        ),
        "input 'input' comes twice",
    ),
    "an unknown input": (
        lambda request: setattr(request.inputs[0], "name", "other"),
        "has the inputs ['input'], got ['other']",
    ),
    "too few contents": (
        lambda request: request.raw_input_contents.append(b""),
        "one element for each input, 1, got 2",
    ),
    "both contents": (
        lambda request: request.inputs[0].contents.fp32_contents.extend([1, 2, 3]),
        "has contents beside raw_input_contents",
    ),
    "an unknown output": (
        lambda request: request.outputs.add(name="other"),
        "and no 'other'",
    ),
    "a timeout in words": (
        timeout_of("string_param", "soon"),
        "'timeout' should be an integer, got 'soon'",
    ),
    "a boolean timeout": (
        timeout_of("bool_param", True),
        "'timeout' should be an integer, got True",
    ),
    "a broken timeout": (
        timeout_of("double_param", 1.5),
        "'timeout' should be an integer, got 1.5",
    ),
    "a negative timeout": (timeout_of("int64_param", -1), "should be >= 0 microseconds, got -1"),
    "an empty timeout": (
        lambda request: request.parameters["timeout"].SetInParent(),
        "'timeout' should be an integer, got None",
    ),
    "a priority that there is not": (
        lambda request: setattr(request.parameters["priority"], "uint64_param", 2),
        "priority must be 0 or 1",
    ),
}
TYPED: dict[str, tuple[Change, str]] = {
    "too few elements": (
        lambda request: request.inputs[0].contents.fp32_contents.pop(),
        "has 3 elements, got 2",
    ),
    "no elements": (
        lambda request: request.inputs[0].ClearField("contents"),
        "has 3 elements, got 0",
    ),
    "another field": (
        lambda request: (
            request.inputs[0].ClearField("contents"),
            request.inputs[0].contents.fp64_contents.extend([1, 2, 3]),
        ),
        "has its elements in fp32_contents, got fp64_contents",
    ),
    "two fields": (
        lambda request: request.inputs[0].contents.int_contents.append(1),
        "has its elements in fp32_contents, got int_contents, fp32_contents",
    ),
    "FP16, which is raw only": (
        lambda request: setattr(request.inputs[0], "datatype", "FP16"),
        "FP16 has a binary encoding only; send raw_input_contents",
    ),
    "a number beyond its datatype": (
        lambda request: (
            setattr(request, "model_name", "echo-INT8"),
            setattr(request.inputs[0], "datatype", "INT8"),
            request.inputs[0].ClearField("contents"),
            request.inputs[0].contents.int_contents.extend([1, 2, 300]),
        ),
        "should hold elements of INT8, got 300",
    ),
}


@pytest.mark.parametrize("case", RAW)
def test_a_raw_request_that_does_not_fit_is_an_invalid_argument(opened: Door, case: str) -> None:
    change, words = RAW[case]
    opened.infer(raw_request("echo-FP32", input=ROW))  # teaches the outputs
    error = failure_of(opened.infer, request_after(change))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert words in error.details()


@pytest.mark.parametrize("case", TYPED)
def test_a_typed_request_that_does_not_fit_is_an_invalid_argument(opened: Door, case: str) -> None:
    change, words = TYPED[case]
    error = failure_of(opened.infer, request_after(change, typed=True))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert words in error.details()


@pytest.mark.parametrize(
    "method", ["ServerLive", "ServerReady", "ServerMetadata", "ModelMetadata", "ModelInfer"]
)
def test_bytes_that_are_no_message_are_an_invalid_argument(opened: Door, method: str) -> None:
    error = failure_of(opened.raw, f"/inference.GRPCInferenceService/{method}", b"\xff\xff")
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == f"the 2 bytes are no {method}Request"


def test_a_model_that_does_not_exist_is_not_found(opened: Door) -> None:
    error = failure_of(opened.infer, raw_request("nothing", input=ROW))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert "there is no model 'nothing'" in error.details()
    request = pb.ModelMetadataRequest(name="versioned", version="3")
    error = failure_of(opened.ask, "ModelMetadata", request, pb.ModelMetadataResponse)
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert "has no version '3'; it has ['2', '10']" in error.details()


@pytest.mark.parametrize("method", ["ModelStatistics", "RepositoryIndex", "ModelStreamInfer", "X"])
def test_a_method_that_is_not_there_is_unimplemented(opened: Door, method: str) -> None:
    error = failure_of(opened.raw, f"/inference.GRPCInferenceService/{method}", b"")
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert error.details() == f"this server has no {method}"


def test_extensions_that_are_not_there_are_unimplemented(opened: Door) -> None:
    request = raw_request("echo-FP32", input=ROW)
    request.inputs[0].parameters["shared_memory_region"].string_param = "r"
    error = failure_of(opened.infer, request)
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "no shared memory extension" in error.details()
    request = raw_request("echo-FP32", input=ROW)
    request.outputs.add(name="output").parameters["classification"].int64_param = 3
    error = failure_of(opened.infer, request)
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "no classification extension" in error.details()


def test_a_long_text_of_the_clients_is_not_sent_back_whole(opened: Door) -> None:
    error = failure_of(opened.infer, raw_request("n" * 100_000, input=ROW))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert len(error.details()) < 1100


# Limits


def test_a_message_beyond_the_limit_is_refused(opened: Door) -> None:
    rows = np.zeros((1, LIMITS.max_message_bytes), np.uint8)
    for compression in (None, grpc.Compression.Gzip):
        error = failure_of(
            opened.infer, raw_request("echo-FP32", input=rows), compression=compression
        )
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_servers_own_larger_limit_does_not_lift_that_of_the_models(models: Models) -> None:
    options = [("grpc.max_receive_message_length", -1)]
    with door(models, limits=LIMITS, options=options) as opened:
        error = failure_of(opened.raw, MODEL_INFER, bytes(LIMITS.max_message_bytes + 1))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert f"at most {LIMITS.max_message_bytes} bytes" in error.details()


def test_too_many_rows_are_refused(opened: Door) -> None:
    rows = np.ones((LIMITS.max_rows + 1, 3), np.float32)
    for request in (
        raw_request("echo-FP32", input=rows),
        typed_request("echo-FP32", input=rows),
    ):
        error = failure_of(opened.infer, request)
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "at most 16 rows, got 17" in error.details()


# Of each, protobuf would make an object that takes some 90 bytes for every two of the message.
MANY: dict[str, bytes] = {
    "inputs": b"\x2a\x00",
    "outputs": b"\x32\x00",
    "parameters": b"\x22\x00",
    "raw contents": b"\x3a\x00",
}


@pytest.mark.parametrize("part", MANY)
def test_a_message_of_very_many_parts_is_refused_before_it_is_parsed(
    opened: Door, part: str
) -> None:
    error = failure_of(opened.raw, MODEL_INFER, MANY[part] * 2**17)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "at most 1024 parts" in error.details()


def test_a_message_with_a_very_long_shape_is_refused_before_it_is_parsed(opened: Door) -> None:
    request = pb.ModelInferRequest(model_name="echo-FP32")
    request.inputs.add(name="input", datatype="FP32", shape=[1] * 100_000)
    error = failure_of(opened.infer, request)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "shapes of at most 1024 bytes" in error.details()


def test_a_large_message_of_few_parts_is_welcome(opened: Door) -> None:
    sent = np.ones((1, 100_000), np.float32)
    for request in (raw_request("ragged", input=sent), typed_request("ragged", input=sent)):
        assert list(opened.infer(request).outputs[0].shape) == [1, 100_000]


# States


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_queue_says_when_to_try_again(kind: str, model: Gated) -> None:
    with (
        Batcher(model, inputs=SPEC, max_queue_size=1, caller_runs=False) as batcher,
        door(Models(Served("m", batcher)), kind) as opened,
    ):
        occupy(batcher, model)
        waiting = batcher.submit(ROW[0].astype(float))
        error = failure_of(opened.infer, raw_request("m", input=ROW.astype(float)))
        model.gate.set()
        waiting.result(PATIENCE)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert ("grpc-retry-pushback-ms", "1000") in list(error.trailing_metadata())


@pytest.mark.parametrize("kind", KINDS)
def test_a_closed_batcher_is_unavailable(kind: str) -> None:
    batcher = Batcher(identity, inputs=SPEC)
    with door(Models(Served("m", batcher)), kind) as opened:
        batcher.close()
        error = failure_of(opened.infer, raw_request("m", input=ROW.astype(float)))
    assert error.code() is grpc.StatusCode.UNAVAILABLE


def test_a_models_own_words_stay_on_the_server(
    opened: Door, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "tidegate.serving"):
        error = failure_of(opened.infer, raw_request("failing", input=ROW))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert error.details() == "the model failed with RuntimeError"
    assert "the secret of the house" in caplog.text


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_that_nobody_expects_is_internal_and_logged(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Models):
        def get(self, name: str, version: str = "") -> Served:
            raise ZeroDivisionError("the secret of the house")

    with door(Broken(), kind) as opened, caplog.at_level(logging.ERROR, "tidegate.serving"):
        error = failure_of(opened.infer, raw_request("m", input=ROW))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert error.details() == "the request failed with ZeroDivisionError"
    assert "the secret of the house" in caplog.text


@pytest.mark.parametrize("kind", KINDS)
def test_a_models_own_time_limit_is_no_deadline_of_the_call(kind: str) -> None:
    def model(batch: Any) -> Any:
        return [TimeoutError("of something that the model asks") for _ in batch]

    with Batcher(model, inputs=SPEC) as batcher, door(Models(Served("m", batcher)), kind) as opened:
        error = failure_of(opened.infer, raw_request("m", input=ROW.astype(float)))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert error.details() == "the request failed with TimeoutError"


# Servers


def test_what_is_no_server_or_no_models_is_refused(models: Models) -> None:
    with pytest.raises(ConfigError, match=r"grpc\.server\(\), got object"):
        add_to_server(models, object())
    with pytest.raises(ConfigError, match="models must be Models, got dict"):
        create_server({})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="must be called in the event loop"):
        create_server(models)
