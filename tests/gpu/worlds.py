"""What the lane's tests run in: CuPy and CUDA, real or fake, and batches to send there."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate._layout import LONGEST, ROWS, TOKENS, Layout
from tidegate.gpu.flights import Flight
from tidegate.gpu.lane import Lane
from tidegate.ragged import PerToken
from tidegate.specs import Spec, leaves

CAPACITY, ROOM = 8, 64


@dataclass
class World:
    """CuPy and CUDA."""

    xp: Any
    cuda: Any
    lanes: list[Lane] = field(default_factory=list)

    def lane(self, model: Callable[[Any], Any], spec: Spec, **settings: Any) -> Driven:
        """A lane, entered by this thread."""
        lane = Lane(model, spec, xp=self.xp, cuda=self.cuda, **settings)
        lane.enter()
        self.lanes.append(lane)
        return Driven(lane, spec)

    def close(self) -> None:
        """Closes what was opened."""
        for lane in self.lanes:
            lane.close()


@dataclass
class Driven:
    """A lane with the batches that somebody has to fill."""

    lane: Lane
    spec: Spec

    def send(self, requests: Sequence[Any], size: int = 0, room: int = ROOM) -> Flight:
        """Fills memory with requests as a Batcher does, and starts them."""
        specs = leaves(self.spec)
        layout = Layout(specs, CAPACITY, room)
        memory = self.lane.new_memory(layout.nbytes)
        assert memory.ctypes.data % 256 == 0
        assert memory.nbytes == layout.nbytes
        memory[...] = 0xCB
        lengths = [0] * len(requests)
        for index, (leaf, array) in enumerate(zip(specs, layout.arrays_of(memory), strict=True)):
            parts = [np.asarray(_parts(request)[index], leaf.dtype) for request in requests]
            if leaf.ragged:
                lengths = [len(part) for part in parts]
                whole = np.concatenate(parts)
                array[: len(whole)] = whole
            else:
                array[: len(parts)] = np.stack(parts)
        tokens, longest = sum(lengths), max(lengths)
        header = layout.header_of(memory)
        header[...] = 0
        header[ROWS], header[TOKENS], header[LONGEST] = len(requests), tokens, longest
        if layout.ragged:
            layout.offsets_of(memory)[: len(requests) + 1] = np.cumsum([0, *lengths])
        rows = len(requests)
        return self.lane.start(memory, layout, rows, tokens, longest, size or rows)

    def answers(self, batches: Iterable[Sequence[Any]], size: int = 0) -> list[Any]:
        """Sends batches, as many at once as may be, and waits for them in order."""
        flights: deque[Flight] = deque()
        answers = []
        for requests in batches:
            if len(flights) == self.lane.depth:
                answers.append(flights.popleft().wait())
            flights.append(self.send(requests, size))
        return answers + [flight.wait() for flight in flights]


def _parts(request: Any) -> list[Any]:
    if isinstance(request, dict):
        return list(request.values())
    return list(request) if isinstance(request, tuple) else [request]


def on_host(array: Any) -> npt.NDArray[Any]:
    """An array of either side, in a PerToken or not, in NumPy's memory."""
    bare = array.array if isinstance(array, PerToken) else array
    found: npt.NDArray[Any] = bare.get() if hasattr(bare, "get") else np.asarray(bare)
    return found
