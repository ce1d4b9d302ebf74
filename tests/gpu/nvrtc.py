"""NVRTC by ctypes: compiles a text for any architecture, without CuPy, a toolkit or a driver."""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass
from pathlib import Path

# Folders to look in besides sys.path, separated like PATH: where `pip install --target` put the
# wheels, if not into the environment, which has room for both.
FOLDERS = "TIDEGATE_NVRTC"


def find(major: int) -> Path | None:
    """The library of CUDA's `major`, out of NVIDIA's wheel; None if it is not installed."""
    folders = [*os.environ.get(FOLDERS, "").split(os.pathsep), *sys.path]
    for folder in filter(None, folders):
        for library in sorted(Path(folder).glob(f"nvidia/*/lib/libnvrtc.so.{major}")):
            return library
    return None


class CompileError(Exception):
    """NVRTC's log."""


@dataclass(frozen=True)
class Compiled:
    """Machine code or PTX, and what the compiler said."""

    output: bytes
    log: str


class Nvrtc:
    """One library."""

    def __init__(self, library: Path) -> None:
        self._nvrtc = ctypes.CDLL(str(library))
        self._nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p

    def _call(self, name: str, *arguments: object) -> None:
        status = getattr(self._nvrtc, name)(*arguments)
        if status != 0:
            raise CompileError(f"{name}: {self._nvrtc.nvrtcGetErrorString(status).decode()}")

    @property
    def version(self) -> tuple[int, int]:
        """Of CUDA."""
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        return major.value, minor.value

    def architectures(self) -> list[int]:
        """All that it compiles for: 75, 80, ..."""
        count = ctypes.c_int()
        self._call("nvrtcGetNumSupportedArchs", ctypes.byref(count))
        found = (ctypes.c_int * count.value)()
        self._call("nvrtcGetSupportedArchs", found)
        return list(found)

    def compile(self, text: str, target: str, *options: str) -> Compiled:
        """The machine code for a target such as ``sm_90``, or the PTX for ``compute_90``.

        Raises:
            CompileError: With the log.
        """
        program = ctypes.c_void_p()
        source = text.encode()
        self._call(
            "nvrtcCreateProgram", ctypes.byref(program), source, b"kernels.cu", 0, None, None
        )
        try:
            given = [f"-arch={target}".encode(), *(option.encode() for option in options)]
            try:
                self._call(
                    "nvrtcCompileProgram",
                    program,
                    len(given),
                    (ctypes.c_char_p * len(given))(*given),
                )
            except CompileError as error:
                raise CompileError(f"{target}: {error}\n{self._log(program)}") from None
            kind = "CUBIN" if target.startswith("sm_") else "PTX"
            return Compiled(self._output(program, kind), self._log(program))
        finally:
            self._call("nvrtcDestroyProgram", ctypes.byref(program))

    def _log(self, program: ctypes.c_void_p) -> str:
        return self._output(program, "ProgramLog").decode(errors="replace")

    def _output(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        output = ctypes.create_string_buffer(size.value)
        self._call(f"nvrtcGet{what}", program, output)
        return output.raw
