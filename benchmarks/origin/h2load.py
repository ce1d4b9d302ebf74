"""Runs h2load, the load for HTTP/1.1: its throughput, latencies and own processor time are read."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np

from benchmarks.origin.closed_loop import (
    PATIENCE,
    NoAnswerError,
    Run,
    Shape,
    children_cpu,
    folder_in_memory,
)
from benchmarks.origin.questions import Question

JSON_SLACK = 0.1
"""A number in JSON is longer or shorter by some digits, which its batch decides."""

_FINISHED = re.compile(r"finished in ([\d.]+)(us|ms|s),")
_REQUESTS = re.compile(
    r"requests: \d+ total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed"
)
_DATA = re.compile(r"\((\d+)\) data")
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


def parse(output: str, question: Question, in_flight: int) -> tuple[int, float]:
    """Answers and seconds, of what h2load has printed.

    Raises:
        NoAnswerError: There are none.
        RuntimeError: A request failed, or answers do not have the size of a right one: gRPC says
            in its trailers that a call failed, which h2load does not read, and sends no message.
    """
    finished, requests, data = (pattern.search(output) for pattern in (_FINISHED, _REQUESTS, _DATA))
    if not (finished and requests and data):
        raise RuntimeError(f"h2load did not say what was expected:\n{output}")
    done, succeeded, failed = (int(number) for number in requests.groups())
    received, wanted = int(data[1]), len(question.answer)
    if failed or succeeded != done:
        raise RuntimeError(f"requests failed:\n{output}")
    if not done:
        raise NoAnswerError(f"no request was answered in {finished[1]} {finished[2]}")
    slack = JSON_SLACK if question.http1 else 0.0
    least, most = done * wanted * (1 - slack), (done + in_flight) * wanted * (1 + slack)
    if not least <= received <= most:
        raise RuntimeError(
            f"{done} answers have {received} bytes, not {wanted} each: calls failed\n{output}"
        )
    return done, float(finished[1]) * _UNITS[finished[2]]


def closed_loop(
    port: int, question: Question, shape: Shape, seconds: float, core: int | None
) -> Run:
    """Keep requests in flight for a while, and have each one's latency written down.

    Args:
        port: Of the server, on the loopback interface.
        question: What is asked, the same each time.
        shape: How many connections and requests.
        seconds: How long.
        core: h2load runs on this one; None for any.
    """
    with folder_in_memory() as name:
        body, latencies = Path(name) / "body", Path(name) / "log"
        body.write_bytes(question.body)
        command = [] if core is None else ["taskset", "-c", str(core)]
        command += ["h2load", "-t", "1", "-c", str(shape.connections), "-m", str(shape.streams)]
        command += ["-D", f"{seconds * 1e3:.0f}ms", "-d", str(body), f"--log-file={latencies}"]
        command += ["--h1"] if question.http1 else []
        for header in question.headers:
            command += ["-H", header]
        command.append(f"http://127.0.0.1:{port}{question.path}")
        before = children_cpu()
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds + PATIENCE, check=False
        )
        cpu = children_cpu() - before
        if ended.returncode:
            raise RuntimeError(f"h2load ended with {ended.returncode}:\n{ended.stderr}")
        answers, measured = parse(ended.stdout, question, shape.in_flight)
        return Run(
            answers=answers,
            seconds=measured,
            own_cpu=cpu,
            latencies=read_log(latencies),
        )


def read_log(path: Path, skip: float = 0.2) -> np.ndarray:
    """Latencies in seconds of all requests but those that began in the first part of the run.

    Each line has a request's start in microseconds, its status and its duration in microseconds.
    """
    with path.open() as file:
        lines = np.fromfile(file, np.int64, sep=" ").reshape(-1, 3)
    begun, statuses, durations = lines.T
    if not len(lines) or (statuses != 200).any():
        raise RuntimeError(f"h2load logged {len(lines)} requests, not all of them with status 200")
    since = begun.min() + skip * (begun.max() - begun.min())
    latencies: np.ndarray = durations[begun >= since] / 1e6
    return latencies
