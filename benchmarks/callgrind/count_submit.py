"""Counts the instructions of one `submit` of a float32[64] row beyond an empty Cython method.

`python -m benchmarks.callgrind.count_submit` needs valgrind, Cython and a C compiler. Two runs that
differ only in how often they submit are counted by callgrind; the difference, divided, is one turn
of the loop. An empty method is counted in the same way and taken off. What that is in nanoseconds
follows from how many instructions the same loop runs in one without valgrind.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

LOOP = Path(__file__).with_name("loop.py")
FEW, MANY = 2_000, 12_000
EMPTY_METHOD = """\
# cython: language_level=3, binding=False
cdef class Empty:
    def method(self, row):
        return None
"""


def build_empty_method(folder: Path) -> None:
    """Compile the empty method into `folder` as `empty_method`."""
    source = folder / "empty_method.pyx"
    source.write_text(EMPTY_METHOD)
    subprocess.run([sys.executable, "-m", "cython", source], check=True)
    compiler = shlex.split(sysconfig.get_config_var("CC") or "cc")
    include = sysconfig.get_path("include")
    output = folder / f"empty_method{sysconfig.get_config_var('EXT_SUFFIX')}"
    flags = ["-O2", "-shared", "-fPIC", f"-I{include}"]
    subprocess.run([*compiler, *flags, source.with_suffix(".c"), "-o", output], check=True)


def environment(folder: Path) -> dict[str, str]:
    """Where the empty method is found, and nothing left to chance between two runs."""
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"}


def instructions(kind: str, turns: int, folder: Path) -> int:
    """The instructions of a whole process that makes this many turns."""
    profile = folder / f"callgrind.{kind}.{turns}"
    command = ["valgrind", "--tool=callgrind", "--instr-atstart=yes"]
    command += [f"--callgrind-out-file={profile}", sys.executable, str(LOOP), kind, str(turns)]
    ended = subprocess.run(
        command, env=environment(folder), capture_output=True, text=True, timeout=600, check=False
    )
    if ended.returncode != 0:
        raise RuntimeError(f"{shlex.join(command)} failed:\n{ended.stderr}")
    total = re.search(r"^(?:summary|totals): (\d+)", profile.read_text(), re.MULTILINE)
    if total is None:
        raise RuntimeError(f"no total in callgrind's output:\n{ended.stderr}")
    return int(total.group(1))


def per_turn(kind: str, folder: Path) -> float:
    """Instructions of one turn of the loop."""
    difference = instructions(kind, MANY, folder) - instructions(kind, FEW, folder)
    return difference / (MANY - FEW)


def nanoseconds(kind: str, folder: Path, repeats: int) -> float:
    """The least time of one turn of the loop without valgrind: whatever disturbs only adds."""
    command = [sys.executable, str(LOOP), kind, str(MANY)]
    times = [
        float(subprocess.check_output(command, env=environment(folder), timeout=60))
        for _ in range(repeats)
    ]
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9, help="timed runs without valgrind")
    parser.add_argument("--keep", type=Path, help="folder in which to keep callgrind's profiles")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        build_empty_method(folder)
        submit, empty = per_turn("submit", folder), per_turn("empty", folder)
        times = {kind: nanoseconds(kind, folder, options.repeats) for kind in ("submit", "empty")}
        if options.keep is not None:
            options.keep.mkdir(parents=True, exist_ok=True)
            for profile in folder.glob("callgrind.*"):
                (options.keep / profile.name).write_bytes(profile.read_bytes())
    rate = submit / times["submit"]
    print(f"submit of float32[64]    {submit:8.0f} instructions  {times['submit']:7.1f} ns a turn")
    print(f"empty Cython method      {empty:8.0f} instructions  {times['empty']:7.1f} ns a turn")
    print(f"beyond the empty method  {submit - empty:8.0f} instructions")
    print(f"at {rate:.2f} instructions/ns {(submit - empty) / rate:11.1f} ns (target: at most 250)")


if __name__ == "__main__":
    main()
