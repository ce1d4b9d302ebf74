"""Compiles the kernels' text with g++ and launches its kernels on the CPU, in seeded order."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from tidegate.gpu import kernels

SHIM = Path(__file__).with_name("shim")
COMPILER = "g++"
# Not optimised, since most of the time goes into compiling. Contracted products and sums would hide
# a missing fma. What the sanitizer notices is reported by the shim itself (fibers.cpp), so none of
# its runtime is linked.
FLAGS = (
    "-std=c++17",
    "-O0",
    "-fPIC",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-U_FORTIFY_SOURCE",
)
SANITIZE = "-fsanitize=alignment,shift,signed-integer-overflow"
PATIENCE = 100  # seconds for one compiler


class ShimError(Exception):
    """A kernel did what a GPU would not forgive, or was launched wrongly."""


def compile_fibers(folder: Path) -> Path:
    """The scheduler's object file, which the shims of all texts share."""
    output = folder / "fibers.o"
    _run("-c", str(SHIM / "fibers.cpp"), "-o", str(output))
    return output


def build(text: str, folder: Path, fibers: Path) -> Shim:
    """The shim of a text; `folder` must not exist."""
    folder.mkdir()
    (folder / "kernels.cu").write_text(text)
    listed = "".join(f"KERNEL({name})\n" for name in kernels.KERNELS)
    (folder / "kernel_names.inc").write_text(listed)
    source, output = str(SHIM / "launch.cpp"), str(folder / "launch.o")
    defined = '-DTIDEGATE_KERNELS="kernels.cu"'
    _run("-c", source, "-o", output, SANITIZE, f"-I{folder}", f"-I{SHIM}", defined)
    library = folder / "shim.so"
    _run("-shared", output, str(fibers), "-o", str(library))
    return Shim(library)


def _run(*arguments: str) -> None:
    command = [COMPILER, *FLAGS, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == 0, ended.stderr


class Shim:
    """The compiled text."""

    def __init__(self, library: Path) -> None:
        self._launch = ctypes.CDLL(str(library)).tidegate_shim_launch
        self._launch.restype = ctypes.c_char_p

    def launch(
        self,
        name: str,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        arguments: tuple[Any, ...],
        *,
        seed: int,
    ) -> None:
        """Runs a kernel; arguments as for CuPy's kernels, but Python's numbers are refused.

        Raises:
            ShimError: What the shim noticed.
        """
        kept = [_by_value(argument) for argument in arguments]
        pointers = [ctypes.cast(value, ctypes.c_void_p) for value in kept]
        error = self._launch(
            name.encode(),
            (ctypes.c_uint * 3)(*grid, *(1,) * (3 - len(grid))),
            (ctypes.c_uint * 3)(*block, *(1,) * (3 - len(block))),
            (ctypes.c_void_p * len(kept))(*pointers),
            (ctypes.c_size_t * len(kept))(*(len(value) for value in kept)),
            len(kept),
            ctypes.c_ulonglong(seed),
        )
        if error is not None:
            raise ShimError(f"{name}: {error.decode()}")


def _by_value(argument: Any) -> ctypes.Array[ctypes.c_char]:
    """The bytes of one parameter: a device pointer, a scalar, or a struct."""
    if argument is None:
        content = bytes(8)
    elif hasattr(argument, "get"):  # an array on the device, as CuPy's are
        content = int(argument.data.ptr).to_bytes(8, "little")
    elif isinstance(argument, np.generic) or (
        isinstance(argument, np.ndarray) and argument.size == 1
    ):
        content = argument.tobytes()
    else:
        raise TypeError(f"a kernel takes no {type(argument).__name__} of that kind: {argument!r}")
    # One that is aligned for every parameter, which a char array need not be.
    words = (ctypes.c_longlong * (len(content) // 8 + 2))()
    base = ctypes.addressof(words)
    start = -base % 16
    buffer = (ctypes.c_char * len(content)).from_buffer(words, start)
    buffer.raw = content
    return buffer
