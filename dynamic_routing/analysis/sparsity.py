"""Routes of a given sparsity, and gates that can be trained while they are held to them.

They measure what sparsity brings without training it first.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dynamic_routing.routing.editing import OPENED_STRENGTH as FORCED_STRENGTH
from dynamic_routing.routing.replay import GivenGate
from dynamic_routing.routing.space import RoutingSpace

__all__ = ["FORCED_STRENGTH", "TrainableGivenGate", "closed_cells", "closed_paths"]


class TrainableGivenGate(GivenGate):
    """In training the given answer is scaled by the gate's own, so that it has a gradient."""

    def activate(self, logits: Tensor) -> Tensor:
        """The given strengths (N, k)."""
        given = self._given.of(self._node, len(logits)).to(logits)
        return given * logits.sigmoid() if self.training else given


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
