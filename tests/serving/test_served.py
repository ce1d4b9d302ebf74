"""Served: what clients send becomes rows of a batcher, and its answers named arrays."""

from __future__ import annotations

import asyncio
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.gated import PATIENCE, Gated, in_thread, until
from tidegate import Batcher, ConfigError, InputError, ModelError, OutputError, TensorSpec
from tidegate.serving import Served, Tensor
from tidegate.serving.datatypes import DATATYPES, from_raw

VECTOR = TensorSpec((3,), "float32")
ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)

Make = Callable[..., Batcher]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes batchers that are closed afterwards."""
    with ExitStack() as stack:

        def made(model: Any, **settings: Any) -> Batcher:
            return stack.enter_context(Batcher(model, **settings))

        yield made


def double(batch: Any) -> Any:
    return batch * 2


def infer(served: Served, outputs: Any = (), **tensors: Any) -> dict[str, Any]:
    return served.submit(tensors, outputs=outputs).result(PATIENCE)


def texts(*values: bytes) -> Any:
    array = np.empty(len(values), object)
    array[:] = values
    return array


# Names and descriptions


def test_a_single_tensor_is_called_input_and_its_answer_output(make: Make) -> None:
    served = Served("m", make(double, inputs=VECTOR))
    assert served.inputs == (Tensor("input", "FP32", (3,)),)
    assert served.outputs == ()
    np.testing.assert_array_equal(infer(served, input=ROWS)["output"], ROWS * 2)
    assert served.outputs == (Tensor("output", "FP32", (3,)),)


def test_names_come_from_specs_tuples_named_tuples_and_mappings(make: Make) -> None:
    pair = namedtuple("pair", ["left", "right"])
    number = TensorSpec((), "int64")
    cases: list[tuple[Any, list[str]]] = [
        (TensorSpec((), "int64", name="age"), ["age"]),
        ((number, TensorSpec((), "int64", name="b")), ["input_0", "b"]),
        (pair(number, number), ["left", "right"]),
        ({"x": number, "y": number}, ["x", "y"]),
    ]
    for spec, names in cases:
        served = Served("m", make(lambda batch: batch, inputs=spec))
        assert [tensor.name for tensor in served.inputs] == names


def test_outputs_can_be_named(make: Make) -> None:
    served = Served("m", make(double, inputs=VECTOR), outputs=TensorSpec((3,), "float32", "twice"))
    assert served.outputs == (Tensor("twice", "FP32", (3,)),)
    assert list(infer(served, input=ROWS)) == ["twice"]


def test_an_example_warms_the_model_up_and_teaches_the_outputs(make: Make) -> None:
    batcher = make(double, inputs=VECTOR)
    served = Served("m", batcher, example=ROWS[0])
    assert served.outputs == (Tensor("output", "FP32", (3,)),)
    assert batcher.statistics().completed == 1


def test_an_example_that_fails_is_an_error_at_once(make: Make) -> None:
    def broken(batch: Any) -> Any:
        raise RuntimeError("no weights")

    with pytest.raises(ModelError):
        Served("m", make(broken, inputs=VECTOR), example=ROWS[0])


def test_inputs_must_be_known(make: Make) -> None:
    with pytest.raises(ConfigError, match="not known yet"):
        Served("m", make(double))
    with pytest.raises(ConfigError, match="takes any object"):
        Served("m", make(double, collate="list"))


@pytest.mark.parametrize("name", ["", "a/b", 3])
def test_a_name_that_no_path_can_hold_is_refused(make: Make, name: Any) -> None:
    with pytest.raises(ConfigError, match="name"):
        Served(name, make(double, inputs=VECTOR))
    with pytest.raises(ConfigError, match="version"):
        Served("m", make(double, inputs=VECTOR), version=name)


def test_inputs_that_contradict_the_batcher_are_refused(make: Make) -> None:
    batcher = make(double, inputs=VECTOR)
    assert Served("m", batcher, inputs=Tensor("x", "FP32", (3,))).inputs[0].name == "x"
    with pytest.raises(ConfigError, match="to its batcher"):
        Served("m", batcher, inputs=Tensor("x", "FP32", (4,)))


def test_two_inputs_of_one_name_are_refused(make: Make) -> None:
    twice = (TensorSpec((), "int64", "x"), TensorSpec((), "int64", "x"))
    with pytest.raises(ConfigError, match="two inputs of one name"):
        Served("m", make(lambda batch: batch, inputs=twice))


def test_two_outputs_of_one_name_are_refused(make: Make) -> None:
    twice = (Tensor("y", "FP32"), Tensor("y", "FP32"))
    with pytest.raises(ConfigError, match="two outputs of one name"):
        Served("m", make(double, inputs=VECTOR), outputs=twice)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ((3, "FP32"), "name is a string"),
        (("x", ["FP32"]), "no datatype"),
        (("x", "FP32", 3), "lengths are >= 0 or -1, got 3"),
        (("x", "FP32", (1.5,)), "lengths are >= 0 or -1"),
        (("x", "FP32", (-2,)), "lengths are >= 0 or -1"),
    ],
)
def test_a_tensor_that_cannot_be_is_refused(fields: Any, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        Tensor(*fields)


def test_outputs_that_are_none_are_refused(make: Make) -> None:
    with pytest.raises(ConfigError, match="outputs must be"):
        Served("m", make(double, inputs=VECTOR), outputs="FP32")  # type: ignore[arg-type]


def test_a_dtype_without_a_datatype_is_refused(make: Make) -> None:
    with pytest.raises(ConfigError, match="complex64"):
        Served("m", make(double, inputs=TensorSpec((), "complex64")))


# Requests


@pytest.mark.parametrize("rows", [1, 2, 5, 200])
def test_rows_are_answered_together(make: Make, rows: int) -> None:
    served = Served("m", make(double, inputs=VECTOR, max_batch_size=64))
    sent = np.arange(3 * rows, dtype=np.float32).reshape(rows, 3)
    np.testing.assert_array_equal(infer(served, input=sent)["output"], sent * 2)


def test_tuples_and_mappings_reach_the_model_as_such(make: Make) -> None:
    number = TensorSpec((), "int64")
    added = Served("m", make(lambda batch: batch[0] + batch[1], inputs=(number, number)))
    swapped = Served(
        "n",
        make(lambda batch: {"a": batch["b"], "b": batch["a"]}, inputs={"a": number, "b": number}),
    )
    for rows in (1, 3):
        left, right = np.arange(rows), np.arange(rows) * 10
        assert infer(added, input_0=left, input_1=right)["output"].tolist() == [
            *range(0, 11 * rows, 11)
        ]
        answer = infer(swapped, a=left, b=right)
        assert answer["a"].tolist() == right.tolist()
        assert answer["b"].tolist() == left.tolist()


def test_text_reaches_the_model_as_bytes(make: Make) -> None:
    seen: list[Any] = []

    def shout(batch: list[bytes]) -> list[bytes]:
        seen.extend(batch)
        return [text.upper() for text in batch]

    served = Served("m", make(shout, collate="list"), inputs=Tensor("text", "BYTES"))
    for sent in (texts(b"one"), texts(b"two", b"three\0")):
        answer = infer(served, text=sent)["output"]
        assert answer.tolist() == [text.upper() for text in sent]
    assert seen == [b"one", b"two", b"three\0"]
    assert served.outputs == (Tensor("output", "BYTES"),)


def test_several_inputs_of_a_list_are_mappings(make: Make) -> None:
    def model(batch: list[dict[str, Any]]) -> list[Any]:
        return [each["n"] * len(each["text"]) for each in batch]

    served = Served(
        "m",
        make(model, collate="list"),
        inputs=(Tensor("text", "BYTES"), Tensor("n", "INT64")),
    )
    for count in (1, 3):
        answer = infer(served, text=texts(*[b"abc"] * count), n=np.arange(count))
        assert answer["output"].tolist() == [3 * n for n in range(count)]


def test_a_length_of_a_list_may_vary(make: Make) -> None:
    served = Served(
        "m",
        make(lambda batch: [row.sum() for row in batch], collate="list"),
        inputs=Tensor("x", "FP32", (-1,)),
    )
    for length in (1, 4):
        assert infer(served, x=np.ones((2, length), np.float32))["output"].tolist() == [length] * 2


@pytest.mark.parametrize("rows", [1, 2])
def test_a_model_may_write_to_the_rows_of_a_list(make: Make, rows: int) -> None:
    def model(batch: list[Any]) -> list[Any]:
        for row in batch:
            row *= 2
        return batch

    served = Served("m", make(model, collate="list"), inputs=Tensor("x", "FP32", (3,)))
    sent = ROWS[:rows].tobytes()
    encoded = from_raw("x", "FP32", (rows, 3), sent)  # which reads it in place
    np.testing.assert_array_equal(infer(served, x=encoded)["output"], 2 * ROWS[:rows])
    assert sent == ROWS[:rows].tobytes()


def test_fixed_width_text_can_be_stacked(make: Make) -> None:
    for dtype in ("S4", "U4"):
        served = Served("m", make(lambda batch: batch, inputs=TensorSpec((), dtype)))
        for sent in (texts(b"ab"), texts(b"abcd", b"c")):
            answer = infer(served, input=sent)["output"]
            assert [np.asarray(each).astype("S").item() for each in answer] == list(sent)
        with pytest.raises(InputError):
            infer(served, input=texts(b"abcde"))
        with pytest.raises(InputError, match="BYTES"):
            infer(served, input=np.zeros(1))


def test_bytes_that_are_no_utf8_are_refused_for_text(make: Make) -> None:
    served = Served("m", make(lambda batch: batch, inputs=TensorSpec((), "U4")))
    with pytest.raises(InputError, match="UTF-8"):
        infer(served, input=texts(b"\xff"))


def test_bf16_models_take_and_give_bf16(make: Make) -> None:
    spec = TensorSpec((2,), ml_dtypes.bfloat16)
    served = Served("m", make(double, inputs=spec))
    assert served.inputs[0].datatype == "BF16"
    for rows in (1, 2):
        answer = infer(served, input=np.ones((rows, 2), np.float32))["output"]
        assert answer.dtype == ml_dtypes.bfloat16
        assert answer.astype(float).tolist() == [[2.0, 2.0]] * rows
    assert served.outputs[0].datatype == "BF16"


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, r"has the inputs \['input'\], got \[\]"),
        ({"x": ROWS}, r"got \['x'\]"),
        ({"input": ROWS, "x": ROWS}, r"got \['input', 'x'\]"),
        ({"input": ROWS[0]}, r"FP32 of shape \[-1, 3\].*got shape \[3\]"),
        ({"input": ROWS[:, :2]}, r"got shape \[2, 2\]"),
        ({"input": ROWS[:0]}, "at least one row"),
        ({"input": texts(b"a").reshape(1, 1).repeat(3, 1)}, "got datatype BYTES"),
        ({"input": np.zeros((1, 3), "?").view("?").astype("complex64").real.astype("i8")}, None),
    ],
)
def test_requests_that_do_not_fit_say_what_was_expected(
    make: Make, tensors: Any, message: str | None
) -> None:
    served = Served("m", make(double, inputs=VECTOR))
    if message is None:  # int64 to float32 is a conversion of the same kind
        assert infer(served, **tensors)["output"].dtype == np.float32
        return
    with pytest.raises(InputError, match=message):
        infer(served, **tensors)
    assert served.batcher.statistics().submitted == 0


def test_floats_are_not_cut_down_to_integers(make: Make) -> None:
    served = Served("m", make(double, inputs=TensorSpec((), "int32")))
    with pytest.raises(InputError, match="got datatype FP64"):
        infer(served, input=np.ones(2))


@pytest.mark.parametrize(
    ("datatype", "sent"),
    [("INT8", 300), ("UINT8", np.uint16(256)), ("FP32", 1e300), ("FP16", np.float32(1e5))],
)
def test_numbers_that_the_datatype_of_a_list_cannot_hold_are_refused(
    make: Make, datatype: str, sent: Any
) -> None:
    batcher = make(lambda batch: batch, collate="list")
    served = Served("m", batcher, inputs=Tensor("x", datatype))
    assert infer(served, x=np.array([sent]) // sent)["output"] == 1
    with pytest.raises(InputError, match="a number that it cannot hold"):
        infer(served, x=np.array([sent, sent]))


def test_numbers_that_bf16_cannot_hold_are_refused(make: Make) -> None:
    served = Served("m", make(lambda batch: batch, inputs=TensorSpec((), ml_dtypes.bfloat16)))
    assert infer(served, input=np.array([np.inf, 1.0]))["output"].tolist() == [np.inf, 1.0]
    with pytest.raises(InputError, match="a number that it cannot hold"):
        infer(served, input=np.array([1e39]))


def test_inputs_with_different_numbers_of_rows_are_refused(make: Make) -> None:
    number = TensorSpec((), "int64")
    served = Served("m", make(lambda batch: batch, inputs=(number, number)))
    with pytest.raises(InputError, match="differ in their number of rows"):
        infer(served, input_0=np.arange(2), input_1=np.arange(3))


def test_an_input_without_rows_beside_different_numbers_is_an_input_error(make: Make) -> None:
    number = TensorSpec((), "int64")
    served = Served("m", make(lambda batch: batch, inputs=(number, number, number)))
    with pytest.raises(InputError, match="differ in their number of rows"):
        infer(served, input_0=np.arange(2), input_1=np.arange(3), input_2=np.array(1))


def test_only_the_outputs_that_are_asked_for_are_given(make: Make) -> None:
    served = Served("m", make(lambda batch: {"a": batch, "b": batch + 1}, inputs=VECTOR))
    assert list(infer(served, outputs=["b"], input=ROWS)) == ["b"]
    assert list(infer(served, input=ROWS)) == ["a", "b"]
    with pytest.raises(InputError, match="and no 'c'"):
        served.submit({"input": ROWS}, outputs=["c"])


def test_an_output_that_no_one_knows_yet_is_an_input_error_too(make: Make) -> None:
    served = Served("m", make(double, inputs=VECTOR))
    with pytest.raises(InputError, match="and no 'c'"):
        infer(served, outputs=["c"], input=ROWS)


@pytest.mark.parametrize("priority", [-1, 2, "1", True, 1.0])
def test_a_priority_that_does_not_exist_is_refused(make: Make, priority: Any) -> None:
    served = Served("m", make(double, inputs=VECTOR))
    with pytest.raises(InputError, match="priority must be 0 or 1"):
        served.submit({"input": ROWS}, priority=priority)
    for level in (0, 1):
        served.submit({"input": ROWS}, priority=level).result(PATIENCE)


def test_a_request_can_be_awaited(make: Make) -> None:
    served = Served("m", make(double, inputs=VECTOR))

    async def main() -> Any:
        return await served.submit({"input": ROWS})

    np.testing.assert_array_equal(asyncio.run(main())["output"], ROWS * 2)


# Answers


def test_answers_that_are_no_arrays_fail_the_request_only(make: Make) -> None:
    served = Served(
        "m",
        make(lambda batch: [object() for _ in batch], collate="list"),
        inputs=Tensor("x", "INT64"),
    )
    for rows in (1, 2):
        with pytest.raises(OutputError, match="objects"):
            infer(served, x=np.arange(rows))


def test_ragged_answers_of_one_request_are_an_output_error(make: Make) -> None:
    served = Served(
        "m",
        make(lambda batch: [range(n) for n in batch], collate="list"),
        inputs=Tensor("x", "INT64"),
    )
    assert infer(served, x=np.array([2]))["output"].tolist() == [[0, 1]]
    assert infer(served, x=np.array([3]))["output"].tolist() == [[0, 1, 2]]
    with pytest.raises(OutputError, match="make no arrays"):
        infer(served, x=np.array([2, 3]))


@pytest.mark.parametrize("rows", [1, 2])
def test_answers_of_the_other_byte_order_are_numbers_too(make: Make, rows: int) -> None:
    table = np.arange(3, dtype=">f4")  # as files have it
    served = Served("m", make(lambda batch: table[batch], inputs=TensorSpec((), "int64")))
    answer = infer(served, input=np.arange(rows))["output"]
    np.testing.assert_array_equal(answer, np.arange(rows))
    assert served.outputs == (Tensor("output", "FP32"),)


def test_answers_are_converted_to_what_was_promised(make: Make) -> None:
    served = Served(
        "m", make(lambda batch: batch.astype("f8"), inputs=VECTOR), outputs=TensorSpec((3,), "f4")
    )
    assert infer(served, input=ROWS)["output"].dtype == np.float32


@pytest.mark.parametrize(
    "answer", [lambda b: b.astype("S4"), lambda b: b[:, :2], lambda b: (b, b), lambda b: {"z": b}]
)
def test_answers_that_break_the_promise_are_output_errors(make: Make, answer: Any) -> None:
    served = Served("m", make(answer, inputs=VECTOR), outputs=Tensor("y", "FP32", (3,)))
    for rows in (1, 2):
        with pytest.raises(OutputError, match=r"model 'm'"):
            infer(served, input=np.ones((rows, 3), np.float32))


# Readiness


@pytest.mark.parametrize(("datatype", "answer"), [("INT8", 300), ("FP32", 1e300)])
@pytest.mark.parametrize("learned", [True, False])
def test_answers_that_the_promised_datatype_cannot_hold_are_output_errors(
    make: Make, datatype: str, answer: float, learned: bool
) -> None:
    narrow = np.ones(1, DATATYPES[datatype])
    answers = [narrow] * learned + [np.array([answer]), np.array([1]).astype(type(answer))]
    promised = None if learned else Tensor("output", datatype)
    served = Served("m", make(lambda batch: answers.pop(0), inputs=VECTOR), outputs=promised)
    if learned:
        infer(served, input=ROWS[:1])
    with pytest.raises(OutputError, match=r"a number of \w+ that it cannot hold"):
        infer(served, input=ROWS[:1])
    assert infer(served, input=ROWS[:1])["output"].dtype == narrow.dtype


def test_a_closed_batcher_is_not_ready(make: Make) -> None:
    served = Served("m", make(double, inputs=VECTOR))
    assert served.ready
    served.batcher.close()
    assert not served.ready


def test_a_model_that_is_stuck_in_the_thread_of_its_caller_is_not_ready(
    model: Gated, make: Make
) -> None:
    batcher = make(model, inputs=VECTOR)
    served = Served("m", batcher, stuck_after=0.0)
    until(lambda: batcher.statistics().executors[0].state == "idle")
    asking = in_thread(lambda: batcher(ROWS[0]))
    model.await_entry()
    assert not served.ready
    model.gate.set()
    asking.outcome()
    assert batcher.statistics().led == 1


def test_a_model_whose_instances_are_all_stuck_is_not_ready(model: Gated, make: Make) -> None:
    batcher = make(model, inputs=VECTOR, caller_runs=False)
    served = Served("m", batcher, stuck_after=0.0)
    patient = Served("m", batcher, stuck_after=None)
    until(lambda: served.ready)  # an executor is busy until its thread has begun
    future = batcher.submit(ROWS[0])
    model.await_entry()
    assert not served.ready
    assert patient.ready
    model.gate.set()
    future.result(PATIENCE)
