"""tidegate.v1.Inference/Predict: floats in, floats out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from tests.serving.grpc_door import KINDS, PREDICT, Door, door, failure_of
from tests.serving.models import identity
from tidegate import Batcher, TensorSpec
from tidegate.serving import Limits, Models, Served, Tensor
from tidegate.serving._proto import tidegate_v1_pb2 as v1

FEATURES = [1.0, 2.5, -3.0]


@pytest.fixture(scope="module", params=KINDS)
def opened(request: pytest.FixtureRequest, models: Models) -> Iterator[Door]:
    """A door of either kind."""
    with door(models, request.param, limits=Limits(max_rows=16)) as made:
        yield made


def test_one_row_in_one_row_out(opened: Door) -> None:
    answer = opened.predict(v1.PredictRequest(model_name="versioned", features=FEATURES))
    assert list(answer.predictions) == [10.0, 25.0, -30.0]
    assert (answer.model_name, answer.model_version) == ("versioned", "10")
    assert list(answer.shape) == [1, 3]


def test_several_rows_have_a_shape(opened: Door) -> None:
    request = v1.PredictRequest(
        model_name="versioned", model_version="2", features=FEATURES * 2, shape=[2, 3]
    )
    answer = opened.predict(request)
    assert list(answer.predictions) == [2.0, 5.0, -6.0] * 2
    assert list(answer.shape) == [2, 3]


def test_a_length_that_varies_is_that_of_the_features(opened: Door) -> None:
    for length in (0, 1, 7):
        answer = opened.predict(
            v1.PredictRequest(model_name="ragged", features=np.arange(float(length)))
        )
        assert list(answer.predictions) == list(range(length))
        assert list(answer.shape) == [1, length]


@pytest.mark.parametrize("model", ["echo-FP16", "echo-FP64", "echo-BF16"])
def test_floats_become_those_of_the_model(opened: Door, model: str) -> None:
    answer = opened.predict(v1.PredictRequest(model_name=model, features=FEATURES))
    assert list(answer.predictions) == FEATURES


def test_the_name_may_be_left_out_where_there_is_one_model() -> None:
    with (
        Batcher(identity, inputs=TensorSpec((3,), "float32")) as batcher,
        door(Models(Served("only", batcher))) as opened,
    ):
        answer = opened.predict(v1.PredictRequest(features=FEATURES))
    assert (answer.model_name, list(answer.predictions)) == ("only", FEATURES)


def test_an_output_may_be_named(opened: Door) -> None:
    def two(batch: Any) -> Any:
        return {"label": np.arange(len(batch)), "half": batch / 2}

    with Batcher(two, inputs=TensorSpec((3,), "float32")) as batcher:
        example = np.zeros(3, np.float32)
        with door(Models(Served("two", batcher, example=example))) as local:
            request = v1.PredictRequest(features=FEATURES, output_name="half")
            assert list(local.predict(request).predictions) == [0.5, 1.25, -1.5]
            request.output_name = "label"
            assert list(local.predict(request).predictions) == [0.0]
            request.output_name = ""
            error = failure_of(local.predict, request)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "output_name must say which output is wanted: 'label', 'half'" in error.details()


def test_features_that_an_encoder_did_not_pack_or_cut_in_pieces_are_the_same(
    opened: Door,
) -> None:
    name = v1.PredictRequest(model_name="echo-FP32").SerializeToString()
    single = [np.float32(value).tobytes() for value in FEATURES]
    spellings = [
        b"".join(b"\x0d" + value for value in single),
        b"\x0a\x04" + single[0] + b"\x0a\x08" + single[1] + single[2],
        b"\x0d" + single[0] + b"\x0a\x08" + single[1] + single[2],
        b"\x0a\x08" + single[0] + single[1] + b"\x0d" + single[2],
    ]
    for spelling in spellings:
        answer = v1.PredictResponse.FromString(opened.raw(PREDICT, spelling + name))
        assert list(answer.predictions) == FEATURES


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "too many features": (
        {"model_name": "echo-FP32", "features": [0.0] * 4},
        "features of shape [1, 3] are 3, got 4",
    ),
    "another shape": (
        {"model_name": "echo-FP32", "features": [0.0] * 4, "shape": [1, 4]},
        "should be FP32 of shape [-1, 3]",
    ),
    "features that are not as many as the shape": (
        {"model_name": "echo-FP32", "features": [0.0] * 4, "shape": [1, 3]},
        "features of shape [1, 3] are 3, got 4",
    ),
    "a negative length": (
        {"model_name": "echo-FP32", "features": [0.0], "shape": [-1, -1]},
        "should be >= 0, got [-1, -1]",
    ),
    "lengths that no array can have": (
        {"model_name": "echo-FP32", "shape": [0, 2**62, 2**62]},
        "cannot have the shape",
    ),
    "no model among several": ({"features": FEATURES}, "model_name must say which model"),
    "an output that there is not": (
        {"model_name": "echo-FP32", "features": FEATURES, "output_name": "other"},
        "and no 'other'",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_does_not_fit_is_an_invalid_argument(opened: Door, case: str) -> None:
    settings, words = CASES[case]
    opened.predict(v1.PredictRequest(model_name="echo-FP32", features=FEATURES))
    error = failure_of(opened.predict, v1.PredictRequest(**settings))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert words in error.details()


@pytest.mark.parametrize("model", ["echo-INT32", "echo-BYTES", "pair"])
def test_a_model_without_one_input_of_floats_is_for_the_other_service(
    opened: Door, model: str
) -> None:
    error = failure_of(opened.predict, v1.PredictRequest(model_name=model, features=FEATURES))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "use inference.GRPCInferenceService/ModelInfer" in error.details()


def test_texts_are_no_floats() -> None:
    def words(rows: list[Any]) -> list[Any]:
        return ["word"] * len(rows)

    with Batcher(words, collate="list") as batcher:
        models = Models(Served("words", batcher, inputs=Tensor("x", "FP32", (3,))))
        with door(models) as local:
            error = failure_of(local.predict, v1.PredictRequest(features=FEATURES))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "answers with BYTES" in error.details()


def test_bytes_that_are_no_message_or_no_floats_are_an_invalid_argument(opened: Door) -> None:
    name = v1.PredictRequest(model_name="echo-FP32").SerializeToString()
    for message, words in (
        (b"\xff\xff", "the 2 bytes are no PredictRequest"),
        (b"\x0a\x05abcde" + name, "floats of 4 bytes, got 5 bytes"),
    ):
        error = failure_of(opened.raw, PREDICT, message)
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert words in error.details()


def test_limits_hold(opened: Door) -> None:
    request = v1.PredictRequest(model_name="echo-FP32", features=[0.0] * 51, shape=[17, 3])
    assert "at most 16 rows" in failure_of(opened.predict, request).details()
    error = failure_of(opened.raw, PREDICT, b"\x0a\x00" * 2**16)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "at most 1024 parts" in error.details()
    request = v1.PredictRequest(model_name="echo-FP32", shape=[1] * 100_000)
    assert "shapes of at most 1024 bytes" in failure_of(opened.predict, request).details()
