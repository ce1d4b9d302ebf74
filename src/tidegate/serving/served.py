"""Served: a Batcher under a name, with its inputs and outputs as the protocol describes them."""

from __future__ import annotations

import operator
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from tidegate import Batcher, Future
from tidegate.errors import ConfigError, InputError, OutputError
from tidegate.serving.datatypes import DATATYPES, Array, datatype_of, narrowed
from tidegate.specs import Spec, TensorSpec, leaves

__all__ = ["Pending", "Served", "Tensor"]


@dataclass(frozen=True)
class Tensor:
    """One named input or output, as one row of it looks.

    Args:
        name: Its name in the protocol.
        datatype: The protocol's, such as ``"FP32"`` or ``"BYTES"``.
        shape: Lengths without the axis of rows; -1 for a length that varies.

    Raises:
        ConfigError: The name is no string, the datatype does not exist, or the shape is no tuple of
            lengths of at least -1.
    """

    name: str
    datatype: str
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Checks the fields."""
        if not isinstance(self.name, str):
            raise ConfigError(f"a tensor's name is a string, got {self.name!r}")
        if not isinstance(self.datatype, str) or self.datatype not in DATATYPES:
            raise ConfigError(
                f"tensor {self.name!r}: there is no datatype {self.datatype!r}; there are "
                f"{', '.join(DATATYPES)}"
            )
        try:
            lengths = tuple(map(operator.index, self.shape))
        except TypeError:
            lengths = (-2,)
        if any(length < -1 for length in lengths):
            raise ConfigError(f"tensor {self.name!r}: lengths are >= 0 or -1, got {self.shape}")
        object.__setattr__(self, "shape", lengths)


Described: TypeAlias = "Spec | Tensor | Sequence[Tensor]"


class Pending:
    """A request on its way.

    Attributes:
        future: The batcher's; cancel it if nobody waits any more.
    """

    __slots__ = ("_rows", "_served", "_wanted", "future")

    def __init__(self, served: Served, future: Future, rows: int, wanted: Sequence[str]) -> None:
        self.future = future
        self._served = served
        self._rows = rows
        self._wanted = wanted

    def result(self, timeout: float | None = None) -> dict[str, Array]:
        """The outputs by name, each with its axis of rows; for a thread, waits.

        Raises:
            TidegateError: What the request ended with.
            TimeoutError: It has not ended in time.
        """
        return self._served._named(self.future.result(timeout), self._rows, self._wanted)

    def __await__(self) -> Generator[Any, None, dict[str, Array]]:
        """Waits in an event loop; what result() returns."""
        answer = yield from self.future.__await__()
        return self._served._named(answer, self._rows, self._wanted)


class Served:
    """A model on offer.

    Args:
        name: What clients call it.
        batcher: Runs it. It knows its inputs, ``Batcher(model, inputs=...)``, or takes any objects,
            ``collate="list"``.
        inputs: What a request looks like: a TensorSpec or a Tensor, or several. None takes them
            from the batcher. The names are a mapping's keys, a TensorSpec's name, or else
            ``input``, or ``input_0`` and so on. A batcher with ``collate="list"`` needs them: its
            rows are the one input's, or mappings by name of several; BYTES come as ``bytes``.
        outputs: What an answer looks like, in the same ways; with None it is learned from the first
            answer, and the names are a mapping's keys, or else ``output``, or ``output_0`` and so
            on. If inputs are ragged, the first length of each learned output is one that varies.
        version: What clients may ask for by version.
        example: A row to run once now, in this thread: it warms the model up and teaches the
            outputs.
        stuck_after: Seconds after which a batch that has not ended makes its instance count as
            stuck. With all instances stuck the model is not ready. None for never.

    Raises:
        ConfigError: The inputs are not known, or have no place in the protocol.
    """

    def __init__(
        self,
        name: str,
        batcher: Batcher,
        *,
        inputs: Described | None = None,
        outputs: Described | None = None,
        version: str = "1",
        example: Any = None,
        stuck_after: float | None = 60.0,
    ) -> None:
        if not isinstance(name, str) or not name or "/" in name:
            raise ConfigError(f"a model's name is a string without '/', got {name!r}")
        if not isinstance(version, str) or not version or "/" in version:
            raise ConfigError(f"a model's version is a string without '/', got {version!r}")
        if not isinstance(batcher, Batcher):
            raise ConfigError(f"a Served needs a Batcher, got {type(batcher).__name__}")
        self.name = name
        self.version = version
        self.batcher = batcher
        self.stuck_after = stuck_after
        self._spec = _input_spec(name, batcher, inputs)
        self._inputs = _described("input", self._spec if inputs is None else inputs)
        self._outputs = None if outputs is None else _described("output", outputs)
        self._names = frozenset(tensor.name for tensor in self._inputs)
        self._specs = [] if self._spec is None else leaves(self._spec)
        if len(self._names) < len(self._inputs):
            raise ConfigError(f"model {name!r} has two inputs of one name: {self._inputs}")
        if len({tensor.name for tensor in self.outputs}) < len(self.outputs):
            raise ConfigError(f"model {name!r} has two outputs of one name: {self._outputs}")
        if self._spec is not None:
            own = _described("input", self._spec)
            if [(each.datatype, each.shape) for each in own] != [
                (each.datatype, each.shape) for each in self._inputs
            ]:
                raise ConfigError(
                    f"the inputs of model {name!r} are {own} to its batcher, got {self._inputs}"
                )
        if example is not None:
            self._learn(self._leaves_of(batcher(example), 1))

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """Names, datatypes and row shapes of the inputs."""
        return self._inputs

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """Those of the outputs; empty until they are known."""
        return self._outputs or ()

    @property
    def ready(self) -> bool:
        """True if requests are taken and at least one instance is not stuck."""
        if self.batcher.closed:
            return False
        if self.stuck_after is None:
            return True
        executors = self.batcher.statistics().executors
        # One that is lent is with a caller that runs the batch itself.
        stuck = [
            each.state in ("busy", "lent") and each.busy_for >= self.stuck_after
            for each in executors
        ]
        return not stuck or not all(stuck)

    def __repr__(self) -> str:
        return f"Served({self.name!r}, version={self.version!r})"

    # -- requests --

    def submit(
        self,
        tensors: Mapping[str, Array],
        *,
        outputs: Sequence[str] = (),
        timeout: float | None = None,
        priority: int = 0,
    ) -> Pending:
        """Queues one request of one or several rows; never waits.

        Args:
            tensors: The inputs by name, each with a leading axis of the same number of rows.
            outputs: Names of the outputs that are asked for; all if empty.
            timeout: Seconds that the request may wait in the queue; None for the batcher's own.
            priority: 0, the default, or 1: there is one level.

        Raises:
            InputError: The request does not fit.
            TidegateError: What the batcher's submit() raises.
        """
        if type(priority) is not int or not 0 <= priority <= 1:
            raise InputError(
                f"priority must be 0 or 1, since there is one level, got {priority!r}",
                expected="0 or 1",
                given=repr(priority),
            )
        if self._outputs is not None:
            self._check_wanted(outputs)
        rows = self._count_rows(tensors)
        batcher = self.batcher
        if self._spec is None:
            objects = self._objects(tensors, rows)
            future = (
                batcher.submit(objects[0], timeout=timeout)
                if rows == 1
                else batcher.submit_many(objects, timeout=timeout)
            )
        elif rows == 1:
            future = batcher.submit(self._structured(tensors, one=True), timeout=timeout)
        else:
            future = batcher.submit_many(self._structured(tensors, one=False), timeout=timeout)
        return Pending(self, future, rows, outputs)

    def _count_rows(self, tensors: Mapping[str, Array]) -> int:
        """Checks names, shapes and datatypes; the number of rows."""
        if tensors.keys() != self._names:
            raise InputError(
                f"model {self.name!r} has the inputs {sorted(self._names)}, got {sorted(tensors)}",
                expected=str(sorted(self._names)),
                given=str(sorted(tensors)),
            )
        rows = -1
        for tensor in self._inputs:
            array = tensors[tensor.name]
            if not _fits(tensor, array):
                raise self._misfit(tensor, f"shape {list(array.shape)}")
            if (array.dtype.kind == "O") != (tensor.datatype == "BYTES"):
                kind = "BYTES" if array.dtype.kind == "O" else datatype_of(array.dtype)
                raise self._misfit(tensor, f"datatype {kind}")
            if rows not in (-1, array.shape[0]):
                # Some may not have been looked at yet, and have no axis of rows.
                given = str({name: list(each.shape[:1]) for name, each in tensors.items()})
                raise InputError(
                    f"the inputs of model {self.name!r} differ in their number of rows: {given}",
                    expected="as many rows in each input",
                    given=given,
                )
            rows = array.shape[0]
        if rows < 1:
            raise InputError(
                f"a request to model {self.name!r} has at least one row, got none",
                expected="at least 1 row",
                given="0 rows",
            )
        return rows

    def _misfit(self, tensor: Tensor, given: str) -> InputError:
        expected = f"{tensor.datatype} of shape {[-1, *tensor.shape]}"
        return InputError(
            f"input {tensor.name!r} of model {self.name!r} should be {expected}, where the first "
            f"axis counts rows, got {given}",
            expected=expected,
            given=given,
        )

    def _structured(self, tensors: Mapping[str, Array], one: bool) -> Any:
        """What the batcher's submit() takes, or its submit_many()."""
        parts = [
            self._converted(tensor, spec, tensors[tensor.name])
            for tensor, spec in zip(self._inputs, self._specs, strict=True)
        ]
        if one:
            parts = [part[0, ...] for part in parts]
        if isinstance(self._spec, TensorSpec):
            return parts[0]
        if isinstance(self._spec, tuple):
            return tuple(parts)
        assert self._spec is not None
        return dict(zip(self._spec, parts, strict=True))

    def _converted(self, tensor: Tensor, spec: TensorSpec, array: Array) -> Array:
        """`array` in the dtype that the batcher wants, where that is a matter of the protocol."""
        if tensor.datatype == "BYTES":
            try:
                if spec.dtype.kind == "U":
                    return np.array(
                        [element.decode() for element in array.ravel().tolist()]
                    ).reshape(array.shape)
                return np.array(array.ravel().tolist()).reshape(array.shape)
            except UnicodeDecodeError as error:
                raise self._misfit(tensor, f"bytes that are no UTF-8: {error}") from error
        if tensor.datatype == "BF16" and array.dtype.kind == "f":
            return self._held(tensor, array, spec.dtype)
        if array.dtype != spec.dtype and not np.can_cast(array.dtype, spec.dtype, "same_kind"):
            raise self._misfit(tensor, f"datatype {datatype_of(array.dtype)}")
        return array

    def _held(self, tensor: Tensor, array: Array, dtype: np.dtype[Any]) -> Array:
        """`array` in a dtype of the same kind, which has to hold all of its numbers."""
        held = narrowed(array, dtype)
        if held is None:
            raise self._misfit(tensor, "a number that it cannot hold")
        return held

    def _objects(self, tensors: Mapping[str, Array], rows: int) -> list[Any]:
        """One object for each row, for collate="list"."""
        columns = []
        for tensor in self._inputs:
            column = tensors[tensor.name]
            wanted = DATATYPES[tensor.datatype]
            if column.dtype != wanted:
                if not np.can_cast(column.dtype, wanted, "same_kind"):
                    raise self._misfit(tensor, f"datatype {datatype_of(column.dtype)}")
                column = self._held(tensor, column, wanted)
            columns.append(_writeable(column))
        if len(columns) == 1:
            return list(columns[0])
        names = [tensor.name for tensor in self._inputs]
        return [
            dict(zip(names, (column[row] for column in columns), strict=True))
            for row in range(rows)
        ]

    # -- answers --

    def _check_wanted(self, wanted: Sequence[str]) -> None:
        known = [tensor.name for tensor in self.outputs]
        for name in wanted:
            if name not in known:
                raise InputError(
                    f"model {self.name!r} has the outputs {known}, and no {name!r}",
                    expected=str(known),
                    given=repr(name),
                )

    def _named(self, answer: Any, rows: int, wanted: Sequence[str]) -> dict[str, Array]:
        """The batcher's answer as arrays by name, with an axis of rows."""
        found = self._leaves_of(answer, rows)
        if self._outputs is None:
            self._learn(found)
            self._check_wanted(wanted)
        named = self._promised(found)
        return {name: named[name] for name in wanted} if wanted else named

    def batch_as_promised(self, answer: Any) -> list[Array]:
        """A model's answer to a whole batch as the arrays that were promised; for native doors.

        Raises:
            OutputError: It is something else.
        """
        arrays = self._promised(self._leaves_of_batch(answer)).values()
        return [each.astype(each.dtype.newbyteorder("="), copy=False) for each in arrays]

    def _promised(self, found: list[tuple[str | None, Array]]) -> dict[str, Array]:
        """The answer's arrays by name and as promised, in the order of the outputs."""
        if len(found) != len(self.outputs):
            raise OutputError(
                f"model {self.name!r} should answer with {[each.name for each in self.outputs]}, "
                f"got {len(found)} arrays"
            )
        return {
            tensor.name: self._checked(tensor, array)
            for tensor, (_, array) in zip(self.outputs, self._ordered(found), strict=True)
        }

    def _ordered(self, found: list[tuple[str | None, Array]]) -> list[tuple[str | None, Array]]:
        """The answer's arrays in the order of the outputs: by name where they have names."""
        if any(key is None for key, _ in found):
            return found
        by_name = dict(found)
        try:
            return [(tensor.name, by_name[tensor.name]) for tensor in self.outputs]
        except KeyError:
            raise OutputError(
                f"model {self.name!r} should answer with {[each.name for each in self.outputs]}, "
                f"got {list(by_name)}"
            ) from None

    def _checked(self, tensor: Tensor, array: Array) -> Array:
        """`array` in the datatype that the model promises."""
        given = _datatype(self.name, array)
        fits = _fits(tensor, array)
        if given != tensor.datatype and fits:
            wanted = DATATYPES[tensor.datatype]
            if "BYTES" in (given, tensor.datatype) or "BF16" in (given, tensor.datatype):
                fits = False
            elif fits := np.can_cast(array.dtype, wanted, "same_kind"):
                held = narrowed(array, wanted)
                if held is None:
                    raise OutputError(
                        f"output {tensor.name!r} of model {self.name!r} should be "
                        f"{tensor.datatype}, got a number of {given} that it cannot hold"
                    )
                array = held
        if not fits:
            raise OutputError(
                f"output {tensor.name!r} of model {self.name!r} should be {tensor.datatype} of "
                f"shape {[-1, *tensor.shape]}, got {given} of shape {list(array.shape)}"
            )
        return array

    def _learn(self, found: list[tuple[str | None, Array]]) -> None:
        alone = len(found) == 1
        self._outputs = tuple(
            Tensor(
                key or ("output" if alone else f"output_{index}"),
                _datatype(self.name, array),
                self._learned_shape(array.shape[1:]),
            )
            for index, (key, array) in enumerate(found)
        )

    def _learned_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """What is known of all answers' rows from the shape of one."""
        if self._spec is None:  # rows of a list may differ from each other
            return (-1,) * len(shape)
        if shape and any(spec.ragged for spec in self._specs):
            return (-1, *shape[1:])  # as long as the request was, for all that we know
        return shape

    def _leaves_of(self, answer: Any, rows: int) -> list[tuple[str | None, Array]]:
        """The arrays of an answer, each with its axis of rows, and their names if they have any."""
        return _stacked(self.name, [answer]) if rows == 1 else self._leaves_of_batch(answer)

    def _leaves_of_batch(self, answer: Any) -> list[tuple[str | None, Array]]:
        """Those of an answer to several rows, or to a whole batch."""
        if isinstance(answer, list):
            return _stacked(self.name, answer)
        if isinstance(answer, Mapping):
            return [(str(key), np.asarray(value)) for key, value in answer.items()]
        if isinstance(answer, tuple):
            return [(None, np.asarray(value)) for value in answer]
        return [(None, np.asarray(answer))]


