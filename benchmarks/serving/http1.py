"""HTTP/1.1 connections of the load: kept alive, one request under way on each."""

from __future__ import annotations

import re
from time import perf_counter

from benchmarks.serving.load import Connection, Load

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


class Http1Connection(Connection):
    """Asks, reads the whole answer, asks again."""

    def __init__(self, load: Load) -> None:
        super().__init__(load)
        self._received = b""
        self._number = 0
        self._asked = 0.0

    def start(self) -> None:
        self.ask_once(perf_counter())

    def ask_once(self, asked: float) -> None:
        """Send the next request, whose latency counts from `asked`; none may be under way."""
        assert self.transport is not None
        self._number = self.load.ask()
        self._asked = asked
        self.transport.write(self.load.questions.requests[self._number])

    def data_received(self, data: bytes) -> None:
        data = self._received + data if self._received else data
        self._received = data
        end = data.find(b"\r\n\r\n")
        if end < 0:
            return
        length = _LENGTH.search(data, 0, end + 2)
        if not data.startswith(b"HTTP/1.1 200 ") or length is None:
            self.load.fail(RuntimeError(f"no answer as expected: {data[:1000]!r}"))
            return
        answer = data[end + 4 :]
        missing = int(length[1]) - len(answer)
        if missing < 0:
            self.load.fail(RuntimeError(f"{-missing} bytes after an answer: {data[:1000]!r}"))
        if missing:
            return
        self._received = b""
        if self.load.answered(self._number, self._asked, answer):
            self.start()


def connections(load: Load) -> list[Http1Connection]:
    """One for each request in flight."""
    return [Http1Connection(load) for _ in range(load.in_flight)]
