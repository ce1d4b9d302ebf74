"""The GPU lane: batches of one model on one device, several under way at once.

Three streams share the work: `up` copies a batch to the device, `run` makes the model's argument
and calls the model, `down` copies the answer back. While the model runs one batch, the next is on
its way up and the last on its way down. A ring of slots has the memory; a slot is used again once
its batch is done. So these waits are all there are::

    up ──uploaded──> run ──ran──> down ──done──> the host

It is tested without a GPU, and not yet measured on one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate._layout import Layout
from tidegate.errors import ClosedError, ConfigError, DeviceError
from tidegate.gpu import capturing, kernels, warming
from tidegate.gpu.answers import Shape, flatten, rebuild
from tidegate.gpu.arrays import check_count
from tidegate.gpu.collation import Argument, Collation
from tidegate.gpu.delivery import Delivery, ToDevice, ToHost
from tidegate.gpu.flights import Flight
from tidegate.gpu.pinned import new_memory
from tidegate.gpu.ring import Ring
from tidegate.gpu.slots import Slot
from tidegate.gpu.streams import Streams
from tidegate.specs import Spec

__all__ = ["Lane"]

_OUTPUTS = ("host", "device")


class Lane:
    """The pipeline of one model instance on one device.

    One thread, always the same, calls enter() and then start(); any other may call wait() or done()
    of the flights, in the order of their starts.

    The model is called with CuPy's arrays, while `run` is the current stream of CuPy, and of
    PyTorch if that is imported. Other frameworks must be told to work there, or exchange arrays by
    DLPack. What the argument consists of, with `size` rows:

    ========  =====================================================================
    collate   argument
    ========  =====================================================================
    "stack"   the structure of a request, each array with a leading axis
    "pad"     Padded(values, mask, lengths); the mask is int64 after TokenIds
    "pack"    Packed(values, cu_seqlens, max_seqlen)
    ========  =====================================================================

    Rows that only fill up a batch are zeros, or `padding_value`, and have no tokens.

    Args:
        model: Takes the argument; answers with an array, or a tuple or mapping of arrays, of CuPy's
            or of anything with DLPack or the CUDA array interface. NumPy's arrays are passed on.
        spec: What one request looks like.
        collate: ``"stack"``, or for ragged rows ``"pad"`` or ``"pack"``.
        padding_value: What is behind the tokens of padded rows.
        pad_to: Lengths that rows are padded to, ascending; None pads to the longest.
        outputs: ``"host"`` for NumPy's arrays in page-locked memory, ``"device"`` for CuPy's.
        allowed_batch_sizes: The sizes that the model is called with; None for any.
        xp: CuPy.
        cuda: cupy.cuda.
        device: The device's number.
        depth: How many batches may be under way at once, at least 1.

    Attributes:
        depth: Of the ring.

    Raises:
        ConfigError: A setting has a value that it cannot have, or two do not go together.
    """

    def __init__(
        self,
        model: Callable[[Any], Any],
        spec: Spec,
        *,
        collate: str = "stack",
        padding_value: complex = 0,
        pad_to: Sequence[int] | None = None,
        outputs: str = "host",
        allowed_batch_sizes: Sequence[int] | None = None,
        xp: Any,
        cuda: Any,
        device: int = 0,
        depth: int = 3,
    ) -> None:
        if outputs not in _OUTPUTS:
            raise ConfigError(f'outputs must be "host" or "device", got {outputs!r}')
        self.depth = check_count("depth", depth, least=1, most=64)
        self._model = model
        self._collation = Collation(spec, collate, padding_value, pad_to)
        self._sizes = tuple(
            sorted(check_count("a size", size, least=1) for size in allowed_batch_sizes or ())
        )
        self._xp = xp
        self._cuda = cuda
        self._device = device
        self._closed = False
        with cuda.Device(device):
            self._streams = Streams(cuda, device)
            slots = [Slot(xp, cuda, self._streams.up) for _ in range(self.depth)]
        self._ring = Ring(cuda, device, self._streams, slots)
        run, down = self._streams.run, self._streams.down
        self._delivery: Delivery = (
            ToHost(xp, cuda, run, down) if outputs == "host" else ToDevice(xp, cuda, run)
        )

    def __repr__(self) -> str:
        state = "broken" if self.broken else "closed" if self._closed else "open"
        return f"<tidegate.gpu.lane.Lane on cuda:{self._device}, {state}>"

    @property
    def cuda(self) -> Any:
        """The module that the lane was made with, cupy.cuda."""
        return self._cuda

    @property
    def broken(self) -> DeviceError | None:
        """The error of the device, once there was one; then nothing runs there any more."""
        return self._ring.health.broken

    def padded_length(self, longest: int) -> int:
        """Tokens of each row of a padded batch whose longest row has `longest`."""
        return self._collation.length_of(longest)

    def enter(self) -> None:
        """Makes the device the current one of this thread, which will call start()."""
        self._cuda.runtime.setDevice(self._device)

    def new_memory(self, nbytes: int) -> npt.NDArray[np.uint8]:
        """Page-locked memory for a batch, see tidegate.gpu.pinned.new_memory(); for any thread.

        Raises:
            DeviceError: There is none, or the device failed before.
        """
        self._ring.health.check()
        try:
            with self._cuda.Device(self._device):
                return new_memory(self._cuda, nbytes)
        except Exception as error:
            raise DeviceError(
                f"no page-locked memory of {nbytes} bytes: {error}. Smaller batches need less"
            ) from error

    def start(
        self,
        memory: npt.NDArray[np.uint8],
        layout: Layout,
        rows: int,
        tokens: int,
        longest: int,
        size: int,
    ) -> Flight:
        """Sends a batch on its way.

        Never waits for the device, but for the oldest batch if `depth` are under way, and for all
        that is under way before it raises: then nothing of this batch is left on the device.

        Args:
            memory: What new_memory() returned, with header, offsets and payload of a batch. It must
                stay as it is until the flight is done; offsets behind `rows` are written here.
            layout: Of the memory.
            rows: How many rows there are, at least 1.
            tokens: How many tokens, 0 without ragged arrays.
            longest: Those of the longest row.
            size: How many rows the model is to see, at least `rows`.

        Raises:
            DeviceError: The device failed, now or before.
            ClosedError: The lane is closed.
            InputError: The longest row is longer than any of `pad_to`.
            OutputError: The model's answer does not fit the batch.
            Exception: What the model raised, or CuPy, where the device has no memory left.
        """
        self._check_batch(memory, layout, rows, size)
        length = self._collation.length_of(longest)
        slot = self._ring.wait_for_next()
        shape = Shape(self._collation.collate, rows, size, tokens, length)
        try:
            outputs = self._launch(slot, memory, layout, shape, longest)
        except BaseException as error:
            self._ring.come_to_rest(slot)
            failure = self._ring.health.failure()
            if failure is not None and isinstance(error, Exception):
                raise failure from failure.__cause__
            raise
        return self._ring.begin(slot, outputs)

    def warm_up(self, sizes: Sequence[int] = (), layout: Layout | None = None) -> None:
        """Compiles the kernels, runs the model on zeros, and lets it capture graphs.

        With rows of each length of `pad_to`, or of one token. Graphs are captured where the model
        has a method `capture` (see tidegate.gpu.capturing) and arguments have fixed shapes: with
        ``collate="stack"``, and with ``"pad"`` if there is `pad_to`. To be called by the thread
        that starts batches, before it does.

        Args:
            sizes: Rows that the model will see; none for `allowed_batch_sizes`.
            layout: Of the batches that will come. A graph is used for batches whose arrays lie
                where those do that it was captured with. None takes one for the largest size.

        Raises:
            ConfigError: There are no sizes.
            Exception: What start() and Flight.wait() raise.
        """
        collation = self._collation
        plan = warming.plan(collation, sizes or self._sizes, layout)
        hook = capturing.hook_of(self._model)
        if hook is not None and collation.ragged and collation.pad_to is None:
            capturing.explain(collation.collate)
            hook = None
        memory = self.new_memory(plan.layout.nbytes)
        with self._cuda.Device(self._device):
            kernels.prepare(self._xp)
            for size, length in plan.batches:
                tokens = plan.fill(memory, size, length)
                # A graph is captured over a batch of zeros, which each slot must have seen.
                for _ in range(1 if hook is None else self.depth):
                    slot = self._ring.next
                    self.start(memory, plan.layout, size, tokens, length, size).wait()
                    if hook is not None and not self._capture(
                        slot, hook, plan.layout, size, length
                    ):
                        break

    def close(self) -> None:
        """Waits for what is under way and frees the memory; later starts raise ClosedError."""
        if not self._closed:
            self._closed = True
            self._ring.close()

    def _check_batch(
        self, memory: npt.NDArray[np.uint8], layout: Layout, rows: int, size: int
    ) -> None:
        if self._closed:
            raise ClosedError("the lane is closed; make a new one")
        self._ring.health.check()
        if not 1 <= rows <= size <= layout.capacity or memory.nbytes < layout.nbytes:
            raise ConfigError(
                f"a batch needs 1 <= rows <= size <= {layout.capacity} and {layout.nbytes} bytes, "
                f"got {rows} rows, size {size} and {memory.nbytes} bytes"
            )

    def _launch(
        self,
        slot: Slot,
        memory: npt.NDArray[np.uint8],
        layout: Layout,
        shape: Shape,
        longest: int,
    ) -> Any:
        argument = self._argument(slot, layout, shape.size, shape.length, shape.tokens, longest)
        slot.held = (memory, argument)
        streams = self._streams
        streams.upload(
            memory.ctypes.data,
            slot.memory.address,
            self._collation.used(layout, memory, shape.rows, shape.size, shape.tokens),
            self._collation.zeroed(layout, shape.rows, shape.size),
        )
        streams.up.record(slot.uploaded)
        streams.run.wait_event(slot.uploaded)
        with streams.running():
            for step in argument.steps:
                step()
            replay = self._replay_of(slot, shape, argument)
            answer = self._model(argument.value) if replay is None else replay()
            slot.held = (memory, argument, answer)
            leaves = flatten(self._xp, self._device, answer, shape)
            arrays = self._delivery.collect(slot, leaves)
        streams.run.record(slot.ran)
        streams.down.wait_event(slot.ran)
        self._delivery.ship(slot)
        streams.down.record(slot.done)
        return rebuild(answer, arrays)

    def _argument(
        self, slot: Slot, layout: Layout, size: int, length: int, tokens: int, longest: int
    ) -> Argument:
        argument, lost = slot.argument(
            self._collation, layout, size=size, length=length, tokens=tokens, longest=longest
        )
        if lost:
            capturing.regret(lost)
        return argument

    def _replay_of(self, slot: Slot, shape: Shape, argument: Argument) -> Callable[[], Any] | None:
        if not slot.replays:
            return None
        return slot.replays.get((shape.size, shape.length, argument.addresses))

    def _capture(
        self,
        slot: Slot,
        hook: Callable[[int, Any], Any],
        layout: Layout,
        size: int,
        length: int,
    ) -> bool:
        """Whether the model has a graph for such batches in the slot now."""
        argument = self._argument(slot, layout, size, length, 0, length)
        with self._streams.running():
            replay = capturing.capture(hook, size, argument.value)
        if replay is not None:
            slot.replays[size, length, argument.addresses] = replay
            return True
        self._ring.come_to_rest(slot)
        self._ring.health.check()
        for each in self._ring.slots:
            for key in [key for key in each.replays if key[:2] == (size, length)]:
                del each.replays[key]
        return False
