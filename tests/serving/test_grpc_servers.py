"""Health, reflection and tokens, on servers of both kinds."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from tests.gated import PATIENCE, Gated, until
from tests.helpers import identity, occupy
from tests.serving.grpc_door import (
    KINDS,
    MODEL_INFER,
    PREDICT,
    ROW,
    Door,
    door,
    failure_of,
    raw_request,
)
from tests.test_cli import python
from tidegate import Batcher, TensorSpec
from tidegate.serving import Limits, Models, Served, Tokens
from tidegate.serving._proto import open_inference_pb2 as pb
from tidegate.serving._proto import tidegate_v1_pb2 as v1
from tidegate.serving.grpc import server_options

SPEC = TensorSpec((3,), "float32")
CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
SERVICES = ("inference.GRPCInferenceService", "tidegate.v1.Inference")


@pytest.fixture
def own() -> Iterator[Models]:
    """Two models that a test may close."""
    with Batcher(identity, inputs=SPEC) as first, Batcher(identity, inputs=SPEC) as second:
        yield Models(Served("first", first), Served("second", second))


def health(opened: Door, name: str = "") -> int:
    request = health_pb2.HealthCheckRequest(service=name)
    return int(opened.call(CHECK, request, health_pb2.HealthCheckResponse).status)


# Health


@pytest.mark.parametrize("kind", KINDS)
def test_health_follows_each_model_and_the_whole_them_all(kind: str, own: Models) -> None:
    with door(own, kind) as opened:
        assert {health(opened, name) for name in ("", "first", "second", *SERVICES)} == {SERVING}
        own.get("second").batcher.close()
        assert health(opened, "first") == SERVING
        assert {health(opened, name) for name in ("", "second", *SERVICES)} == {NOT_SERVING}
        own.remove("second", "1")
        assert health(opened) == SERVING
        error = failure_of(health, opened, "second")
    assert error.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("kind", KINDS)
def test_draining_turns_all_readiness_false_and_answers_go_on(kind: str, own: Models) -> None:
    with door(own, kind) as opened:
        own.drain()
        assert {health(opened, name) for name in ("", "first", *SERVICES)} == {NOT_SERVING}
        ready = opened.ask("ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse)
        model = pb.ModelReadyRequest(name="first")
        first = opened.ask("ModelReady", model, pb.ModelReadyResponse)
        assert (ready.ready, first.ready) == (False, False)
        assert opened.ask("ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse).live
        assert opened.infer(raw_request("first", input=ROW)).model_name == "first"


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_is_stuck_is_not_healthy(kind: str, model: Gated) -> None:
    with Batcher(model, inputs=TensorSpec((3,), "float64"), caller_runs=False) as batcher:
        models = Models(Served("m", batcher, stuck_after=0.001))
        with door(models, kind) as opened:
            occupy(batcher, model)
            until(lambda: health(opened, "m") == NOT_SERVING)
            model.gate.set()
            until(lambda: health(opened, "m") == SERVING)


def test_a_watcher_is_told_of_each_change_and_let_go_when_the_server_drains(own: Models) -> None:
    with door(own) as opened:
        watch = opened.channel.unary_stream(
            WATCH, response_deserializer=health_pb2.HealthCheckResponse.FromString
        )
        request = health_pb2.HealthCheckRequest(service="second").SerializeToString()
        told = watch(request, timeout=PATIENCE)
        assert next(told).status == SERVING
        own.get("second").batcher.close()
        assert next(told).status == NOT_SERVING
        own.remove("second", "1")
        assert next(told).status == SERVICE_UNKNOWN
        whole = watch(b"", timeout=PATIENCE)
        assert next(whole).status == SERVING
        own.drain()
        assert [each.status for each in whole] == [NOT_SERVING]
        assert list(told) == []


def test_a_server_of_threads_keeps_its_threads_from_watchers(own: Models) -> None:
    with door(own, "threads") as opened:
        watching = opened.channel.unary_stream(WATCH)(b"", timeout=PATIENCE)
        error = failure_of(list, watching)
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "use Check" in error.details()


@pytest.mark.parametrize("kind", KINDS)
def test_health_checks_that_are_no_messages_are_invalid_arguments(kind: str, own: Models) -> None:
    with door(own, kind) as opened:
        error = failure_of(opened.raw, CHECK, b"\xff\xff")
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        if kind == "aio":
            watching = opened.channel.unary_stream(WATCH)(b"\xff\xff", timeout=PATIENCE)
            error = failure_of(list, watching)
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


# Reflection


def reflect(opened: Door, *requests: reflection_pb2.ServerReflectionRequest) -> list[Any]:
    call = opened.channel.stream_stream(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    return list(call(iter(requests), timeout=PATIENCE))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "native"])
def test_reflection_lists_the_services_and_describes_them(kind: str, own: Models) -> None:
    ask = reflection_pb2.ServerReflectionRequest
    with door(own, kind) as opened:
        listed, inference, small, checks, nothing = reflect(
            opened,
            ask(list_services=""),
            ask(file_containing_symbol="inference.GRPCInferenceService"),
            ask(file_containing_symbol="tidegate.v1.Inference"),
            ask(file_containing_symbol="grpc.health.v1.Health"),
            ask(file_containing_symbol="no.such.Thing"),
        )
    assert {each.name for each in listed.list_services_response.service} == {
        *SERVICES,
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }

    def methods(response: Any) -> list[str]:
        (file,) = response.file_descriptor_response.file_descriptor_proto
        described = descriptor_pb2.FileDescriptorProto.FromString(file)
        return [method.name for method in described.service[0].method]

    assert methods(inference) == [
        *("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata"),
        "ModelInfer",
    ]
    assert methods(small) == ["Predict"]
    assert "Check" in methods(checks)
    assert nothing.HasField("error_response")


# Tokens


@pytest.mark.parametrize("kind", KINDS)
def test_only_calls_with_a_token_come_through(kind: str, own: Models) -> None:
    request = raw_request("first", input=ROW)
    with door(own, kind, tokens=Tokens(["sesame", "old"])) as opened:
        for token in ("sesame", "old"):
            metadata = [("authorization", f"Bearer {token}")]
            assert opened.infer(request, metadata=metadata).model_name == "first"
        for metadata, words in (
            ([], "a token is needed"),
            ([("authorization", "Bearer guess")], "not one that this server accepts"),
            ([("authorization", "Basic c2VzYW1l")], "must be 'Bearer <token>'"),
        ):
            for method in ("ModelInfer", "ServerLive", "NoSuchMethod"):
                error = failure_of(
                    opened.raw,
                    f"/inference.GRPCInferenceService/{method}",
                    request.SerializeToString(),
                    metadata=metadata,
                )
                assert error.code() is grpc.StatusCode.UNAUTHENTICATED
                assert words in error.details()
        error = failure_of(reflect, opened)
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
        assert health(opened, "first") == SERVING


def test_a_call_without_a_token_is_refused_before_its_message_has_come(own: Models) -> None:
    halt = threading.Event()

    def nothing_yet() -> Iterator[bytes]:
        halt.wait(PATIENCE)
        yield from ()

    try:
        with door(own, tokens=Tokens(["sesame"])) as opened:
            call = opened.channel.stream_unary(PREDICT)
            error = failure_of(call, nothing_yet(), timeout=PATIENCE)
            assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    finally:
        halt.set()


# Options


def test_options_follow_the_limits() -> None:
    options = dict(server_options(Limits(max_message_bytes=123)))
    assert options["grpc.max_receive_message_length"] == 123
    assert dict(server_options())["grpc.max_receive_message_length"] == 64 * 2**20


def test_a_port_that_is_taken_is_an_error_and_not_shared(own: Models) -> None:
    options = server_options()
    first = grpc.server(None, options=options)  # type: ignore[arg-type]
    second = grpc.server(None, options=options)  # type: ignore[arg-type]
    port = first.add_insecure_port("127.0.0.1:0")
    with pytest.raises(RuntimeError, match="bind"):
        second.add_insecure_port(f"127.0.0.1:{port}")


def test_a_server_may_offer_more_than_models(own: Models) -> None:
    class Own(grpc.GenericRpcHandler):  # type: ignore[type-arg]
        def service(self, handler_call_details: Any) -> Any:
            if handler_call_details.method == "/my.Service/Greet":
                return grpc.unary_unary_rpc_method_handler(lambda message, context: b"hello")
            return None

    from concurrent.futures import ThreadPoolExecutor

    from tidegate.serving.grpc import add_to_server

    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        add_to_server(own, server, health=False, reflection=False)
        server.add_generic_rpc_handlers((Own(),))
        opened = Door(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
        server.start()
        try:
            assert opened.raw("/my.Service/Greet", b"") == b"hello"
            predicted = opened.predict(v1.PredictRequest(model_name="first", features=[1, 2, 3]))
            assert list(predicted.predictions) == [1, 2, 3]
            error = failure_of(health, opened)
            assert error.code() is grpc.StatusCode.UNIMPLEMENTED
        finally:
            opened.channel.close()
            assert server.stop(None).wait(PATIENCE)


def test_a_burst_of_calls_is_answered_and_none_is_ended_at_random(own: Models) -> None:
    message = raw_request("first", input=ROW).SerializeToString()
    own.get("first").batcher.max_queue_size = 10_000
    with door(own) as opened:
        ask = opened.channel.unary_unary(MODEL_INFER).future
        calls = [ask(message, timeout=3 * PATIENCE) for _ in range(2500)]
        codes = {call.code() for call in calls}
    assert codes == {grpc.StatusCode.OK}


@pytest.mark.parametrize(
    ("module", "what"),
    [
        ("grpc", "tidegate.serving.grpc needs grpcio and protobuf"),
        ("google.protobuf", "tidegate.serving.grpc needs grpcio and protobuf"),
        ("grpc_health", "health checks over gRPC need grpcio-health-checking"),
        ("grpc_reflection", "reflection over gRPC needs grpcio-reflection"),
    ],
)
def test_what_a_package_that_is_missing_is_for_and_how_it_comes_is_said(
    module: str, what: str
) -> None:
    program = (
        f"import sys; sys.modules[{module!r}] = None; from tidegate.serving import Models; "
        "from tidegate.serving.grpc import add_to_server; import grpc, concurrent.futures as f; "
        "add_to_server(Models(), grpc.server(f.ThreadPoolExecutor(1)))"
    )
    said = python("-c", program).stderr.splitlines()[-1]
    assert said.startswith(f"ModuleNotFoundError: {what}: pip install 'tidegate[serve]'")
