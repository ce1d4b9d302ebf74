"""The native front end: who answers what, and how requests, models and servers end."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hyperframe.frame import DataFrame, GoAwayFrame, RstStreamFrame

from tests import child
from tests.gated import PATIENCE, Gated
from tests.serving.grpc_door import Door, failure_of, raw_request, typed_request
from tests.serving.http2 import Http2
from tidegate import Batcher, ConfigError, ModelError, TensorSpec
from tidegate.serving import Limits, Models, Served, Tensor
from tidegate.serving._proto import tidegate_v1_pb2 as v1
from tidegate.serving.native import OPEN_PATHS, PATHS, NativeServer
from tidegate.serving.native_calls import Calls

pytest.importorskip("tidegate._frontend", reason="the native front end was not built")

SPEC = TensorSpec((3,), "float32")
ROW = np.ones((1, 3), np.float32)
PREDICT = "/tidegate.v1.Inference/Predict"
MESSAGE = v1.PredictRequest(features=[1, 1, 1]).SerializeToString()


TASKS = Path("/proc/self/task")


class Offered:
    """A model on offer natively, with everything around it."""

    def __init__(self, stack: ExitStack, model: Any, **settings: Any) -> None:
        server_settings = {
            name: settings.pop(name)
            for name in ("limits", "threads", "max_connections", "keepalive")
            if name in settings
        }
        outputs = settings.pop("outputs", TensorSpec((3,), "float32"))
        settings.setdefault("inputs", SPEC)
        self.batcher = stack.enter_context(Batcher(model, **settings))
        self.models = Models(Served("m", self.batcher, outputs=outputs))
        self.server = stack.enter_context(NativeServer(self.models, **server_settings))
        self.door = Door(f"127.0.0.1:{self.server.address[1]}")
        stack.callback(self.door.channel.close)

    def infer(self, **settings: Any) -> Any:
        """One request."""
        return self.door.infer(raw_request("m", input=ROW), **settings)

    def start(self, count: int = 1, **settings: Any) -> list[Any]:
        """Requests that are not waited for."""
        method = self.door.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        message = raw_request("m", input=ROW).SerializeToString()
        settings.setdefault("timeout", PATIENCE)
        return [method.future(message, **settings) for _ in range(count)]

    def until_submitted(self, count: int) -> None:
        """Returns once so many rows have come to the batcher."""
        wait_until(lambda: self.batcher.statistics().submitted >= count)


def wait_until(condition: Any) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Closed after the test."""
    with ExitStack() as made:
        yield made


def double(batch: Any) -> Any:
    return batch * 2


# Who answers


def test_plain_requests_never_reach_python(stack: ExitStack) -> None:
    offered = Offered(stack, double)
    for _ in range(10):
        offered.infer()
        offered.door.infer(typed_request("m", input=ROW))
        offered.door.predict(v1.PredictRequest(features=[1, 2, 3]))
    counts = offered.server.statistics()
    assert counts["requests"] == 30
    assert counts["python_requests"] == 0
    assert offered.batcher.statistics().completed == 30


def test_the_methods_that_python_answers_are_those_that_are_handed_to_it() -> None:
    calls = Calls(Models(), Limits(), lambda *_: None, lambda: None)
    assert sorted(PATHS) == sorted(calls.paths)
    assert list(OPEN_PATHS) == calls.open_paths


def test_serving_natively_imports_neither_grpc_nor_protobuf() -> None:
    printed = child.run(
        """
        import sys, numpy
        from tidegate import Batcher, TensorSpec
        from tidegate.serving import Models, Served
        from tidegate.serving.native import NativeServer
        spec = TensorSpec((3,), "float32")
        with Batcher(lambda rows: rows, inputs=spec) as batcher:
            with NativeServer(Models(Served("m", batcher, outputs=spec))) as server:
                print({"grpc", "google.protobuf"} & set(sys.modules))
        """
    )
    assert printed == "set()\n"


