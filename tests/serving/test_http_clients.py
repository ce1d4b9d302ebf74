"""Clients that people have already, unchanged: tritonclient's two for HTTP, and plain ones."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from tests.gated import PATIENCE
from tests.serving.http import Server, rows
from tests.serving.models import values_of
from tidegate.serving import Models
from tidegate.serving.asgi import create_app
from tidegate.serving.datatypes import DATATYPES


@pytest.fixture(scope="module")
def server(models: Models) -> Iterator[Server]:
    """The app behind uvicorn."""
    with Server(create_app(models)) as started:
        yield started


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    """Tritonclient's for threads."""
    with triton.InferenceServerClient(server.url, network_timeout=PATIENCE) as made:
        yield made


def an_input(name: str, array: Any, *, binary: bool = True) -> Any:
    made = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def test_tritonclient_asks_what_there_is(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("versioned", "2")
    assert not client.is_model_ready("versioned", "3")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    assert client.get_model_metadata("pair")["inputs"][0]["name"] == "a"
    assert {"name": "wide", "version": "1", "state": "READY", "reason": ""} in (
        client.get_model_repository_index()
    )


@pytest.mark.parametrize("datatype", sorted(DATATYPES))
@pytest.mark.parametrize("binary", [True, False])
def test_tritonclient_gets_its_own_data_back(client: Any, datatype: str, binary: bool) -> None:
    if datatype == "BF16" and not binary:
        pytest.skip("BF16 has a binary encoding only")
    given = values_of(datatype)
    outputs = [triton.InferRequestedOutput("output", binary_data=binary)]
    answer = client.infer(
        f"echo-{datatype}", [an_input("input", given, binary=binary)], outputs=outputs
    )
    got = answer.as_numpy("output")
    if datatype == "BYTES" and not binary:
        got = np.vectorize(str.encode, otypes=[object])(got)
    np.testing.assert_array_equal(got, given)


@pytest.mark.parametrize("sent", [None, "gzip", "deflate"])
@pytest.mark.parametrize("asked", [None, "gzip", "deflate"])
def test_tritonclient_compresses_both_ways(client: Any, sent: str, asked: str) -> None:
    a, b = rows(4), rows(4) * 3
    answer = client.infer(
        "pair",
        [an_input("a", a), an_input("b", b, binary=False)],
        request_id="id-1",
        request_compression_algorithm=sent,
        response_compression_algorithm=asked,
        priority=1,
        timeout=10_000_000,
    )
    np.testing.assert_array_equal(answer.as_numpy("sum"), a + b)
    np.testing.assert_array_equal(answer.as_numpy("difference"), a - b)
    assert answer.get_response()["id"] == "id-1"


def test_tritonclient_raises_what_went_wrong(client: Any) -> None:
    for model, given, status in [
        ("nobody", rows(), "404"),
        ("echo-FP32", rows(1, 4), "400"),
        ("failing", rows(), "500"),
    ]:
        with pytest.raises(InferenceServerException) as caught:
            client.infer(model, [an_input("input", given)])
        assert caught.value.status() == status
        assert caught.value.message()


def test_tritonclient_asks_for_many_at_once(server: Server) -> None:
    with triton.InferenceServerClient(
        server.url, concurrency=8, network_timeout=PATIENCE
    ) as client:
        pending = [
            client.async_infer("echo-FP32", [an_input("input", rows() + number)])
            for number in range(40)
        ]
        for number, each in enumerate(pending):
            np.testing.assert_array_equal(each.get_result().as_numpy("output"), rows() + number)


@pytest.mark.parametrize("asked", [None, "gzip", "deflate"])
def test_tritonclient_for_asyncio_works_as_well(server: Server, asked: str) -> None:
    async def main() -> None:
        async with triton_aio.InferenceServerClient(server.url) as client:
            assert await client.is_server_live()
            assert await client.is_server_ready()
            metadata = await client.get_model_metadata("versioned")
            assert metadata["versions"] == ["2", "10"]
            answers = await asyncio.gather(
                *[
                    client.infer(
                        "versioned",
                        [an_input("input", rows() + number)],
                        model_version="2",
                        request_compression_algorithm=asked,
                        response_compression_algorithm=asked,
                    )
                    for number in range(20)
                ]
            )
            for number, answer in enumerate(answers):
                np.testing.assert_array_equal(answer.as_numpy("output"), (rows() + number) * 2)
            with pytest.raises(InferenceServerException, match="no model 'nobody'"):
                await client.infer("nobody", [an_input("input", rows())])

    asyncio.run(asyncio.wait_for(main(), PATIENCE))


def test_a_client_that_lists_codings_by_itself_gets_a_plain_answer(server: Server) -> None:
    entry = {"name": "input", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}
    url = f"http://{server.url}/v2/models/echo-FP32/infer"
    with httpx.Client(timeout=PATIENCE) as client:
        answer = client.post(url, json={"inputs": [entry]})
    assert answer.json()["outputs"][0]["data"] == [1.0, 2.0, 3.0]
    assert "content-encoding" not in answer.headers


def test_a_request_as_curl_sends_it_is_understood(server: Server) -> None:
    entry = {"name": "input", "shape": [1, 3], "datatype": "FP32", "data": [[1, 2, 3]]}
    request = urllib.request.Request(
        f"http://{server.url}/v2/models/echo-FP32/infer",
        json.dumps({"inputs": [entry]}).encode(),
        {"Content-Type": "application/x-www-form-urlencoded", "Expect": "100-continue"},
    )
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        assert json.load(answer)["outputs"][0]["data"] == [1.0, 2.0, 3.0]


def test_a_name_may_hold_what_has_to_be_quoted(models: Models) -> None:
    name = "größe 7%"
    source = models.get("echo-FP32")
    offered = Models(type(source)(name, source.batcher))
    with (
        Server(create_app(offered)) as server,
        triton.InferenceServerClient(server.url, network_timeout=PATIENCE) as client,
    ):
        assert client.get_model_metadata(name)["name"] == name
        answer = client.infer(name, [an_input("input", rows())])
    np.testing.assert_array_equal(answer.as_numpy("output"), rows())
