"""ModelInfer: every datatype in both encodings, several rows and inputs, and what it gives back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.serving.grpc_door import KINDS, ROW, Door, door, raw_request, typed_request
from tests.serving.models import values_of
from tidegate import Batcher
from tidegate.serving import Models, Served, Tensor
from tidegate.serving._proto import open_inference_pb2 as pb
from tidegate.serving.datatypes import DATATYPES, from_raw
from tidegate.serving.grpc.messages import FIELDS


@pytest.fixture(scope="module", params=KINDS)
def opened(request: pytest.FixtureRequest, models: Models) -> Iterator[Door]:
    """A door of either kind."""
    with door(models, request.param) as made:
        yield made


def output_of(response: pb.ModelInferResponse, index: int = 0) -> Any:
    """An output as an array, in whichever encoding it came."""
    output = response.outputs[index]
    shape = tuple(output.shape)
    if response.raw_output_contents:
        assert not output.HasField("contents")
        return from_raw(output.name, output.datatype, shape, response.raw_output_contents[index])
    values = getattr(output.contents, FIELDS[output.datatype])
    return np.array(list(values), DATATYPES[output.datatype]).reshape(shape)


# Encodings


@pytest.mark.parametrize("datatype", DATATYPES)
@pytest.mark.parametrize("rows", [1, 3])
def test_each_datatype_comes_back_raw(opened: Door, datatype: str, rows: int) -> None:
    sent = values_of(datatype, rows)
    response = opened.infer(raw_request(f"echo-{datatype}", input=sent))
    assert response.outputs[0].datatype == datatype
    assert len(response.raw_output_contents) == 1
    np.testing.assert_array_equal(output_of(response), sent.astype(DATATYPES[datatype]))


@pytest.mark.parametrize("datatype", FIELDS)
@pytest.mark.parametrize("rows", [1, 3])
def test_each_datatype_comes_back_typed(opened: Door, datatype: str, rows: int) -> None:
    sent = values_of(datatype, rows)
    response = opened.infer(typed_request(f"echo-{datatype}", input=sent))
    assert response.outputs[0].datatype == datatype
    assert not response.raw_output_contents
    np.testing.assert_array_equal(output_of(response), sent)


def test_an_output_that_has_no_typed_encoding_is_raw_all_the_same() -> None:
    described = {"input": Tensor("input", "FP32", (3,))}

    def halves(rows: list[Any]) -> list[Any]:
        return [{"half": row.astype(np.float16), "whole": row} for row in rows]

    with Batcher(halves, collate="list") as batcher:
        models = Models(Served("halves", batcher, inputs=described["input"]))
        with door(models) as opened:
            response = opened.infer(typed_request("halves", input=ROW))
    assert [output.datatype for output in response.outputs] == ["FP16", "FP32"]
    assert len(response.raw_output_contents) == 2
    np.testing.assert_array_equal(output_of(response, 0), ROW)
    np.testing.assert_array_equal(output_of(response, 1), ROW)


def test_numbers_that_are_not_finite_travel(opened: Door) -> None:
    sent = np.array([[np.nan, np.inf, -np.inf]], np.float32)
    for request in (raw_request("echo-FP32", input=sent), typed_request("echo-FP32", input=sent)):
        np.testing.assert_array_equal(output_of(opened.infer(request)), sent)


def test_rows_of_any_length(opened: Door) -> None:
    for length in (0, 1, 1000):
        sent = np.arange(length, dtype=np.float32)[np.newaxis]
        for request in (raw_request("ragged", input=sent), typed_request("ragged", input=sent)):
            np.testing.assert_array_equal(output_of(opened.infer(request)), sent)


def test_fields_that_the_protocol_does_not_know_change_nothing(opened: Door) -> None:
    unknown = b"\xa2\x1f\x03new"  # number 500, three bytes
    request = typed_request("echo-FP32", input=ROW)
    contents = request.inputs[0].contents
    contents.MergeFromString(unknown)
    message = request.SerializeToString() + unknown
    response = opened.raw("/inference.GRPCInferenceService/ModelInfer", message)
    np.testing.assert_array_equal(output_of(pb.ModelInferResponse.FromString(response)), ROW)


# Names


def test_several_inputs_and_outputs(opened: Door) -> None:
    request = raw_request("pair", b=ROW, a=5 * ROW)
    response = opened.infer(request)
    assert [output.name for output in response.outputs] == ["sum", "difference"]
    np.testing.assert_array_equal(output_of(response, 0), 6 * ROW)
    np.testing.assert_array_equal(output_of(response, 1), 4 * ROW)


def test_only_the_outputs_that_were_asked_for_come(opened: Door) -> None:
    request = typed_request("pair", a=ROW, b=ROW)
    request.outputs.add(name="difference")
    response = opened.infer(request)
    assert [output.name for output in response.outputs] == ["difference"]


def test_the_id_comes_back_with_the_models_name_and_version(opened: Door) -> None:
    request = raw_request("versioned", input=ROW)
    request.id = "number 7"
    response = opened.infer(request)
    told = (response.id, response.model_name, response.model_version)
    assert told == ("number 7", "versioned", "10")
    np.testing.assert_array_equal(output_of(response), 10 * ROW)


def test_a_version_may_be_asked_for(opened: Door) -> None:
    request = raw_request("versioned", input=ROW)
    request.model_version = "2"
    response = opened.infer(request)
    assert response.model_version == "2"
    np.testing.assert_array_equal(output_of(response), 2 * ROW)


def test_parameters_are_taken_as_integers_or_digits_and_others_ignored(opened: Door) -> None:
    request = raw_request("echo-FP32", input=ROW)
    request.parameters["timeout"].int64_param = 10_000_000
    request.parameters["priority"].uint64_param = 1
    request.parameters["color"].string_param = "blue"
    request.inputs[0].parameters["note"].bool_param = True
    np.testing.assert_array_equal(output_of(opened.infer(request)), ROW)
    request.parameters["timeout"].string_param = "10000000"
    np.testing.assert_array_equal(output_of(opened.infer(request)), ROW)
    for forever in (0, 2**63 - 1):
        request.parameters["timeout"].int64_param = forever
        np.testing.assert_array_equal(output_of(opened.infer(request)), ROW)


# The rest of the protocol


def test_the_server_is_live_and_ready_and_says_what_it_is(opened: Door) -> None:
    import tidegate

    assert opened.ask("ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse).live
    assert opened.ask("ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse).ready
    told = opened.ask("ServerMetadata", pb.ServerMetadataRequest(), pb.ServerMetadataResponse)
    assert (told.name, told.version) == ("tidegate", tidegate.__version__)


def test_a_model_that_does_not_exist_is_not_ready(opened: Door) -> None:
    for name, version, ready in (
        ("versioned", "", True),
        ("versioned", "2", True),
        ("versioned", "3", False),
        ("nothing", "", False),
    ):
        request = pb.ModelReadyRequest(name=name, version=version)
        assert opened.ask("ModelReady", request, pb.ModelReadyResponse).ready == ready


def test_a_model_is_described(opened: Door) -> None:
    opened.infer(raw_request("pair", a=ROW, b=ROW))  # teaches the outputs
    request = pb.ModelMetadataRequest(name="pair")
    told = opened.ask("ModelMetadata", request, pb.ModelMetadataResponse)
    assert (told.name, list(told.versions)) == ("pair", ["1"])

    def described(tensors: Any) -> list[Any]:
        return [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in tensors]

    assert described(told.inputs) == [("a", "FP32", [-1, 3]), ("b", "FP32", [-1, 3])]
    assert described(told.outputs) == [("sum", "FP32", [-1, 3]), ("difference", "FP32", [-1, 3])]
    request.name = "versioned"
    told = opened.ask("ModelMetadata", request, pb.ModelMetadataResponse)
    assert list(told.versions) == ["2", "10"]
