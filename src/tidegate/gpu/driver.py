"""Asks NVIDIA's driver for its version and its devices, through ctypes and without a context."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["LIBRARY", "Device", "Driver", "ask", "load"]

LIBRARY = "libcuda.so.1"

# Of cuda.h: results, and attributes of a device.
_SUCCESS, _NO_DEVICE = 0, 100
_CAPABILITY = (75, 76)


@dataclass(frozen=True)
class Device:
    """A GPU that the driver offers to this process.

    Attributes:
        index: Its number here, from 0.
        name: As the driver has it.
        capability: Its compute capability, such as (9, 0).
    """

    index: int
    name: str
    capability: tuple[int, int]


@dataclass(frozen=True)
class Driver:
    """What the driver said.

    Attributes:
        version: The newest CUDA that it can run, such as (13, 0); None if it did not say.
        devices: What it offers.
        trouble: Why it does not work, in words; empty if it does.
    """

    version: tuple[int, int] | None = None
    devices: tuple[Device, ...] = ()
    trouble: str = ""


def load() -> Any:
    """The driver's library.

    Raises:
        OSError: There is none, or it cannot be loaded.
    """
    return ctypes.CDLL(LIBRARY)


def ask(loader: Callable[[], Any] = load) -> Driver | None:
    """Asks the driver; nothing is raised, whatever state it is in.

    This initialises the driver in this process, so that children forked later cannot use it.

    Args:
        loader: Returns the driver's library, or raises OSError.

    Returns:
        What it said, or None where there is no driver.
    """
    try:
        library = loader()
    except OSError as error:
        # The loader's message names the library where that is missing, and else what is wrong.
        text = str(error)
        return None if f"{LIBRARY}: cannot open" in text else Driver(trouble=text)
    except Exception as error:
        return Driver(trouble=_in_words(error))
    try:
        version = _version(library)
    except Exception as error:
        return Driver(trouble=_in_words(error))
    try:
        return Driver(version, _devices(library))
    except Exception as error:
        return Driver(version, trouble=_in_words(error))


def _version(library: Any) -> tuple[int, int]:
    # Answers before cuInit, so it is known of a driver that cannot start, too.
    number = ctypes.c_int()
    _call(library, "cuDriverGetVersion", ctypes.pointer(number))
    return number.value // 1000, number.value % 1000 // 10


def _devices(library: Any) -> tuple[Device, ...]:
    if not _call(library, "cuInit", 0, but=_NO_DEVICE):
        return ()
    count = ctypes.c_int()
    _call(library, "cuDeviceGetCount", ctypes.pointer(count))
    return tuple(_device(library, index) for index in range(count.value))


def _device(library: Any, index: int) -> Device:
    handle = ctypes.c_int()
    _call(library, "cuDeviceGet", ctypes.pointer(handle), index)
    name = ctypes.create_string_buffer(256)
    _call(library, "cuDeviceGetName", name, len(name), handle)
    found = []
    for attribute in _CAPABILITY:
        value = ctypes.c_int()
        _call(library, "cuDeviceGetAttribute", ctypes.pointer(value), attribute, handle)
        found.append(value.value)
    return Device(index, name.value.decode(errors="replace"), (found[0], found[1]))


def _call(library: Any, function: str, *arguments: Any, but: int = _SUCCESS) -> bool:
    """Whether a call succeeded; raises if it neither did nor answered `but`."""
    result = getattr(library, function)(*arguments)
    if result not in (_SUCCESS, but):
        name = ctypes.c_char_p()
        library.cuGetErrorName(result, ctypes.pointer(name))
        meaning = f" ({name.value.decode(errors='replace')})" if name.value else ""
        raise RuntimeError(f"{function} answered {result}{meaning}")
    return bool(result == _SUCCESS)


def _in_words(error: Exception) -> str:
    return str(error) or type(error).__name__
