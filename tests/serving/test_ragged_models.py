"""Models of ragged rows behind the doors: any length, and k rows of one length at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.gated import PATIENCE
from tests.serving.grpc_door import KINDS, Door, door, raw_request, typed_request
from tests.serving.http import ask, infer
from tidegate import Batcher, InputError, OutputError, PerToken, TensorSpec
from tidegate.serving import Models, Served, Tensor
from tidegate.serving._proto import open_inference_pb2 as pb
from tidegate.serving._proto import tidegate_v1_pb2 as v1
from tidegate.serving.asgi import create_app
from tidegate.serving.datatypes import from_raw

IDS = TensorSpec((None,), "int64", name="ids")
PAIR = {"vectors": TensorSpec((None, 2), "float32"), "scale": TensorSpec((), "float32")}


def tagger(batch: Any) -> Any:
    """Something for each token and something for each row, whatever the collation."""
    lengths = batch.lengths if hasattr(batch, "lengths") else np.diff(batch.cu_seqlens)
    return {"tags": PerToken(batch.values * 2), "length": lengths}


def scaled(batch: Any) -> Any:
    """One answer for each token."""
    lengths = np.diff(batch.cu_seqlens)
    return PerToken(batch.values["vectors"] * np.repeat(batch.values["scale"], lengths)[:, None])


@pytest.fixture(scope="module")
def models() -> Iterator[Models]:
    """A padded model, a packed one, and one of two inputs."""
    with (
        Batcher(tagger, inputs=IDS, collate="pad", pad_to=[4, 8], max_batch_size=4) as padded,
        Batcher(tagger, inputs=IDS, collate="pack", max_batch_cost=50) as packed,
        Batcher(scaled, inputs=PAIR, collate="pack", group_key=lambda x: len(x)) as pair,
    ):
        yield Models(Served("pad", padded), Served("pack", packed), Served("pair", pair))


def ids(rows: int, length: int) -> Any:
    return np.arange(rows * length, dtype=np.int64).reshape(rows, length)


BOTH = pytest.mark.parametrize("model", ["pad", "pack"])
SHAPES = pytest.mark.parametrize(("rows", "length"), [(1, 3), (1, 0), (3, 5), (7, 1), (2, 0)])


# Served


@BOTH
@SHAPES
def test_rows_of_one_length_come_back_as_one_tensor(
    models: Models, model: str, rows: int, length: int
) -> None:
    sent = ids(rows, length)
    answer = models.get(model).submit({"ids": sent}).result(PATIENCE)
    np.testing.assert_array_equal(answer["tags"], sent * 2)
    assert answer["tags"].shape == (rows, length)
    np.testing.assert_array_equal(answer["length"], [length] * rows)


def test_lengths_that_vary_are_shown_as_such(models: Models) -> None:
    models.get("pad").submit({"ids": ids(1, 4)}).result(PATIENCE)
    served = models.get("pad")
    assert served.inputs == (Tensor("ids", "INT64", (-1,)),)
    assert served.outputs == (Tensor("tags", "INT64", (-1,)), Tensor("length", "INT32", ()))
    # Learned from a request of four tokens, and no other length is refused.
    assert served.submit({"ids": ids(1, 7)}).result(PATIENCE)["tags"].shape == (1, 7)


def test_an_output_may_be_said_to_vary() -> None:
    with Batcher(scaled, inputs=PAIR, collate="pack") as batcher:
        served = Served("m", batcher, outputs=TensorSpec((None, 2), "float32", name="scaled"))
        assert served.outputs == (Tensor("scaled", "FP32", (-1, 2)),)
        sent = {"vectors": np.ones((2, 3, 2), "f4"), "scale": np.array([2, 3], "f4")}
        answer = served.submit(sent).result(PATIENCE)["scaled"]
        assert answer[:, 0, 0].tolist() == [2, 3]


def test_a_request_that_is_too_long_or_too_dear_is_an_input_error(models: Models) -> None:
    with pytest.raises(InputError, match="at most 8 tokens, got 9"):
        models.get("pad").submit({"ids": ids(1, 9)})
    with pytest.raises(InputError, match="at most 8 tokens, got 9"):
        models.get("pad").submit({"ids": ids(3, 9)})
    with pytest.raises(InputError, match="above max_batch_cost=50"):
        models.get("pack").submit({"ids": ids(2, 51)})


def test_rows_that_were_answered_with_different_lengths_make_no_tensor() -> None:
    def odd(batch: Any) -> Any:
        return [np.zeros(number) for number in range(len(batch.lengths))]

    with (
        Batcher(odd, inputs=IDS, collate="pad") as batcher,
        pytest.raises(OutputError, match="make no arrays"),
    ):
        Served("m", batcher).submit({"ids": ids(3, 2)}).result(PATIENCE)


def test_an_example_teaches_what_varies() -> None:
    with Batcher(tagger, inputs=IDS, collate="pack") as batcher:
        served = Served("m", batcher, example=[1, 2, 3])
        assert served.outputs[0] == Tensor("tags", "INT64", (-1,))


# HTTP


def tensors_of(answer: Any) -> dict[str, Any]:
    return {each["name"]: (each["shape"], each.get("data")) for each in answer.json["outputs"]}


@BOTH
@SHAPES
def test_http_takes_rows_of_one_length(models: Models, model: str, rows: int, length: int) -> None:
    sent = ids(rows, length)
    answer = infer(create_app(models), model, {"ids": sent})
    assert answer.status == 200
    assert tensors_of(answer)["tags"] == ([rows, length], (sent * 2).ravel().tolist())


def test_http_shows_lengths_that_vary(models: Models) -> None:
    app = create_app(models)
    infer(app, "pair", {"vectors": np.ones((1, 4, 2), "f4"), "scale": np.ones(1, "f4")})
    described = ask(app, "GET", "/v2/models/pair").json
    assert [each["shape"] for each in described["inputs"]] == [[-1, -1, 2], [-1]]
    assert [each["shape"] for each in described["outputs"]] == [[-1, -1, 2]]


def test_http_refuses_what_is_too_long(models: Models) -> None:
    answer = infer(create_app(models), "pad", {"ids": ids(1, 9)})
    assert answer.status == 400
    assert "at most 8 tokens, got 9" in answer.error


# gRPC


@pytest.fixture(scope="module", params=KINDS)
def opened(request: pytest.FixtureRequest, models: Models) -> Iterator[Door]:
    """A door of either kind."""
    with door(models, request.param) as made:
        yield made


@BOTH
@SHAPES
@pytest.mark.parametrize("encode", [raw_request, typed_request])
def test_grpc_takes_rows_of_one_length(
    opened: Door, model: str, rows: int, length: int, encode: Any
) -> None:
    sent = ids(rows, length)
    response = opened.infer(encode(model, ids=sent))
    tags = next(each for each in response.outputs if each.name == "tags")
    assert list(tags.shape) == [rows, length]
    if response.raw_output_contents:
        found = from_raw("tags", "INT64", (rows, length), response.raw_output_contents[0])
    else:
        found = np.array(tags.contents.int64_contents).reshape(rows, length)
    np.testing.assert_array_equal(found, sent * 2)


def test_grpc_shows_lengths_that_vary(opened: Door) -> None:
    opened.infer(raw_request("pack", ids=ids(1, 2)))
    described = opened.ask(
        "ModelMetadata", pb.ModelMetadataRequest(name="pack"), pb.ModelMetadataResponse
    )
    assert list(described.inputs[0].shape) == [-1, -1]
    assert {each.name: list(each.shape) for each in described.outputs} == {
        "tags": [-1, -1],
        "length": [-1],
    }


def test_the_small_service_takes_a_row_of_any_length() -> None:
    spec = TensorSpec((None, 2), "float32")
    with (
        Batcher(lambda b: PerToken(b.values + 1), inputs=spec, collate="pack") as batcher,
        door(Models(Served("m", batcher))) as opened,
    ):
        for length in (1, 4, 2):
            sent = v1.PredictRequest(model_name="m", features=[1.0] * (2 * length))
            response: v1.PredictResponse = opened.predict(sent)
            assert list(response.predictions) == [2.0] * (2 * length)
