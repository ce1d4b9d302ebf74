"""The tables: what each server reached in each cell, what it cost, the write-up's figures."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks import report
from benchmarks.harness import Outcome, Spread
from benchmarks.origin.contenders import (
    CEILING,
    CELLS,
    COMPARED,
    COMPARED_CELLS,
    RATES,
    WORKLOADS,
)

Spreads = dict[str, Spread]

WRITE_UP: list[report.Row] = [
    ("Go (gRPC)", "4,200", "3", "8", "180 MB"),
    ("Python (FastAPI)", "850", "12", "45", "1.2 GB"),
]
WRITE_UP_HEADER = ("the write-up's own", "requests/s", "p50 ms", "p99 ms", "memory")

SATURATED = 0.95
"""A core that is busy for more than this share of the time is what limits the throughput."""

MARK = " *"
NOT_MEASURED = "-"


def title(cell: str) -> str:
    """What a cell is called above its column."""
    return cell if " " in cell else f"{cell} in flight"


def _milliseconds(spread: Spread) -> str:
    value = spread.median * 1e3
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def limited_by_load(spreads: Spreads, cell: str) -> bool:
    """Whether the load generator was at its limit while the server was not."""
    load, server = (spreads[f"{who}_busy {cell}"].median for who in ("load", "server"))
    return load >= SATURATED > server


def figures(spreads: Spreads, cell: str) -> str:
    """Requests a second, and p50 and p99 in milliseconds; marked where the load was the limit."""
    if f"throughput {cell}" not in spreads:
        return NOT_MEASURED
    rate = f"{spreads[f'throughput {cell}'].median:,.0f}"
    p50, p99 = (_milliseconds(spreads[f"{name} {cell}"]) for name in ("p50", "p99"))
    loaded = f"load_busy {cell}" in spreads
    mark = MARK if loaded and limited_by_load(spreads, cell) else ""
    return f"{rate}, {p50} / {p99}{mark}"


def closed_header() -> report.Row:
    return ("server", *map(title, CELLS), "peak MB")


def closed_rows(outcome: Outcome) -> list[report.Row]:
    """A row for each server, a cell for each closed loop."""
    return [
        (
            name,
            *(figures(spreads, cell) for cell in CELLS),
            f"{spreads['memory'].median / 1e6:.1f}",
        )
        for name, spreads in outcome.metrics.items()
    ]


def open_header() -> report.Row:
    return ("server", *RATES, "p99 of lateness ms")


def open_rows(outcome: Outcome) -> list[report.Row]:
    """A row for each server that had an open loop; how late the load was at most comes last."""
    rows = []
    for name, spreads in outcome.metrics.items():
        late = [spreads[f"late {rate}"].median for rate in RATES if f"late {rate}" in spreads]
        if late:
            cells = (figures(spreads, rate) for rate in RATES)
            rows.append((name, *cells, f"{max(late) * 1e3:.2f}"))
    return rows


def cost_header() -> report.Row:
    return ("server", *map(title, CELLS))


def _cost(spreads: Spreads, cell: str) -> str:
    if f"cpu_us {cell}" not in spreads:
        return NOT_MEASURED
    batch = f"batch {cell}"
    rows = f", {spreads[batch].median:.1f}" if batch in spreads else ""
    server, load = (spreads[f"{who}_busy {cell}"].median for who in ("server", "load"))
    return f"{spreads[f'cpu_us {cell}'].median:.1f} µs{rows}, {server:.0%} / {load:.0%}"


def cost_rows(outcome: Outcome) -> list[report.Row]:
    """Processor time of a request, mean batch, how busy server and load were."""
    return [
        (name, *(_cost(spreads, cell) for cell in CELLS))
        for name, spreads in outcome.metrics.items()
        if any(f"cpu_us {cell}" in spreads for cell in CELLS)
    ]


def load_check(outcome: Outcome) -> str:
    """Which cells were limited by the load, and what it can do at most."""
    limited = [
        f"{name} at {cell}"
        for name, spreads in outcome.metrics.items()
        for cell in CELLS
        if name != CEILING and f"load_busy {cell}" in spreads and limited_by_load(spreads, cell)
    ]
    parts = []
    if limited:
        parts.append(
            "The load generator was at its limit, and the server not, in cells marked "
            f"with{MARK}: {', '.join(limited)}; these servers can do more."
        )
    else:
        parts.append("In no cell was the load generator at its limit while the server was not.")
    if CEILING in outcome.metrics:
        spreads = outcome.metrics[CEILING]
        most = ", ".join(f"{spreads[f'throughput {cell}'].median:,.0f} at {cell}" for cell in CELLS)
        parts.append(f"Against a server that does nothing but frames it reaches {most}.")
    compared = outcome.metrics.get(COMPARED, {})
    cells = [cell for cell in COMPARED_CELLS if f"h2load {cell}" in compared]
    if cells:
        both = ", ".join(
            f"{compared[f'h2load {cell}'].median:,.0f} and "
            f"{compared[f'throughput {cell}'].median:,.0f} at {cell}"
            for cell in cells
        )
        parts.append(f"h2load and it reach, against {COMPARED}: {both}.")
    return " ".join(parts)


def print_outcome(outcome: Outcome) -> None:
    """Print the tables of one workload."""
    print(f"\n{outcome.name}: {outcome.question}")
    print(f"{outcome.rounds} rounds; others took {outcome.others:.0%} of the machine")
    report.print_table(
        "Closed loops: requests/s, p50 / p99 in ms", closed_header(), closed_rows(outcome)
    )
    report.print_table(
        "CPU per request, mean batch, busy server / load", cost_header(), cost_rows(outcome)
    )
    if WORKLOADS[outcome.name].pinned:
        report.print_table(
            "Open loops: answers/s, p50 / p99 in ms", open_header(), open_rows(outcome)
        )
    print(load_check(outcome))
    for name, error in outcome.failed.items():
        print(f"{outcome.name}, {name} FAILED:\n{error}")


def print_all(outcomes: Sequence[Outcome]) -> None:
    """Print what was promised and what was reached, with the write-up's own figures."""
    report.print_table("For comparison", WRITE_UP_HEADER, WRITE_UP)
    report.print_targets(outcomes)
