"""Names the machine and the versions that a measurement was made with."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import sys
import time
from pathlib import Path

PACKAGES = (
    "tidegate",
    "numpy",
    "batched",
    "uvloop",
    "fastapi",
    "pydantic",
    "starlette",
    "uvicorn",
    "httptools",
    "grpcio",
)


def cpu_model() -> str:
    """The processor's name, as the kernel gives it where it does."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


class Others:
    """How busy everybody else has kept the machine since this was made, by the kernel's account."""

    def __init__(self) -> None:
        self._start = self._read()

    @staticmethod
    def _read() -> tuple[float, float, float]:
        """Seconds: of the clock, of all processors not idle, of this process and its children."""
        user, nice, system, _, _, irq, softirq, steal = (
            float(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
        )
        busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        return time.perf_counter(), busy, sum(os.times()[:4])

    def share(self) -> float:
        """The share of all processors' time that somebody else took, 0 to 1."""
        clock, busy, own = (
            end - start for start, end in zip(self._start, self._read(), strict=True)
        )
        return max(0.0, busy - own) / max(1e-9, clock * (os.cpu_count() or 1))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def describe() -> dict[str, object]:
    """The machine as it goes into the JSON file."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "switch_interval": sys.getswitchinterval(),
        "packages": {package: _version(package) for package in PACKAGES},
    }