def _stacked(model: str, rows: list[Any]) -> list[tuple[str | None, Array]]:
    """The leaves of single rows, each as one array with a leading axis."""
    first = rows[0]
    try:
        if isinstance(first, Mapping):
            return [(str(key), _column([row[key] for row in rows])) for key in first]
        if isinstance(first, tuple):
            return [(None, _column(list(values))) for values in zip(*rows, strict=True)]
        return [(None, _column(rows))]
    except (ValueError, TypeError, KeyError) as error:
        raise OutputError(
            f"the rows that model {model!r} answered with make no arrays: {error}"
        ) from error


def _fits(tensor: Tensor, array: Array) -> bool:
    """True if the rows of `array` have the shape that they should have."""
    shape = array.shape
    if not shape:
        return False
    return (
        shape[1:] == tensor.shape
        or (  # nearly always at once
            len(shape) == len(tensor.shape) + 1
            and all(
                wanted in (-1, length)
                for wanted, length in zip(tensor.shape, shape[1:], strict=True)
            )
        )
    )


def _writeable(array: Array) -> Array:
    """`array`, or a copy if it lies in a message: models may write to rows, however they came."""
    return array if array.flags.writeable else array.copy()


def _column(values: list[Any]) -> Array:
    if len(values) == 1 and isinstance(values[0], np.ndarray):
        alone: Array = values[0][np.newaxis]  # what nearly every request has: no copy
        return alone
    if all(isinstance(value, str | bytes) for value in values):
        texts = np.empty(len(values), object)  # fixed-width text would lose trailing zero bytes
        texts[:] = values
        return texts
    return np.stack([np.asarray(value) for value in values])


