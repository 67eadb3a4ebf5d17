"""One image through a prepared network by recorded kernels: CUDA graphs, eager where they fail.

What a layer launches follows from which of its nodes exist and which of their edges are open: its
*pattern*. Gate strengths stay on the device and are read by the kernels, so a recording serves
every image of the same pattern. A recording covers the cells of one layer and the gates of the
next, whose existing nodes the pattern determines. The host reads each layer's gates once, as
eagerly, and replays one recording a layer instead of launching some fifty kernels.

Patterns repeat where routes have settled. A pattern is recorded when it is met the second time;
recordings and input sizes are bounded, the least recently used ones go. Settings that choose
kernels (TF32, deterministic algorithms) stay as they were when a pattern was recorded.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dynamic_routing.routing.layer_patterns import CellPattern, arrivals_of
from dynamic_routing.routing.prepared import Step, common_activation, double_size
from dynamic_routing.routing.recordings import (
    MAX_RECORDINGS,
    Recorder,
    Recordings,
    cuda_recorder,
    keep_latest,
    no_recorder,
)
from dynamic_routing.routing.run_image import ImageRun
from dynamic_routing.routing.space import INITIAL, Node

if TYPE_CHECKING:
    from dynamic_routing.routing.execution import PreparedNetwork

MAX_SIZES = 2
"""Input sizes whose buffers and recordings are kept."""


class GraphedRunner:
    """Buffers and recordings of a prepared network, by input size.

    One image at a time: threads wait for one another, and so do streams.

    Args:
        limit: recordings kept for each input size.

    Attributes:
        failed: whether the device could not record; nothing is tried again.
    """

    def __init__(self, *, limit: int = MAX_RECORDINGS) -> None:
        self._limit = limit
        self._sizes: OrderedDict[Hashable, _Size] = OrderedDict()
        self._streams: dict[torch.device, torch.cuda.Stream] = {}
        self._done: torch.cuda.Event | None = None
        self._lock = threading.Lock()
        self.failed = False

    def __deepcopy__(self, memo: dict[int, object]) -> GraphedRunner:
        """A copy of the network has other weights: it records anew."""
        return GraphedRunner(limit=self._limit)

    def __reduce__(self) -> tuple[Callable[..., GraphedRunner], tuple[()], dict[str, int]]:
        return GraphedRunner, (), {"_limit": self._limit}

    def recordings(self) -> int:
        """How many there are."""
        return sum(len(size.recordings) for size in self._sizes.values())

    def clear(self) -> None:
        """Forget everything, for weights that were replaced."""
        with self._lock:
            self._forget()

    def run(self, network: PreparedNetwork, image: Tensor) -> ImageRun:
        """Route one image (1, C, H, W). The result is its own."""
        with self._lock:
            size = self._size(network, image)
            if self._done is not None:  # the run before, on whatever stream it was
                self._done.wait(torch.cuda.current_stream(image.device))
            found = size.run(image)
            if image.is_cuda:
                self._done = torch.cuda.Event()
                self._done.record(torch.cuda.current_stream(image.device))
            if size.recordings.failed:
                self.failed = True
                self._forget()
            return found

    def _size(self, network: PreparedNetwork, image: Tensor) -> _Size:
        """Buffers and recordings for images like this one."""
        weights = next(network.stem.buffers())
        key = (tuple(image.shape), image.dtype, image.device, weights.dtype, weights.data_ptr())
        size = self._sizes.get(key)
        if size is None:
            recordings = Recordings(self._recorder(image.device), limit=self._limit)
            # Tensors made in inference mode could not be written to outside of it.
            with torch.inference_mode(False):
                size = _Size(network, image, recordings)
        if keep_latest(self._sizes, key, size, limit=MAX_SIZES) is not None:
            self._wait()
        return size

    def _recorder(self, device: torch.device) -> Recorder:
        """Records on ``device``."""
        if device.type != "cuda":
            return no_recorder
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)
        return cuda_recorder(self._streams[device])

    def _forget(self) -> None:
        self._wait()
        self._sizes.clear()

    def _wait(self) -> None:
        """Before buffers go: they may be in use on another stream than the one that made them."""
        if self._done is not None:
            self._done.synchronize()


class _Size:
    """A prepared network at one input size, on tensors that stay where they are.

    Nodes of a layer and of the one after the next share buffers: the inputs of a layer are dead
    once it has sent.
    """

    def __init__(self, network: PreparedNetwork, image: Tensor, recordings: Recordings) -> None:
        self.recordings = recordings
        self._layers = network.layers
        self._steps = {step.node: step for layer in network.layers for step in layer}
        self._stem = network.stem
        self._released = network.unreached == "released"
        self._edges = len(network.space.edges)
        self._image = torch.empty_like(image, memory_format=torch.channels_last)
        self._inputs = {
            (parity, scale): network.zeros(image, scale, 1)
            for parity in range(2)
            for scale in network.space.scales
        }
        self._gates = torch.zeros(1, self._edges, dtype=network.gate_dtype, device=image.device)

    def run(self, image: Tensor) -> ImageRun:
        """Route one image of this size."""
        self._image.copy_(image)
        row = [0.0] * self._edges
        here: dict[Node, bool] = {INITIAL: True}
        self.recordings.run("start", self._start)
        for number, layer in enumerate(self._layers):
            read = self._gates.tolist()[0]
            cells = []
            for step in (step for step in layer if step.node in here):
                row[step.columns] = read[step.columns]
                opened = tuple(value > 0 for value in read[step.columns])
                cells.append(CellPattern(step.node, opened))
            arrived = arrivals_of(layer, cells, zeros_too=self._released)
            if not arrived:  # nothing to launch, and an empty recording would be warned of
                return ImageRun([row], {})
            work = partial(self._advance, number, tuple(cells), arrived)
            self.recordings.run((number, tuple(cells)), work)
            here = arrived
        outputs = {n.scale: self._input(n).clone() if data else None for n, data in here.items()}
        return ImageRun([row], outputs)

    def _input(self, node: Node) -> Tensor:
        """Where X of a node is."""
        return self._inputs[(node.layer + 1) % 2, node.scale]

    def _start(self) -> None:
        """The stem, and the gate of the initial cell."""
        self._input(INITIAL).copy_(self._stem(self._image))
        self._open(0, {INITIAL: True})

    def _advance(
        self, number: int, cells: tuple[CellPattern, ...], arrived: dict[Node, bool]
    ) -> None:
        """Run the cells of a layer, and the gates of the next one."""
        written: set[Node] = set()
        for cell in cells:
            self._send(self._steps[cell.node], cell.open, written)
        if number + 1 < len(self._layers):
            self._open(number + 1, arrived)

    def _send(self, step: Step, opened: tuple[bool, ...], written: set[Node]) -> None:
        """Run one existing cell as far as its gates ask for it."""
        x = self._input(step.node)
        if not any(opened):
            if step.keep is not None:
                self._add(step.keep, x, None, written)
            return
        activated = step.cell.aggregate(x)
        for kind, k, target in step.edges:
            if opened[k]:
                y = activated if kind == "keep" else step.cell.project(kind, activated)
                factor = self._gates[0, step.columns.start + k].to(y.dtype)
                if kind == "up":
                    self._add(target, double_size(y.mul_(factor)), None, written)
                else:
                    self._add(target, y, factor, written)

    def _add(self, node: Node, y: Tensor, factor: Tensor | None, written: set[Node]) -> None:
        """Add ``factor * y`` to a node's input; the first arrival overwrites what was there."""
        x = self._input(node)
        first = node not in written
        written.add(node)
        if first:
            x.copy_(y) if factor is None else torch.mul(y, factor, out=x)
        else:
            x.add_(y) if factor is None else x.addcmul_(y, factor)

    def _open(self, number: int, existing: dict[Node, bool]) -> None:
        """The gates of a layer's existing nodes; those that only zeros reached get zeros."""
        steps = [step for step in self._layers[number] if step.node in existing]
        if not steps:
            return
        for step in steps:
            if not existing[step.node]:
                self._input(step.node).zero_()
        logits = [step.cell.gate(self._input(step.node)) for step in steps]
        together = common_activation(steps)
        if together is None:
            gates = [step.cell.gate.activation(g) for step, g in zip(steps, logits, strict=True)]
        else:
            sizes = [len(step.edges) for step in steps]
            gates = list(together(torch.cat(logits, dim=1)).split(sizes, dim=1))
        for step, strengths in zip(steps, gates, strict=True):
            self._gates[:, step.columns].copy_(strengths)
