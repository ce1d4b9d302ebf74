"""Inference over HTTP: every datatype, JSON and binary, and what is wrong with a request."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from tests.serving.http import App, ask, infer, request, rows
from tests.serving.models import WIDTH, values_of
from tidegate.serving import Limits, Models
from tidegate.serving.asgi import create_app
from tidegate.serving.datatypes import DATATYPES, from_raw, to_raw, to_values

ECHO = "/v2/models/echo-FP32/infer"


@pytest.fixture(scope="module")
def app(models: Models) -> App:
    """The app under test."""
    return create_app(models, limits=Limits(max_message_bytes=2**20, max_rows=100))


def binary_output(answer: Any, name: str) -> Any:
    """An output that came as binary data."""
    start = int(answer.headers["inference-header-content-length"])
    for output in answer.json["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size", 0)
        if output["name"] == name:
            data = answer.body[start : start + size]
            return from_raw(name, output["datatype"], tuple(output["shape"]), data)
        start += size
    raise AssertionError(f"no output {name}")


# Datatypes


@pytest.mark.parametrize("datatype", sorted(set(DATATYPES) - {"BF16"}))
@pytest.mark.parametrize("count", [1, 5])
def test_each_datatype_comes_back_as_json(app: App, datatype: str, count: int) -> None:
    given = values_of(datatype, count)
    answer = infer(app, f"echo-{datatype}", {"input": given}, id="42")
    assert answer.status == 200, answer.body
    assert answer.headers["content-type"] == "application/json"
    assert answer.json == {
        "model_name": f"echo-{datatype}",
        "model_version": "1",
        "id": "42",
        "outputs": [
            {
                "name": "output",
                "datatype": datatype,
                "shape": [count, WIDTH],
                "data": to_values(given),
            }
        ],
    }


@pytest.mark.parametrize("datatype", sorted(DATATYPES))
@pytest.mark.parametrize("count", [1, 5])
def test_each_datatype_comes_back_as_binary_data(app: App, datatype: str, count: int) -> None:
    given = values_of(datatype, count)
    answer = infer(
        app,
        f"echo-{datatype}",
        {"input": given},
        binary=["input"],
        parameters={"binary_data_output": True},
    )
    assert answer.status == 200, answer.body
    assert answer.headers["content-type"] == "application/octet-stream"
    head = int(answer.headers["inference-header-content-length"])
    assert answer.body[head:] == to_raw(given)
    assert answer.json["outputs"] == [
        {
            "name": "output",
            "datatype": datatype,
            "shape": [count, WIDTH],
            "parameters": {"binary_data_size": len(to_raw(given))},
        }
    ]


def test_nan_and_the_infinities_are_written_as_such(app: App) -> None:
    body = (
        b'{"inputs": [{"name": "input", "shape": [1, 3], "datatype": "FP32", "data": [NaN, %s]}]}'
    )
    answer = ask(app, "POST", ECHO, body % b"Infinity, -Infinity")
    assert b"[NaN,Infinity,-Infinity]" in answer.body
    nan, *infinities = answer.json["outputs"][0]["data"]
    assert math.isnan(nan)
    assert infinities == [math.inf, -math.inf]


def test_text_that_is_no_utf8_has_to_be_asked_for_as_binary_data(app: App) -> None:
    given = np.empty((1, WIDTH), object)
    given[:] = b"\xff"
    answer = infer(app, "echo-BYTES", {"input": given}, binary=["input"])
    assert answer.status == 400
    assert "ask for binary data" in answer.error


def test_bf16_has_to_be_asked_for_as_binary_data(app: App) -> None:
    answer = infer(app, "echo-BF16", {"input": values_of("BF16")}, binary=["input"])
    assert answer.status == 400
    assert "BF16 has a binary encoding only" in answer.error


def test_a_row_of_varying_length_keeps_its_length(app: App) -> None:
    for length in (1, 4, 0):
        answer = infer(app, "ragged", {"input": rows(1, length)})
        assert answer.json["outputs"][0]["shape"] == [1, length]


# Several inputs, outputs, versions


def test_json_and_binary_data_mix(app: App) -> None:
    a, b = rows(2), rows(2) * 10
    for binary in ([], ["a"], ["b"], ["a", "b"]):
        answer = infer(
            app,
            "pair",
            {"a": a, "b": b},
            binary=binary,
            outputs=[
                {"name": "difference", "parameters": {"binary_data": True}},
                {"name": "sum", "parameters": {"binary_data": False}},
            ],
        )
        assert answer.status == 200, answer.body
        by_name = {output["name"]: output for output in answer.json["outputs"]}
        assert by_name["sum"]["data"] == (a + b).ravel().tolist()
        np.testing.assert_array_equal(binary_output(answer, "difference"), a - b)


def test_an_outputs_own_wish_comes_before_the_requests(app: App) -> None:
    answer = infer(
        app,
        "pair",
        {"a": rows(), "b": rows()},
        parameters={"binary_data_output": True},
        outputs=[{"name": "sum", "parameters": {"binary_data": False}}, {"name": "difference"}],
    )
    total, difference = answer.json["outputs"]
    assert (total["name"], total["data"]) == ("sum", (rows() * 2).ravel().tolist())
    assert difference["parameters"] == {"binary_data_size": 4 * WIDTH}


def test_only_the_outputs_that_are_asked_for_come_back(app: App) -> None:
    answer = infer(app, "pair", {"a": rows(), "b": rows()}, outputs=[{"name": "sum"}] * 2)
    assert [output["name"] for output in answer.json["outputs"]] == ["sum"]


def test_a_version_can_be_asked_for(app: App) -> None:
    for path, factor in (("", 10), ("/versions/2", 2), ("/versions/10", 10)):
        answer = infer(app, f"versioned{path}", {"input": rows()})
        assert answer.json["outputs"][0]["data"] == (rows() * factor).ravel().tolist()
        assert answer.json["model_version"] == str(factor)


def test_bodies_without_json_are_one_row(app: App) -> None:
    headers = {"Inference-Header-Content-Length": "0"}
    for model, body, shape in [
        ("echo-FP32", rows().tobytes(), [1, 3]),
        ("echo-BF16", bytes(6), [1, 3]),
        ("ragged", rows(1, 7).tobytes(), [1, 7]),
    ]:
        answer = ask(app, "POST", f"/v2/models/{model}/infer", body, headers)
        assert answer.status == 200, answer.body
        assert answer.json["outputs"][0]["shape"] == shape
        assert answer.body.endswith(body)
    for model, body in [("pair", bytes(12)), ("echo-FP32", bytes(13)), ("echo-BYTES", b"text")]:
        assert ask(app, "POST", f"/v2/models/{model}/infer", body, headers).status == 400


# Parameters


def test_null_is_as_good_as_nothing(app: App) -> None:
    entry: dict[str, Any] = {"name": "input", "shape": [1, 3], "datatype": "FP32"}
    entry["parameters"] = None
    message = {"id": None, "parameters": None, "outputs": None}
    body = json.dumps(message | {"inputs": [entry | {"data": [1, 2, 3]}]}).encode()
    answer = ask(app, "POST", ECHO, body)
    assert answer.status == 200
    assert "id" not in answer.json
    entry |= {"parameters": {"binary_data_size": 12}, "data": None}
    head = json.dumps(message | {"inputs": [entry]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    assert ask(app, "POST", ECHO, head + bytes(12), headers).status == 200


def test_unknown_parameters_are_ignored(app: App) -> None:
    parameters = {"sequence_id": 3, "sequence_start": True, "colour": {"deep": [1]}, "priority": 1}
    assert infer(app, "echo-FP32", {"input": rows()}, parameters=parameters).status == 200


@pytest.mark.parametrize("timeout", [0, 1, 60_000_000, 2**63 - 1])
def test_a_timeout_is_whole_microseconds(app: App, timeout: int) -> None:
    answer = infer(app, "echo-FP32", {"input": rows()}, parameters={"timeout": timeout})
    assert answer.status in (200, 504)  # a microsecond may be over before the model is free


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"timeout": -1}, "timeout should be whole microseconds >= 0, got -1"),
        ({"timeout": 1.5}, "timeout should be"),
        ({"timeout": True}, "timeout should be"),
        ({"timeout": 2**63}, "timeout should be"),
        ({"priority": 2}, "priority must be 0 or 1"),
        ({"priority": "high"}, "priority must be 0 or 1"),
        ({"binary_data_output": 1}, "binary_data_output should be true or false, got 1"),
        ([], "the parameters of the request should be a JSON object"),
    ],
)
def test_known_parameters_are_checked(app: App, parameters: Any, message: str) -> None:
    answer = infer(app, "echo-FP32", {"input": rows()}, parameters=parameters)
    assert answer.status == 400
    assert message in answer.error


# What is wrong with a request

GOOD = {"name": "input", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body is no JSON"),
        (b"{", "the body is no JSON"),
        (b"\xff\xfe\xfd", "the body is no JSON"),
        (b"[" * 100_000, "the body is no JSON"),
        (b"[]", "the body should be a JSON object"),
        (b"{}", "inputs should be a list of tensors, got None"),
        ({"inputs": {}}, "inputs should be a list"),
        ({"inputs": [3]}, "an input should be a JSON object, got 3"),
        ({"inputs": [{}]}, "the name of an input should be a string"),
        ({"inputs": []}, r"has the inputs ['input'], got []"),
        ({"inputs": [GOOD, GOOD]}, "input 'input' was given twice"),
        ({"inputs": [GOOD | {"name": "x"}]}, "has the inputs ['input'], got ['x']"),
        ({"inputs": [GOOD | {"datatype": "FP8"}]}, "datatype 'FP8'"),
        ({"inputs": [GOOD | {"datatype": ["FP32"]}]}, "datatype ['FP32']"),
        ({"inputs": [GOOD | {"datatype": "BYTES", "data": ["a"] * 3}]}, "got datatype BYTES"),
        ({"inputs": [GOOD | {"shape": [3]}]}, "got shape [3]"),
        ({"inputs": [GOOD | {"shape": [1, -3]}]}, "the shape of tensor 'input'"),
        ({"inputs": [GOOD | {"shape": None}]}, "the shape of tensor 'input'"),
        ({"inputs": [GOOD | {"shape": [2, 3]}]}, "has 6 elements, got 3"),
        ({"inputs": [GOOD | {"data": 3}]}, "data of input 'input' should be a list"),
        ({"inputs": [GOOD | {"data": {"a": 1}}]}, "data of input 'input' should be a list"),
        ({"inputs": [GOOD | {"data": [1, 2, "3"]}]}, "elements of type int, str"),
        ({"inputs": [GOOD | {"data": [1, 2, 1e39]}]}, "out of its range"),
        ({"inputs": [GOOD | {"parameters": 3}]}, "the parameters of input 'input'"),
        (
            {"inputs": [GOOD | {"parameters": {"binary_data_size": 12}}]},
            "binary_data_size of input 'input' should be at most the 0 bytes",
        ),
        ({"inputs": [GOOD], "id": 3}, "id should be a string, got 3"),
        ({"inputs": [GOOD], "outputs": {}}, "outputs should be a list"),
        ({"inputs": [GOOD], "outputs": [{"name": "x"}]}, "and no 'x'"),
        (
            {"inputs": [GOOD], "outputs": [{"name": "output", "parameters": {"binary_data": 1}}]},
            "binary_data should be true or false",
        ),
    ],
)
def test_what_is_wrong_is_said(app: App, body: Any, message: str) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    assert infer(app, "echo-FP32", {"input": rows()}).status == 200  # its outputs are known then
    answer = ask(app, "POST", ECHO, data)
    assert answer.status == 400
    assert message in answer.error


@pytest.mark.parametrize(
    ("size", "length", "extra", "message"),
    [
        (12, None, b"", "the body is no JSON"),
        (12, "99999", b"", "should be at most"),
        (12, "-1", b"", "should be a number of bytes, got '-1'"),
        (12, "9" * 20, b"", "should be a number of bytes"),
        (12, "x", b"", "should be a number of bytes, got 'x'"),
        (11, "same", b"", "has 12 bytes, got 11"),
        (13, "same", b"", "should be at most the 12 bytes that follow the JSON, got 13"),
        (-1, "same", b"", "binary_data_size of input 'input' should be at most"),
        (True, "same", b"", "binary_data_size of input 'input' should be at most"),
        (12, "same", b"!", "should be 12 bytes, as the inputs say, got 13 bytes"),
    ],
)
def test_lengths_have_to_agree(
    app: App, size: Any, length: str | None, extra: bytes, message: str
) -> None:
    entry: dict[str, Any] = {key: value for key, value in GOOD.items() if key != "data"}
    entry["parameters"] = {"binary_data_size": size}
    head = json.dumps({"inputs": [entry]}).encode()
    headers = {}
    if length is not None:
        headers["Inference-Header-Content-Length"] = str(len(head)) if length == "same" else length
    answer = ask(app, "POST", ECHO, head + rows().tobytes() + extra, headers)
    assert answer.status == 400
    assert message in answer.error


def test_data_comes_once(app: App) -> None:
    entry = GOOD | {"parameters": {"binary_data_size": 0}}
    head = json.dumps({"inputs": [entry]}).encode()
    answer = ask(app, "POST", ECHO, head, {"Inference-Header-Content-Length": str(len(head))})
    assert (answer.status, "either data or binary data" in answer.error) == (400, True)


@pytest.mark.parametrize(
    "entry",
    [
        {"inputs": [GOOD | {"parameters": {"shared_memory_region": "r"}}]},
        {
            "inputs": [GOOD],
            "outputs": [{"name": "output", "parameters": {"classification": 3}}],
        },
    ],
)
def test_what_only_triton_has_is_not_pretended(app: App, entry: Any) -> None:
    answer = ask(app, "POST", ECHO, json.dumps(entry).encode())
    assert answer.status == 501
    assert "which this server has not" in answer.error


def test_a_message_does_not_give_a_long_name_back_in_full(app: App) -> None:
    body, headers = request({"x" * 100_000: rows()})
    answer = ask(app, "POST", ECHO, body, headers)
    assert answer.status == 400
    assert len(answer.body) < 3000


def test_an_unknown_model_is_404_whatever_the_body(app: App) -> None:
    for model in ("nobody", "echo-FP32/versions/9", "nobody/versions/1"):
        answer = ask(app, "POST", f"/v2/models/{model}/infer", b"?")
        assert answer.status == 404
        assert "no" in answer.error


def test_a_failing_model_is_500_and_tells_only_the_kind(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    answer = infer(app, "failing", {"input": rows()})
    assert answer.status == 500
    assert answer.error == "the model failed with RuntimeError"
    assert "the secret of the house" in caplog.text
