"""Models that run without the GIL: a C function instead of a Python callable."""

from __future__ import annotations

import ctypes
from _ctypes import CFuncPtr
from typing import Any

from tidegate.errors import ConfigError
from tidegate.specs import Spec, TensorSpec, check_spec

__all__ = ["NativeModel", "include_dir"]

CAPSULE_NAME = b"tidegate_native_model"

_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype = ctypes.c_void_p
_capsule_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]


def include_dir() -> str:
    """The folder to compile a native model with: ``#include <tidegate/native_model.h>``."""
    from pathlib import Path  # here: it takes half as much memory as all the rest of tidegate

    return str(Path(__file__).with_name("include"))


class NativeModel:
    """A model that a native thread runs, batch by batch, without ever taking the GIL.

    The function has the C signature ``tidegate_native_model`` (native_model.h)::

        int32_t model(void* user_data, int64_t rows,
                      const void* const* inputs, void* const* outputs);

    ``inputs[i]`` and ``outputs[i]`` are C-contiguous arrays of ``rows`` rows, in the order of the
    batcher's inputs and of ``outputs``. It returns 0, or a status that fails the batch with a
    ModelError. It must not keep the pointers, and must not call into Python.

    Args:
        function: Its address as an int, a ``ctypes`` function pointer, an object with an
            ``address`` attribute (``numba.cfunc``), or a capsule named ``tidegate_native_model``.
        outputs: What the model writes for one row: a TensorSpec, or a tuple or mapping of them.
        user_data: An address that is handed to each call.

    Raises:
        ConfigError: `function` is none of these, or `outputs` is no spec.
    """

    def __init__(
        self, function: Any, *, outputs: Spec | list[TensorSpec], user_data: int = 0
    ) -> None:
        self.address = _address_of(function)
        self.outputs = check_spec(outputs)
        self.user_data = user_data
        self._function = function  # the code must live as long as the model

    def __repr__(self) -> str:
        return f"NativeModel({self.address:#x}, outputs={self.outputs!r})"


def _address_of(function: Any) -> int:
    address: Any = None
    if isinstance(function, int) and not isinstance(function, bool):
        address = function
    elif isinstance(function, CFuncPtr):
        address = ctypes.cast(function, ctypes.c_void_p).value
    elif isinstance(getattr(function, "address", None), int):
        address = function.address
    elif type(function).__name__ == "PyCapsule":
        try:
            address = _capsule_pointer(function, CAPSULE_NAME)
        except ValueError as error:
            raise ConfigError(
                f"a native model's capsule must be named {CAPSULE_NAME.decode()!r}"
            ) from error
    if not address:
        raise ConfigError(
            "a native model is an address, a ctypes function pointer, a numba cfunc or a capsule; "
            f"got {type(function).__name__}"
        )
    return int(address)
