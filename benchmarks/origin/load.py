"""Runs the load generator in load.cpp: closed loops of gRPC calls, every answer checked."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np

from benchmarks.origin.closed_loop import PATIENCE, NoAnswerError, Run, Shape, folder_in_memory
from benchmarks.origin.questions import Question

WARM_UP = 0.1
"""Seconds before what counts."""


def closed_loop(
    program: Path, port: int, question: Question, shape: Shape, seconds: float, core: int | None
) -> Run:
    """Keep calls in flight for a while.

    Args:
        program: The load generator, built.
        port: Of the server, on the loopback interface.
        question: What is asked, the same each time, and the right answer.
        shape: How many connections and calls.
        seconds: How long.
        core: It runs on this one; None for any.

    Raises:
        NoAnswerError: There was no answer.
        RuntimeError: An answer was wrong, or a call failed.
    """
    with folder_in_memory() as name:
        request, answer, latencies = (Path(name) / part for part in ("request", "answer", "log"))
        request.write_bytes(question.body)
        answer.write_bytes(question.answer)
        command = [] if core is None else ["taskset", "-c", str(core)]
        command += [str(program), str(port), str(shape.connections), str(shape.streams)]
        command += [str(WARM_UP), str(seconds), question.path]
        command += [str(request), str(answer), str(latencies)]
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds + PATIENCE, check=False
        )
        if ended.returncode:
            raise RuntimeError(f"the load ended with {ended.returncode}: {ended.stderr}")
        said = json.loads(ended.stdout)
        if not said["answers"]:
            raise NoAnswerError(f"no call was answered in {seconds} s")
        return Run(
            answers=said["answers"],
            seconds=said["seconds"],
            own_cpu=said["cpu"],
            latencies=np.fromfile(latencies, np.uint32) / 1e9,
        )
