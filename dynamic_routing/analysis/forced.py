"""Gates forced to a given route, to measure what sparsity brings without training it.

The gate networks still run, as they would for a trained route; only their answer is replaced. No
weight changes, and the network is as before when the ``with`` ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from dynamic_routing.routing.execution import PreparedNetwork
from dynamic_routing.routing.gates import Gate, at_least_float32
from dynamic_routing.routing.network import RoutingNetwork
from dynamic_routing.routing.prepared import PreparedGate
from dynamic_routing.routing.routes import Routes
from dynamic_routing.routing.space import INITIAL, RoutingSpace

FORCED_STRENGTH = 0.9
"""Strength of a forced open gate, about where gates start (tanh 1.5)."""


class _Rows:
    """Whose turn it is: an executor may ask for one image after the other."""

    def __init__(self, strengths: Tensor) -> None:
        self.strengths = strengths
        self._turn = -1

    def of(self, columns: slice, count: int, *, first: bool) -> Tensor:
        """Strengths (count, k) of one cell; ``first``: the initial cell, where images start."""
        images = len(self.strengths)
        if first and count == 1:
            self._turn = (self._turn + 1) % images
        if count == images:
            return self.strengths[:, columns]
        if count > 1 and images > 1:
            raise ValueError(f"routes of {images} images cannot be forced on a group of {count}")
        row = self._turn if count == 1 and images > 1 else 0
        return self.strengths[row : row + 1, columns].expand(count, -1)

    def of_group(self, columns: slice, members: Sequence[int]) -> Tensor:
        """Strengths (len(members), k) of one cell for these images of the batch."""
        if len(self.strengths) == 1:
            return self.strengths[:, columns].expand(len(members), -1)
        if max(members) >= len(self.strengths):
            raise ValueError(
                f"routes of {len(self.strengths)} images cannot be forced on image {max(members)}"
            )
        return self.strengths[list(members), columns]


class ForcedGate(Gate):
    """A gate whose answer is given; in training scaled by its own, so that it has a gradient."""

    def __init__(self, gate: Gate, rows: _Rows, columns: slice, *, first: bool) -> None:
        super().__init__()
        self.gate = gate
        self.num_edges = gate.num_edges
        self.can_close = True
        self._rows, self._columns, self._first = rows, columns, first

    def logits(self, x: Tensor) -> Tensor:
        """The gate network's own logits (N, k)."""
        return self.gate.logits(x)

    def activate(self, logits: Tensor) -> Tensor:
        """The forced strengths (N, k)."""
        forced = self._rows.of(self._columns, len(logits), first=self._first).to(logits)
        return forced * logits.sigmoid() if self.training else forced


class _ForcedPreparedGate(PreparedGate):
    """The same for a prepared network."""

    elementwise = False

    def __init__(self, gate: PreparedGate, rows: _Rows, columns: slice, *, first: bool) -> None:
        super().__init__()
        self.gate = gate
        # With several routes the host decides whose turn it is.
        self.recordable = gate.recordable and len(rows.strengths) == 1
        self._rows, self._columns, self._first = rows, columns, first

    def activation(self, logits: Tensor) -> Tensor:  # type: ignore[override]
        """The forced strengths (N, k)."""
        return self._rows.of(self._columns, len(logits), first=self._first)

    def activate_group(self, logits: Tensor, members: Sequence[int]) -> Tensor:
        """The forced strengths of some images of the batch."""
        return self._rows.of_group(self._columns, members)

    def forward(self, x: Tensor) -> Tensor:
        """The gate network's own logits (N, k)."""
        return self.gate(x)


def force_routes(network: RoutingNetwork | PreparedNetwork, routes: Routes) -> None:
    """Make a network, in place, take ``routes`` whatever the images.

    Args:
        network: a copy that nobody else uses; see :func:`forced_routes` otherwise.
        routes: of one image, for every image; or of N images, for batches of exactly these. Nodes
            that they do not reach stay unreached.
    """
    like = next(network.stem.buffers())
    rows = _Rows(routes.gates.to(like.device, at_least_float32(like.dtype)))
    for node in network.space.nodes:
        cell, columns = network.cell(node), network.space.columns(node)
        first, mode = node == INITIAL, cell.gate.training
        if isinstance(cell.gate, PreparedGate):
            cell.gate = _ForcedPreparedGate(cell.gate, rows, columns, first=first).train(mode)
        else:
            cell.gate = ForcedGate(cell.gate, rows, columns, first=first).train(mode)
    _forget_recordings(network)


def _forget_recordings(network: RoutingNetwork | PreparedNetwork) -> None:
    """Recordings hold the kernels of the gates that were there."""
    if isinstance(network, PreparedNetwork) and network.graphed is not None:
        network.graphed.clear()


@contextmanager
def forced_routes(network: RoutingNetwork | PreparedNetwork, routes: Routes) -> Iterator[None]:
    """:func:`force_routes` that ends with the ``with``."""
    before = {node: network.cell(node).gate for node in network.space.nodes}
    force_routes(network, routes)
    try:
        yield
    finally:
        for node, gate in before.items():
            network.cell(node).gate = gate  # type: ignore[assignment]
        _forget_recordings(network)


def closed_cells(space: RoutingSpace, share: float, *, generator: torch.Generator) -> Tensor:
    """(E,) gates with every edge of a share of the cells closed, the initial cell left open."""
    gates = torch.full((len(space.edges),), FORCED_STRENGTH)
    order = torch.randperm(len(space.grid_nodes), generator=generator).tolist()
    for i in order[: round(share * len(order))]:
        gates[space.columns(space.grid_nodes[i])] = 0
    return gates


def closed_paths(space: RoutingSpace, share: float, *, generator: torch.Generator) -> Tensor:
    """(E,) gates with a share of the edges closed."""
    gates = torch.full((len(space.edges),), FORCED_STRENGTH)
    order = torch.randperm(len(space.edges), generator=generator)
    gates[order[: round(share * len(order))]] = 0
    return gates