def _datatype(model: str, array: Array) -> str:
    """The protocol's name for what the model answered with."""
    if array.dtype.kind == "O":
        if all(isinstance(element, str | bytes) for element in array.flat):
            return "BYTES"
        raise OutputError(f"model {model!r} answered with objects, which have no datatype")
    try:
        return datatype_of(array.dtype)
    except ConfigError as error:
        raise OutputError(f"model {model!r} answered with {array.dtype}: {error}") from error


def _input_spec(name: str, batcher: Batcher, inputs: Described | None) -> Spec | None:
    """The spec that the batcher converts to; None if it takes any object."""
    if batcher.collate == "list":
        if inputs is None:
            raise ConfigError(
                f"the batcher of model {name!r} takes any object; say what clients send: "
                "Served(..., inputs=Tensor('text', 'BYTES'))"
            )
        return None
    if batcher.inputs is None:
        raise ConfigError(
            f"the inputs of model {name!r} are not known yet; make its batcher with "
            "Batcher(model, inputs=TensorSpec(...))"
        )
    return batcher.inputs


def _described(kind: str, described: Described | None) -> tuple[Tensor, ...]:
    """A description in any of the forms that are taken, as Tensors."""
    if isinstance(described, Tensor):
        return (described,)
    if isinstance(described, TensorSpec):
        return (_tensor(described.name or kind, described),)
    if isinstance(described, Mapping):
        return tuple(_tensor(str(key), spec) for key, spec in described.items())
    parts: Any = described
    if isinstance(parts, Sequence) and parts and not isinstance(parts, str):
        fields = getattr(described, "_fields", None)  # of a named tuple
        return tuple(
            part
            if isinstance(part, Tensor)
            else _tensor(part.name or (fields[index] if fields else f"{kind}_{index}"), part)
            for index, part in enumerate(parts)
        )
    raise ConfigError(
        f"{kind}s must be a TensorSpec or a Tensor, or a tuple or mapping of them, "
        f"got {described!r}"
    )


def _tensor(name: str, spec: TensorSpec) -> Tensor:
    if not isinstance(spec, TensorSpec):
        raise ConfigError(f"tensor {name!r} must be a TensorSpec or a Tensor, got {spec!r}")
    return Tensor(name, datatype_of(spec.dtype), tuple(-1 if n is None else n for n in spec.shape))
