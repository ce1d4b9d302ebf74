"""tritonclient.grpc in the server's own process, unchanged: sync and asyncio."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

from tests.gated import PATIENCE, Gated
from tests.serving.grpc_door import KINDS, Door, door, in_loop
from tests.serving.models import values_of
from tidegate import Batcher, TensorSpec
from tidegate.serving import Models, Served
from tidegate.serving.datatypes import DATATYPES


@pytest.fixture(scope="module", params=KINDS)
def opened(request: pytest.FixtureRequest, models: Models) -> Iterator[Door]:
    """A door of either kind."""
    with door(models, request.param) as made:
        yield made


@pytest.fixture
def client(opened: Door) -> Iterator[Any]:
    """A client for threads."""
    with triton.InferenceServerClient(opened.address) as made:
        yield made


def inputs_of(name: str, array: Any) -> list[Any]:
    datatype = triton.np_to_triton_dtype(array.dtype)
    made = triton.InferInput(name, list(array.shape), datatype)
    return [made.set_data_from_numpy(array)]


def test_it_finds_server_and_models(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("versioned", "2")
    assert not client.is_model_ready("nothing")
    assert client.get_server_metadata().name == "tidegate"
    metadata = client.get_model_metadata("pair", as_json=True)
    assert metadata["inputs"][0] == {"name": "a", "datatype": "FP32", "shape": ["-1", "3"]}


@pytest.mark.parametrize("datatype", DATATYPES)
def test_each_datatype_is_answered(client: Any, datatype: str) -> None:
    sent = values_of(datatype)
    result = client.infer(f"echo-{datatype}", inputs_of("input", sent), client_timeout=PATIENCE)
    got = result.as_numpy("output")
    assert got.shape == sent.shape
    np.testing.assert_array_equal(got, sent)


def test_outputs_ids_and_compression(client: Any) -> None:
    ones = np.ones((2, 3), np.float32)
    result = client.infer(
        "pair",
        inputs_of("a", ones) + inputs_of("b", ones),
        outputs=[triton.InferRequestedOutput("sum")],
        request_id="7",
        priority=1,
        timeout=10_000_000,
        parameters={"note": "ignored"},
        compression_algorithm="gzip",
    )
    np.testing.assert_array_equal(result.as_numpy("sum"), 2 * ones)
    assert result.as_numpy("difference") is None
    assert result.get_response().id == "7"


def test_errors_have_statuses_and_words(client: Any) -> None:
    ones = inputs_of("input", np.ones((1, 3), np.float32))
    for ask, status, words in (
        (lambda: client.infer("nothing", ones), "NOT_FOUND", "there is no model"),
        (lambda: client.infer("wide", ones), "INVALID_ARGUMENT", "shape"),
        (lambda: client.infer("failing", ones), "INTERNAL", "the model failed"),
        (lambda: client.get_model_metadata("nothing"), "NOT_FOUND", "there is no model"),
        (client.get_model_repository_index, "UNIMPLEMENTED", "no RepositoryIndex"),
        (client.get_inference_statistics, "UNIMPLEMENTED", "no ModelStatistics"),
        (client.get_cuda_shared_memory_status, "UNIMPLEMENTED", "no CudaSharedMemoryStatus"),
    ):
        with pytest.raises(InferenceServerException) as caught:
            ask()
        assert caught.value.status() == f"StatusCode.{status}"
        assert words in caught.value.message()


@pytest.mark.parametrize("kind", KINDS)
def test_timeouts_of_both_sorts_end_a_request(kind: str, model: Gated) -> None:
    with (
        Batcher(model, inputs=TensorSpec((3,), "float64"), caller_runs=False) as batcher,
        door(Models(Served("m", batcher)), kind) as opened,
        triton.InferenceServerClient(opened.address) as client,
    ):
        sent = inputs_of("input", np.ones((1, 3)))
        running = batcher.submit(np.ones(3))
        model.await_entry()
        with pytest.raises(InferenceServerException, match="timeout passed"):
            client.infer("m", sent, timeout=1000)
        with pytest.raises(InferenceServerException, match="DEADLINE_EXCEEDED"):
            client.infer("m", sent, client_timeout=0.05)
        model.gate.set()
        running.result(PATIENCE)
        assert client.infer("m", sent).as_numpy("output")[0, 0] == 2
    assert model.rows_seen == 2


def test_a_request_of_a_thread_can_be_cancelled(model: Gated) -> None:
    with (
        Batcher(model, inputs=TensorSpec((3,), "float64"), caller_runs=False) as batcher,
        door(Models(Served("m", batcher))) as opened,
        triton.InferenceServerClient(opened.address) as client,
    ):
        running = batcher.submit(np.ones(3))
        model.await_entry()
        ended = threading.Event()
        outcome: list[Any] = []

        def told(result: Any, error: Any) -> None:
            outcome.append(error)
            ended.set()

        call = client.async_infer("m", inputs_of("input", np.ones((1, 3))), told)
        call.cancel()
        assert ended.wait(PATIENCE)
        assert outcome[0].status() == "StatusCode.CANCELLED"
        model.gate.set()
        running.result(PATIENCE)


def test_asyncio_clients_are_answered(opened: Door) -> None:
    async def ask() -> None:
        async with triton_aio.InferenceServerClient(opened.address) as client:
            assert await client.is_server_ready()
            assert (await client.get_model_metadata("pair")).name == "pair"
            sent = values_of("BYTES")
            result = await client.infer("echo-BYTES", inputs_of("input", sent))
            np.testing.assert_array_equal(result.as_numpy("output"), sent)
            with pytest.raises(InferenceServerException, match="there is no model"):
                await client.infer("nothing", inputs_of("input", sent))

    in_loop(ask())