def test_without_grpcio_the_calls_that_need_it_say_so(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered = Offered(stack, double)
    monkeypatch.setitem(sys.modules, "tidegate.serving.native_calls", None)
    error = failure_of(offered.door.infer, raw_request("m", input=ROW[:, :2]))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "pip install 'tidegate[serve]'" in error.details()
    assert offered.infer()


def test_conversions_and_errors_are_pythons(stack: ExitStack) -> None:
    offered = Offered(stack, double)
    answer = offered.door.infer(raw_request("m", input=ROW.astype("f8")))
    assert np.frombuffer(answer.raw_output_contents[0], "f4").tolist() == [2, 2, 2]
    error = failure_of(offered.door.infer, raw_request("m", input=ROW[:, :2]))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "FP32 of shape [-1, 3]" in error.details()
    assert offered.server.statistics()["python_requests"] == 2


def test_values_out_of_range_never_reach_the_model(stack: ExitStack) -> None:
    seen: list[Any] = []

    def model(batch: Any) -> Any:
        seen.append(batch.tolist())
        return batch

    offered = Offered(stack, model, inputs=TensorSpec((), "int8"), outputs=TensorSpec((), "int8"))
    good = typed_request("m", input=np.array([5], np.int8))
    bad = typed_request("m", input=np.array([5], np.int8))
    bad.inputs[0].contents.int_contents[:] = [300]
    error = failure_of(offered.door.infer, bad)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    offered.door.infer(good)
    assert seen == [[5]]


def test_a_model_is_served_natively_once_its_outputs_are_known(stack: ExitStack) -> None:
    offered = Offered(stack, double, outputs=None)
    offered.infer()
    wait_until(lambda: offered.infer() and offered.server.statistics()["requests"] > 0)


def test_models_may_come_and_go(stack: ExitStack) -> None:
    offered = Offered(stack, double)
    other = stack.enter_context(Batcher(lambda batch: batch * 3, inputs=SPEC))
    request = raw_request("n", input=ROW)
    assert failure_of(offered.door.infer, request).code() is grpc.StatusCode.NOT_FOUND
    offered.models.add(Served("n", other, outputs=SPEC))
    answer = offered.door.infer(request)
    assert np.frombuffer(answer.raw_output_contents[0], "f4").tolist() == [3, 3, 3]
    offered.models.add(Served("n", offered.batcher, outputs=SPEC, version="2"))

    def newest() -> bool:
        answer = offered.door.infer(request)
        return bool(answer.model_version == "2")

    wait_until(newest)
    offered.models.remove("n", "1")
    offered.models.remove("n", "2")
    wait_until(lambda: failure_of_or_none(offered, request) is grpc.StatusCode.NOT_FOUND)
    assert offered.infer()


def failure_of_or_none(offered: Offered, request: Any) -> Any:
    try:
        offered.door.infer(request)
    except grpc.RpcError as error:
        return error.code()
    return None


def test_outputs_of_a_mapping_are_told_apart_by_name(stack: ExitStack) -> None:
    turn = [0]

    def model(batch: Any) -> Any:
        turn[0] += 1
        answers = [("a", batch), ("b", batch * 2)]
        return dict(answers if turn[0] % 2 else reversed(answers))

    outputs = (Tensor("a", "FP32", (3,)), Tensor("b", "FP32", (3,)))
    offered = Offered(stack, model, outputs=outputs)
    for _ in range(4):
        answer = offered.infer()
        assert [output.name for output in answer.outputs] == ["a", "b"]
        assert [np.frombuffer(raw, "f4")[0] for raw in answer.raw_output_contents] == [1, 2]
    request = raw_request("m", input=ROW)
    request.outputs.add(name="b")
    assert [output.name for output in offered.door.infer(request).outputs] == ["b"]
    assert offered.server.statistics()["python_requests"] == 0


@pytest.mark.parametrize(
    "answer", [lambda b: b * 2.0, lambda b: (b * 2).astype(">f4"), lambda b: list(b * 2)]
)
def test_answers_are_converted_to_what_was_promised(stack: ExitStack, answer: Any) -> None:
    offered = Offered(stack, lambda batch: answer(batch.astype("f8")))
    for _ in range(3):
        (output,), (raw,) = (response := offered.infer()).outputs, response.raw_output_contents
        assert (output.datatype, output.shape) == ("FP32", [1, 3])
        assert np.frombuffer(raw, "<f4").tolist() == [2.0] * 3
    assert offered.server.statistics()["requests"] == 3


def test_a_row_of_a_list_that_fails_harms_no_other(stack: ExitStack) -> None:
    entered = threading.Event()
    gate = threading.Event()

    def model(batch: Any) -> Any:
        entered.set()
        assert gate.wait(PATIENCE)
        return [ValueError("this row") if row[0] < 0 else row.sum() for row in batch]

    offered = Offered(stack, model, outputs=None, caller_runs=False)
    gate.set()
    offered.infer()  # from now on the outputs are known
    gate.clear()
    entered.clear()
    first = offered.start()
    assert entered.wait(PATIENCE)
    method = offered.door.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    message = raw_request("m", input=-ROW).SerializeToString()
    bad, good = method.future(message, timeout=PATIENCE), offered.start()[0]
    offered.until_submitted(4)
    gate.set()
    assert bad.exception(PATIENCE).code() is grpc.StatusCode.INTERNAL
    for call in (*first, good):
        call.result(PATIENCE)


@pytest.mark.parametrize("answer", [lambda b: b[:, :2], lambda b: [1] * len(b)])
def test_answers_that_break_the_promise_are_internal_errors(stack: ExitStack, answer: Any) -> None:
    offered = Offered(stack, answer)
    error = failure_of(offered.infer)
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "promised" in error.details()


def test_a_model_that_raises_fails_its_batch_only(
    stack: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    def model(batch: Any) -> Any:
        if batch[0, 0] < 0:
            raise RuntimeError("secret")
        return batch

    offered = Offered(stack, model)
    error = failure_of(offered.door.infer, raw_request("m", input=-ROW))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in error.details()
    offered.infer()
    (record,) = caplog.records
    assert record.name == "tidegate.serving"
    assert "a batch of calls failed: the model of" in record.message
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "secret"


def test_why_an_answer_has_the_wrong_number_of_rows_or_names_is_logged(
    stack: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    offered = Offered(stack, lambda batch: batch[:0])
    assert failure_of(offered.infer).code() is grpc.StatusCode.INTERNAL
    assert "expected 1 rows from the model, got 0" in caplog.text
    more = Offered(stack, lambda batch: {"output": batch, "more": batch})
    assert failure_of(more.infer).code() is grpc.StatusCode.INTERNAL
    assert "should answer with ['output'], got 2 arrays" in caplog.text


def test_errors_of_others_rows_are_not_the_doors_to_log(
    stack: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    def model(batch: Any) -> Any:
        raise RuntimeError("for its caller")

    offered = Offered(stack, model)
    assert isinstance(offered.batcher.submit(ROW[0]).exception(PATIENCE), ModelError)
    assert not caplog.records


def test_python_and_native_rows_share_a_batch(stack: ExitStack, model: Gated) -> None:
    offered = Offered(stack, model, caller_runs=False)
    offered.batcher.submit(ROW[0])
    model.await_entry()
    future = offered.batcher.submit(ROW[0] * 5)
    started = offered.start(3)
    offered.until_submitted(5)
    model.gate.set()
    assert future.result(PATIENCE).tolist() == [10, 10, 10]
    for call in started:
        call.result(PATIENCE)
    assert offered.batcher.statistics().batches == 2


def test_there_is_memory_for_as_many_rows_as_may_wait(stack: ExitStack, model: Gated) -> None:
    offered = Offered(stack, model, caller_runs=False, max_batch_size=2, max_queue_size=64)
    started = offered.start(66)
    offered.until_submitted(64)
    model.gate.set()
    codes = [call.code() for call in started]
    assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert codes.count(grpc.StatusCode.OK) >= 64


def test_a_request_larger_than_a_batch_has_become_is_split(stack: ExitStack) -> None:
    offered = Offered(stack, double, max_batch_size=8)
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    for most in (8, 2):
        offered.batcher.max_batch_size = most
        answer = offered.door.infer(raw_request("m", input=rows))
        np.testing.assert_array_equal(
            np.frombuffer(answer.raw_output_contents[0], "<f4").reshape(4, 3), 2 * rows
        )


# How requests end


def test_a_cancelled_call_never_reaches_the_model(stack: ExitStack, model: Gated) -> None:
    offered = Offered(stack, model, caller_runs=False)
    first = offered.start()[0]
    model.await_entry()
    cancelled, kept = offered.start(2)
    offered.until_submitted(3)
    cancelled.cancel()
    wait_until(lambda: offered.batcher.statistics().cancelled == 1)
    model.gate.set()
    first.result(PATIENCE)
    kept.result(PATIENCE)
    assert offered.batcher.statistics().rows == 2


def test_a_timeout_that_the_clock_cannot_count_is_none(stack: ExitStack) -> None:
    offered = Offered(stack, double)
    request = raw_request("m", input=ROW)
    for forever in (2**63 // 1000, 2**63 // 1000 + 1, 2**61, 2**62 - 1, 2**63 - 1):
        request.parameters["timeout"].int64_param = forever
        offered.door.infer(request)


def test_a_deadline_that_passes_in_the_queue_ends_the_call(stack: ExitStack, model: Gated) -> None:
    offered = Offered(stack, model, caller_runs=False)
    first = offered.start()[0]
    model.await_entry()
    request = raw_request("m", input=ROW)
    request.parameters["timeout"].int64_param = 20_000
    error = failure_of(offered.door.infer, request)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert offered.start(timeout=0.05)[0].code() is grpc.StatusCode.DEADLINE_EXCEEDED
    wait_until(lambda: offered.batcher.statistics().queue_depth == 0)
    counts = offered.batcher.statistics()
    assert counts.expired + counts.cancelled == 2
    model.gate.set()
    first.result(PATIENCE)
    assert offered.batcher.statistics().rows == 1


@pytest.mark.parametrize("own", [True, False], ids=["the request's", "the batcher's"])
def test_the_timeout_of_a_request_without_memory_counts_from_its_arrival(
    stack: ExitStack, own: bool
) -> None:
    # As many batches as there is memory for are held up, so that the last request is set aside.
    model = Gated()
    settings: dict[str, Any] = {} if own else {"default_timeout": 0.3}
    offered = Offered(stack, model, caller_runs=False, max_batch_size=1, **settings)
    stack.callback(model.gate.set)
    enough = threading.Event()
    handle = offered.server._handle

    def wait_for_enough(kind: str, *what: Any) -> None:
        assert kind != "buffer" or enough.wait(PATIENCE)
        handle(kind, *what)

    offered.server._handle = wait_for_enough  # type: ignore[method-assign]
    first = offered.start()[0]
    model.await_entry()
    request = raw_request("m", input=ROW)
    if own:
        request.parameters["timeout"].int64_param = 300_000
    method = offered.door.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    parked = method.future(request.SerializeToString(), timeout=PATIENCE)
    time.sleep(0.35)
    # The connection has traffic when the request is older than its timeout.
    live = offered.door.channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
    live(b"", timeout=PATIENCE)
    model.gate.set()
    first.result(PATIENCE)
    enough.set()
    assert parked.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "while it waited" in parked.details()


def test_clients_that_vanish_harm_nobody(stack: ExitStack, model: Gated) -> None:
    offered = Offered(stack, model, caller_runs=False)
    first = offered.start()[0]
    model.await_entry()
    kept = offered.start(5)
    offered.until_submitted(6)
    for _ in range(50):
        client = Http2(offered.server.address)
        client.call(1, PREDICT, MESSAGE)
        client.send(client.open(3, PREDICT), DataFrame(3, b"\0\0\0"))
        client.close()
    # Those whose request was read are in the queue and cancelled; the others were cut off before.
    wait_until(lambda: offered.server.statistics()["connections"] == 1)
    wait_until(lambda: offered.batcher.statistics().cancelled == 50)
    model.gate.set()
    first.result(PATIENCE)
    for call in kept:
        call.result(PATIENCE)
    assert offered.batcher.statistics().rows == 6


def test_a_closed_batcher_is_unavailable(stack: ExitStack) -> None:
    offered = Offered(stack, double)
    offered.infer()
    offered.batcher.close()
    assert failure_of(offered.infer).code() is grpc.StatusCode.UNAVAILABLE


def test_calls_in_the_queue_are_unavailable_when_it_is_not_drained(
    stack: ExitStack, model: Gated
) -> None:
    offered = Offered(stack, model, caller_runs=False)
    first = offered.start()[0]
    model.await_entry()
    waiting = offered.start(3)
    offered.until_submitted(4)
    closer = threading.Thread(target=offered.batcher.close, kwargs={"drain": False})
    closer.start()
    assert {call.code() for call in waiting} == {grpc.StatusCode.UNAVAILABLE}
    model.gate.set()
    first.result(PATIENCE)
    closer.join(PATIENCE)


# How connections and servers end


def test_draining_answers_what_has_begun_and_says_goodbye(stack: ExitStack, model: Gated) -> None:
    offered = Offered(stack, model, caller_runs=False)
    with Http2(offered.server.address) as client:
        client.call(1, PREDICT, MESSAGE)
        model.await_entry()
        offered.server.drain()
        goaway = client.until(GoAwayFrame)
        assert (goaway.error_code, goaway.last_stream_id) == (0, 1)
        with pytest.raises(OSError):  # noqa: PT011 - refused or reset, as the kernel likes
            Http2(offered.server.address).answer(1)
        model.gate.set()
        assert client.answer(1)[1]["grpc-status"] == "0"
        assert client.read() is None, "the connection is closed when nothing is left"


def test_stopping_cuts_off_what_takes_too_long(stack: ExitStack, model: Gated) -> None:
    offered = Offered(stack, model, caller_runs=False)
    call = offered.start()[0]
    model.await_entry()
    stopping = threading.Thread(target=offered.server.stop, kwargs={"grace": 0.0})
    stopping.start()
    assert call.code() is grpc.StatusCode.UNAVAILABLE
    stopping.join(PATIENCE)
    assert not stopping.is_alive()  # though the model is still at work
    model.gate.set()
    offered.server.stop()


def test_a_request_that_trickles_in_is_given_up(stack: ExitStack) -> None:
    offered = Offered(stack, double, limits=Limits(receive_timeout=0.2))
    with Http2(offered.server.address) as client:
        client.send(client.open(1, PREDICT))
        _, fields = client.answer(1)
        assert fields["grpc-status"] == "4"
        assert client.until(RstStreamFrame, stream=1).error_code == 0
        client.call(3, PREDICT, MESSAGE)
        assert client.answer(3)[1]["grpc-status"] == "0"


def test_a_connection_that_never_begins_is_closed(stack: ExitStack) -> None:
    offered = Offered(stack, double, limits=Limits(receive_timeout=0.2))
    with socket.create_connection(offered.server.address, timeout=PATIENCE) as silent:
        while silent.recv(4096):
            pass


def test_a_silent_client_is_asked_and_then_closed(stack: ExitStack) -> None:
    offered = Offered(stack, double, keepalive=0.3)
    with Http2(offered.server.address) as client:
        client.call(1, PREDICT, MESSAGE)
        client.answer(1)
        while client.read() is not None:  # our ping is not answered
            pass


def test_connections_beyond_the_limit_are_turned_away(stack: ExitStack) -> None:
    offered = Offered(stack, double, max_connections=2)
    with Http2(offered.server.address) as one, Http2(offered.server.address) as two:
        for client in (one, two):
            client.call(1, PREDICT, MESSAGE)
            assert client.answer(1)[1]["grpc-status"] == "0"
        with Http2(offered.server.address) as third:
            assert third.until(DataFrame) is None


def test_several_threads_serve_one_address(stack: ExitStack) -> None:
    offered = Offered(stack, double, threads=3)
    clients = [stack.enter_context(Http2(offered.server.address)) for _ in range(24)]
    for client in clients:
        for stream in range(1, 21, 2):
            client.call(stream, PREDICT, MESSAGE)
    for client in clients:
        ended = 0
        while ended < 10:
            frame = client.read()
            assert frame is not None
            ended += frame.stream_id != 0 and "END_STREAM" in frame.flags
    counts = offered.server.statistics()
    assert counts["requests"] == 240
    assert counts["connections"] == 24


def test_an_address_that_is_taken_is_an_error(stack: ExitStack) -> None:
    offered = Offered(stack, double)
    with pytest.raises(OSError, match="cannot listen"):
        NativeServer(offered.models, port=offered.server.address[1]).start()


@pytest.mark.parametrize(
    "settings",
    [
        {"threads": 0},
        {"port": 65536},
        {"certificate": "x.pem"},
        {"max_streams": 0},
        {"keepalive": 0},
        {"client_authorities": "x.pem"},
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        NativeServer(Models(), **settings)


def test_a_certificate_that_is_none_is_named(tmp_path: Any) -> None:
    missing = str(tmp_path / "none.pem")
    with pytest.raises(ConfigError, match=r"none\.pem cannot be used"):
        NativeServer(Models(), certificate=missing, key=missing).start()


@pytest.mark.parametrize("way", ["sys.exit(0)", "server.stop(); sys.exit(0)", "os._exit(0)"])
def test_the_child_of_a_fork_leaves_the_server_alone(way: str) -> None:
    child.run(f"""
        import os, socket, sys
        from tidegate.serving import Models
        from tidegate.serving.native import NativeServer

        def serves(address):
            with socket.create_connection(address, timeout=20) as client:
                return client.recv(9)[3] == 4  # SETTINGS

        models = Models()
        with NativeServer(models, threads=2) as server:
            address = server.address
            client = socket.create_connection(address)
            assert serves(address)
            pid = os.fork()
            if pid == 0:
                server.drain()
                {way}
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            assert serves(address)
    """)


def test_connections_end_although_the_child_of_a_fork_has_them_as_well() -> None:
    child.run("""
        import os, socket
        from tidegate.serving import Models
        from tidegate.serving.native import NativeServer

        def connect():
            client = socket.create_connection(server.address, timeout=20)
            assert client.recv(9)[3] == 4  # SETTINGS
            return client

        with NativeServer(Models(), threads=1) as server:
            clients = [connect() for _ in range(50)]
            waits, tells = os.pipe()
            pid = os.fork()
            if pid == 0:  # has the server's ends of the connections, and no longer the clients'
                for client in clients:
                    client.close()
                os.close(tells)
                os.read(waits, 1)
                os._exit(0)
            for client in clients:
                client.close()
                connect().close()  # in the same thread, which has looked at what came before
            os.close(tells)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            connect().close()
    """)


@pytest.mark.parametrize("stopped", [True, False])
def test_the_interpreter_may_end_while_a_server_serves(stopped: bool) -> None:
    child.run(f"""
        import atexit, socket, time
        from hyperframe.frame import DataFrame
        from tests.serving.http2 import Http2
        from tidegate.serving import Models, native

        READY = "/inference.GRPCInferenceService/ServerReady"

        class AskingAtTheEnd:
            def __init__(self, client):
                call = client.open(3, READY), DataFrame(3, bytes(5), flags=["END_STREAM"])
                self.data = b"".join(part.serialize() for part in call)
                self.socket, self.sleep = client.socket, time.sleep

            def __del__(self):
                # When modules are taken apart. What Python is to answer wakes the steward up.
                try:
                    self.socket.sendall(self.data)
                except OSError:
                    pass
                self.sleep(0.2)

        if not {stopped}:
            atexit.unregister(native._abort_all)
        server = native.NativeServer(Models()).start()
        client = Http2(server.address)
        client.call(1, READY, b"")
        client.answer(1)
        asking = AskingAtTheEnd(client)
    """)


def test_an_idle_server_makes_no_wake_ups(stack: ExitStack) -> None:
    before = set(TASKS.iterdir())
    offered = Offered(stack, double, keepalive=None)
    with Http2(offered.server.address) as client:
        client.call(1, PREDICT, MESSAGE)
        client.answer(1)
        ours = [
            task
            for task in set(TASKS.iterdir()) - before
            if "tidegate" in (task / "comm").read_text()
        ]
        assert ours, "the workers have names"
        time.sleep(1.2)  # the last look at a connection that was still young
        switches = [voluntary_switches(task) for task in ours]
        time.sleep(0.5)
        assert [voluntary_switches(task) for task in ours] == switches


def voluntary_switches(task: Path) -> int:
    status = (task / "status").read_text()
    return int(status.split("\nvoluntary_ctxt_switches:")[1].split()[0])
