"""Writes the page of docs/ from the results: `python -m benchmarks.gpu.page gpu.json`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.gpu.tables import (
    TARGETS,
    ends_of,
    groups_of,
    rows_of,
    target_rows,
)
from benchmarks.report import Row
from benchmarks.serving.page import DOCS, table

__all__ = ["published", "render"]

HEAD = """# On a GPU

<!-- Written by `python -m benchmarks.gpu.page`; change that instead. -->

`python -m benchmarks.gpu` probes a machine with a GPU, checks and times every kernel, serves three
models by hand and with tidegate, and runs the tests that need a GPU.
[benchmarks/README.md](../../benchmarks/README.md#on-a-gpu) says how.
"""

UNMEASURED = """
**Not yet measured on a GPU.** This measures, in at most ten minutes, and publishes it:

```sh
pip install '.[cuda13]' torch 'pytest>=9' pytest-timeout   # or cuda12; see `tidegate doctor`
python -m benchmarks.gpu
python -m benchmarks.gpu.page benchmarks/results/gpu.json
```
"""

READING = """
A closed loop has {clients} clients, each of which asks again when it has its answer, or the threads
that are named; an open loop has requests at random times, as many as a share of what the better of
the two fair variants reached in its closed loop, and its latencies count from when a request was
due. *Naive* stacks or pads on the host, in float32 where there are pixels; *fair naive* uploads
small types and widens them on the device; the better of the two counts, and neither has graphs,
which are the model's own doing and not a batcher's. *Padding* is the share of rows, or of tokens,
that the model saw for nothing; *CPU* is the processor time of the whole process, clients included,
for each request. One answer in fifty was compared with the model's answer to that request alone:
*off by* is the largest distance, as a share of the answer's norm. A kernel's *fraction* is of the
bandwidth of copies on the device made just before.
"""


def _markdown(header: Row, rows: list[Row]) -> str:
    return table(header, [tuple(cell.replace("|", "\\|") for cell in row) for row in rows])


def machine(record: dict[str, Any]) -> str:
    """What it was measured on, and with which versions."""
    named, settings = record["machine"], record["settings"]
    facts: dict[str, Any] = {}
    for section in record["sections"].values():
        facts = {**section["facts"], **facts}
    gpu = facts.get("gpu", "a GPU that did not say its name")
    memory = facts.get("gpu_memory", 0) / (1 << 30)
    versions = {
        "CuPy": facts.get("cupy"),
        "PyTorch": facts.get("torch"),
        "NumPy": named["packages"]["numpy"],
        "tidegate": named["packages"]["tidegate"],
    }
    listed = ", ".join(f"{name} {number}" for name, number in versions.items() if number)
    return (
        f"\nMeasured on {named['date'][:10]} on {gpu} ({memory:.0f} GiB), with {named['cores']} "
        f"cores of {named['cpu']}, {named['system'].partition('-')[0]}, CPython {named['python']}; "
        f"driver for CUDA {_version(facts.get('driver_cuda'))}, runtime "
        f"{_version(facts.get('runtime_cuda'))}, {listed}; commit {record['commit']}; "
        f"{settings['seconds']:g} s in all. [All figures](gpu.json).\n"
    )


def _version(number: int | None) -> str:
    return "unknown" if not number else f"{number // 1000}.{number % 1000 // 10}"


def render(record: dict[str, Any] | None) -> str:
    """The page's text; None where nothing has been measured."""
    if record is None:
        return HEAD + UNMEASURED
    sections = record["sections"]
    clients = next(
        (each["facts"]["clients"] for each in sections.values() if "clients" in each["facts"]), 0
    )
    parts = [HEAD, machine(record)]
    targets = target_rows(sections)
    if targets:
        parts.append("\n## Against the targets\n\n" + _markdown(TARGETS, targets))
    parts.append("\n## The sections\n\n" + _markdown(("section", "end", "s"), ends_of(sections)))
    if clients:
        parts.append(READING.format(clients=clients))
    for group, entries in groups_of(sections).items():
        header, rows = rows_of(group, entries)
        parts.append(f"\n## {group[0].upper()}{group[1:]}\n\n" + _markdown(header, rows))
    return "".join(parts)


def published() -> dict[str, Any] | None:
    """The results that docs/ has."""
    path = DOCS / "gpu.json"
    record: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
    return record


def main() -> None:
    """Publish the results named on the command line; without any, write the page again."""
    if len(sys.argv) > 1:
        (DOCS / "gpu.json").write_text(Path(sys.argv[1]).read_text())
    (DOCS / "gpu.md").write_text(render(published()))


if __name__ == "__main__":
    main()
