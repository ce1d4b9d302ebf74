"""Served: a Batcher under a name, with its inputs and outputs as the protocol describes them."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

import numpy as np

from tidegate import Batcher, Future
from tidegate.errors import ConfigError, InputError
from tidegate.serving.datatypes import DATATYPES, Array, datatype_of, narrowed
from tidegate.serving.outputs import Outputs
from tidegate.serving.tensors import Described, Tensor, described_as, fits
from tidegate.specs import Spec, TensorSpec, leaves

__all__ = ["Pending", "Served"]


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
        return self._served.answers.named(self.future.result(timeout), self._rows, self._wanted)

    def __await__(self) -> Generator[Any, None, dict[str, Array]]:
        """Waits in an event loop; what result() returns."""
        answer = yield from self.future.__await__()
        return self._served.answers.named(answer, self._rows, self._wanted)


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

    Attributes:
        answers: Its outputs, for the doors.

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
        self._inputs = described_as("input", self._spec if inputs is None else inputs)
        self._names = frozenset(tensor.name for tensor in self._inputs)
        self._specs = [] if self._spec is None else leaves(self._spec)
        if len(self._names) < len(self._inputs):
            raise ConfigError(f"model {name!r} has two inputs of one name: {self._inputs}")
        promised = None if outputs is None else described_as("output", outputs)
        self.answers = Outputs(name, promised, self._spec)
        if self._spec is not None:
            own = described_as("input", self._spec)
            if [(each.datatype, each.shape) for each in own] != [
                (each.datatype, each.shape) for each in self._inputs
            ]:
                raise ConfigError(
                    f"the inputs of model {name!r} are {own} to its batcher, got {self._inputs}"
                )
        if example is not None:
            self.answers.learn(batcher(example))

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """Names, datatypes and row shapes of the inputs."""
        return self._inputs

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """Those of the outputs; empty until they are known."""
        return self.answers.tensors

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
        self.answers.check_wanted(outputs)
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
            if not fits(tensor, array):
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


def _writeable(array: Array) -> Array:
    """`array`, or a copy if it lies in a message: models may write to rows, however they came."""
    return array if array.flags.writeable else array.copy()


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
