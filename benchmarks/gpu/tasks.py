"""What a model is asked end to end, and each way to ask it: by hand, and with tidegate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.gpu.journal import Metrics
from benchmarks.gpu.stack import Gpu

__all__ = ["GRAPH_SIZES", "Array", "ByHand", "Graphed", "Tallied", "Tally", "Task", "Way"]

Array = npt.NDArray[Any]

# Answers of a batch, and how many rows, or tokens, the model saw for them.
ByHand = Callable[[Sequence[Array]], tuple[Array, int]]

GRAPH_SIZES = (1, 2, 4, 8, 16, 32, 64)


@dataclass
class Tally:
    """What models have been given so far.

    Attributes:
        batches: Calls.
        rows: Requests in them.
        useful: Rows, or tokens, of the requests.
        seen: Those that the model was called with: the useful ones, and what filled them up.
    """

    batches: int = 0
    rows: int = 0
    useful: int = 0
    seen: int = 0


class Tallied:
    """A model of a Batcher that counts its calls, which costs well below a microsecond each.

    Args:
        run: The model: takes the argument of a batch.
        seen: How many rows, or tokens, there are in an argument.
    """

    def __init__(self, run: Callable[[Any], Any], seen: Callable[[Any], int]) -> None:
        self.tally = Tally()
        self._run = run
        self._seen = seen

    def __call__(self, argument: Any) -> Any:
        self.tally.batches += 1
        self.tally.seen += self._seen(argument)
        return self._run(argument)

    def facts(self) -> Metrics:
        """Figures beyond the tally."""
        return {}


class Graphed(Tallied):
    """The same for a model of PyTorch's, which records itself into a graph for each argument.

    Args:
        gpu: Where.
        tensors: Makes tensors of an argument, without a copy.
        run: The model: takes those.
        seen: See Tallied.
    """

    def __init__(
        self,
        gpu: Gpu,
        tensors: Callable[[Any], Any],
        run: Callable[[Any], Any],
        seen: Callable[[Any], int],
    ) -> None:
        super().__init__(lambda argument: gpu.answer(run(tensors(argument))), seen)
        self._gpu = gpu
        self._tensors = tensors
        self._model = run
        self._pool: Any = None
        self._graphs = self._replayed = 0

    def capture(self, size: int, argument: Any) -> Callable[[], Any]:
        """The hook that tidegate calls at warm-up; see docs/how-to/gpu.md."""
        torch = self._gpu.torch
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        given = self._tensors(argument)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(
            graph,
            pool=self._pool,
            stream=torch.cuda.current_stream(),
            capture_error_mode="thread_local",
        ):
            answer = self._model(given)
        seen = self._seen(argument)
        self._graphs += 1

        def replay() -> Any:
            self.tally.batches += 1
            self.tally.seen += seen
            self._replayed += 1
            graph.replay()
            return answer

        return replay

    def facts(self) -> Metrics:
        """How many graphs there are, and the share of all calls that replayed one."""
        share = self._replayed / max(1, self.tally.batches)
        return {"graphs": float(self._graphs), "replayed": share}


@dataclass(frozen=True)
class Way:
    """One way to serve a task with tidegate.

    Attributes:
        model: Makes the model of the Batcher.
        settings: Of the Batcher, without the device.
        requests: What callers send, as many as the task has and in the same order; None for the
            task's own.
    """

    model: Callable[[], Tallied]
    settings: Mapping[str, Any]
    requests: Sequence[Array] | None = None


@dataclass(frozen=True)
class Task:
    """A model, requests for it, and the ways to serve them.

    Attributes:
        name: One letter.
        about: One line.
        requests: What callers have.
        tolerance: How far an answer may be from the model's answer to that row alone: the norm of
            the difference, divided by that of the answer.
        alone: One request without any batching, from NumPy to NumPy.
        naive: A batch as it is often written: made on the host in float32, or padded there.
        fair: A batch as a careful engineer writes it.
        tidegate: With tidegate, the model called as it is.
        graphs: With tidegate and captured graphs, or None.
        off: With tidegate and one feature less, by what is missing.
        ragged: Whether rows have lengths; then tokens are counted, not rows.
    """

    name: str
    about: str
    requests: Sequence[Array]
    tolerance: float
    alone: Callable[[Array], Array]
    naive: ByHand
    fair: ByHand
    tidegate: Way
    graphs: Way | None = None
    off: Mapping[str, Way] = field(default_factory=dict)
    ragged: bool = False


def rows_of(argument: Any) -> int:
    """The rows of an argument that is one array."""
    return int(argument.shape[0])


def uploaded(gpu: Gpu, row: Array) -> Any:
    """A batch of one request on the device, as PyTorch's own examples do it."""
    tensor = gpu.torch.from_numpy(np.ascontiguousarray(row[np.newaxis]))
    return tensor.to(gpu.place)
