"""One section in a process of its own: `python -m benchmarks.gpu.section NAME --out FILE`.

After an error of CUDA's nothing more runs on the GPU in that process, and what hangs can be ended
from outside; so the other sections lose nothing by it.
"""

from __future__ import annotations

import argparse
import faulthandler
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu.journal import Journal

__all__ = ["PATIENCE", "SECTIONS", "run"]

SECTIONS = {
    "probes": 80.0,
    "kernels": 80.0,
    "I": 115.0,
    "E": 115.0,
    "T": 95.0,
    "tests": 55.0,
}
"""In the order in which they run, with their shares of the time."""

PATIENCE = 15.0
"""Seconds that a section may take beyond its own, for what it has begun to end."""


def run(name: str, journal: Journal, sanitize: bool) -> None:
    """Runs a section; CuPy and PyTorch are imported here.

    Raises:
        ConfigError: No work on a GPU is possible.
    """
    if name == "tests":
        from benchmarks.gpu import suites

        suites.measure(journal, sanitize)
        return
    from benchmarks.gpu import endtoend, kernels, probes, stack

    gpu = stack.open_gpu(with_torch=name != "kernels")
    journal.state(**stack.describe(gpu))
    if name == "probes":
        probes.measure(gpu, journal)
    elif name == "kernels":
        kernels.measure(gpu, journal)
    else:
        endtoend.measure(name, gpu, journal)


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("benchmarks.gpu.section", description=__doc__)
    parser.add_argument("name", choices=SECTIONS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--sanitize", action="store_true")
    options = parser.parse_args(given)
    # Whatever hangs says where, before it is ended from outside.
    faulthandler.dump_traceback_later(options.seconds + PATIENCE, exit=True)
    journal = Journal(options.out, options.seconds)
    try:
        run(options.name, journal, options.sanitize)
    except Exception as error:
        journal.fail("sections", options.name, error)
        return 1
    journal.state(whole=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
