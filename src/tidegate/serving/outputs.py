"""What a model promises to answer with, or was found to, and its answers as just that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tidegate.errors import ConfigError, InputError, OutputError
from tidegate.serving.datatypes import DATATYPES, Array, datatype_of, narrowed
from tidegate.serving.tensors import Tensor, fits
from tidegate.specs import Spec, leaves

__all__ = ["Outputs"]


class Outputs:
    """The outputs of a model on offer.

    Args:
        model: Its name, for messages.
        tensors: What it promises; None to learn that from its first answer.
        spec: What its requests look like; None for any objects.

    Raises:
        ConfigError: Two have the same name.
    """

    def __init__(self, model: str, tensors: tuple[Tensor, ...] | None, spec: Spec | None) -> None:
        self._model = model
        self._tensors = tensors
        self._spec = spec
        if len({tensor.name for tensor in self.tensors}) < len(self.tensors):
            raise ConfigError(f"model {model!r} has two outputs of one name: {tensors}")

    @property
    def known(self) -> bool:
        """Whether they were promised, or have been learned."""
        return self._tensors is not None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """They; empty until they are known."""
        return self._tensors or ()

    def check_wanted(self, wanted: Sequence[str]) -> None:
        """Raises InputError if one of these names is no output's, once those are known."""
        if not self.known:
            return
        known = [tensor.name for tensor in self.tensors]
        for name in wanted:
            if name not in known:
                raise InputError(
                    f"model {self._model!r} has the outputs {known}, and no {name!r}",
                    expected=str(known),
                    given=repr(name),
                )

    def learn(self, answer: Any) -> None:
        """Takes the outputs from the answer to one row."""
        self._learn(self._leaves_of(answer, 1))

    def named(self, answer: Any, rows: int, wanted: Sequence[str]) -> dict[str, Array]:
        """The batcher's answer as arrays by name, with an axis of rows.

        Args:
            answer: To a request.
            rows: How many that had.
            wanted: The outputs that are asked for; all if empty.

        Raises:
            OutputError: It is not what was promised.
            InputError: There is no such output, as is known only now.
        """
        found = self._leaves_of(answer, rows)
        if not self.known:
            self._learn(found)
            self.check_wanted(wanted)
        named = self._promised(found)
        return {name: named[name] for name in wanted} if wanted else named

    def of_batch(self, answer: Any) -> list[Array]:
        """A model's answer to a whole batch as the arrays that were promised; for native doors.

        Raises:
            OutputError: It is something else.
        """
        arrays = self._promised(self._leaves_of_batch(answer)).values()
        return [each.astype(each.dtype.newbyteorder("="), copy=False) for each in arrays]

    def _promised(self, found: list[tuple[str | None, Array]]) -> dict[str, Array]:
        """The answer's arrays by name and as promised, in the order of the outputs."""
        if len(found) != len(self.tensors):
            raise OutputError(
                f"model {self._model!r} should answer with {[each.name for each in self.tensors]}, "
                f"got {len(found)} arrays"
            )
        return {
            tensor.name: self._checked(tensor, array)
            for tensor, (_, array) in zip(self.tensors, self._ordered(found), strict=True)
        }

    def _ordered(self, found: list[tuple[str | None, Array]]) -> list[tuple[str | None, Array]]:
        """The answer's arrays in the order of the outputs: by name where they have names."""
        if any(key is None for key, _ in found):
            return found
        by_name = dict(found)
        try:
            return [(tensor.name, by_name[tensor.name]) for tensor in self.tensors]
        except KeyError:
            raise OutputError(
                f"model {self._model!r} should answer with {[each.name for each in self.tensors]}, "
                f"got {list(by_name)}"
            ) from None

    def _checked(self, tensor: Tensor, array: Array) -> Array:
        """`array` in the datatype that the model promises."""
        given = _datatype(self._model, array)
        fitting = fits(tensor, array)
        if given != tensor.datatype and fitting:
            wanted = DATATYPES[tensor.datatype]
            if "BYTES" in (given, tensor.datatype) or "BF16" in (given, tensor.datatype):
                fitting = False
            elif fitting := np.can_cast(array.dtype, wanted, "same_kind"):
                held = narrowed(array, wanted)
                if held is None:
                    raise OutputError(
                        f"output {tensor.name!r} of model {self._model!r} should be "
                        f"{tensor.datatype}, got a number of {given} that it cannot hold"
                    )
                array = held
        if not fitting:
            raise OutputError(
                f"output {tensor.name!r} of model {self._model!r} should be {tensor.datatype} of "
                f"shape {[-1, *tensor.shape]}, got {given} of shape {list(array.shape)}"
            )
        return array

    def _learn(self, found: list[tuple[str | None, Array]]) -> None:
        alone = len(found) == 1
        self._tensors = tuple(
            Tensor(
                key or ("output" if alone else f"output_{index}"),
                _datatype(self._model, array),
                self._learned_shape(array.shape[1:]),
            )
            for index, (key, array) in enumerate(found)
        )

    def _learned_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """What is known of all answers' rows from the shape of one."""
        if self._spec is None:  # rows of a list may differ from each other
            return (-1,) * len(shape)
        if shape and any(spec.ragged for spec in leaves(self._spec)):
            return (-1, *shape[1:])  # as long as the request was, for all that we know
        return shape

    def _leaves_of(self, answer: Any, rows: int) -> list[tuple[str | None, Array]]:
        """The arrays of an answer, each with its axis of rows, and their names if they have any."""
        return _stacked(self._model, [answer]) if rows == 1 else self._leaves_of_batch(answer)

    def _leaves_of_batch(self, answer: Any) -> list[tuple[str | None, Array]]:
        """Those of an answer to several rows, or to a whole batch."""
        if isinstance(answer, list):
            return _stacked(self._model, answer)
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
