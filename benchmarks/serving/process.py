"""Starts a measured server in a process of its own, and reads its memory and its CPU time."""

from __future__ import annotations

import compileall
import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import tidegate

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0
"""Seconds that a server may take to start."""

# The model is too small for several threads, and they would blur what one core does.
ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "GRPC_VERBOSITY": "ERROR",
}


def environment() -> dict[str, str]:
    """This process's, for a server that finds its modules compiled, as those of packages are.

    To compile them would leave a megabyte behind, which no installed package costs.
    """
    inherited = {**os.environ, **ENVIRONMENT}
    inherited.pop("PYTHONDONTWRITEBYTECODE", None)
    return inherited


def compile_modules() -> None:
    """Compile tidegate and the benchmarks once; where nothing can be written, nothing is."""
    for package in (Path(tidegate.__file__).parent, ROOT / "benchmarks"):
        compileall.compile_dir(package, quiet=2)


@dataclass(frozen=True)
class Cores:
    """Where the server and the load generator run; None if there are not two cores."""

    server: int | None
    load: int | None

    @classmethod
    def choose(cls) -> Cores:
        cores = sorted(os.sched_getaffinity(0))
        return cls(cores[-1], cores[0]) if len(cores) > 1 else cls(None, None)


@dataclass(frozen=True)
class Server:
    """A running server."""

    pid: int
    port: int

    def peak_memory(self) -> float:
        """The most resident memory that it has had, in bytes."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return float(line.split()[1]) * 1024
        raise RuntimeError(f"the server {self.pid} has ended")

    def cpu(self) -> float:
        """Seconds of processor time of all its threads, also of those that have ended."""
        # What clock_getcpuclockid(3) makes of a process id: Python has no name for it.
        return time.clock_gettime((~self.pid << 3) | 2)


@contextlib.contextmanager
def serving(
    door: str, kind: str, *, core: int | None, uvloop: bool, default_gc: bool = False
) -> Iterator[Server]:
    """Yield a server that accepts connections; it is ended afterwards."""
    command = [sys.executable, "-m", "benchmarks.serving.server", door, kind]
    command += ["--loop", "uvloop" if uvloop else "asyncio"]
    if default_gc:
        command.append("--default-gc")
    if core is not None:
        command += ["--core", str(core)]
    with started(command) as server:
        yield server


@contextlib.contextmanager
def started(command: Sequence[str]) -> Iterator[Server]:
    """Yield the server that a command starts, once it has printed {"port": ...}; ends it after."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, env=environment())
    assert process.stdout is not None
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            line = process.stdout.readline() if selector.select(PATIENCE) else b""
        if not line:
            raise RuntimeError(f"the server did not start: {' '.join(command)}")
        yield Server(process.pid, json.loads(line)["port"])
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
