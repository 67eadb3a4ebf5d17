"""The modules of one node of a routing network and what they compute."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dynamic_routing.routing.cells import Down, Up, build_operations, drop_path
from dynamic_routing.routing.gates import Gate, GateSpec, build_gate
from dynamic_routing.routing.layers import NormFactory
from dynamic_routing.routing.space import EdgeKind


class RoutingCell(nn.Module):
    """The modules of one node: operations, transitions and gate.

    Args:
        channels: C of the node.
        kinds: the edges that leave it, in the space's order.
        operations: names of the cell's operations.
        gate: what kind of gate.
        norm: maker of the norm layers.
        drop_rate: layer_rate * p of scheduled drop path, 0 for none.
    """

    def __init__(
        self,
        channels: int,
        kinds: Sequence[EdgeKind],
        *,
        operations: Sequence[str],
        gate: GateSpec,
        norm: NormFactory,
        drop_rate: float,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.kinds = tuple(kinds)
        self.drop_rate = drop_rate
        self.gate: Gate = build_gate(channels, len(self.kinds), norm=norm, spec=gate)
        self.operations = build_operations(operations, channels, norm)
        makers = {"up": Up, "keep": lambda channels, norm: nn.Identity(), "down": Down}
        self.transitions = nn.ModuleDict({k: makers[k](channels, norm) for k in self.kinds})
        self.relu = nn.ReLU()

    def aggregate(self, x: Tensor, *, progress: float = 0.0) -> Tensor:
        """ReLU(H): the sum of the operations on X, activated for the transitions (Eq. 1).

        Args:
            x: (N, C, H, W).
            progress: step_rate of scheduled drop path, 0 outside training.
        """
        keep_probability = 1.0 - self.drop_rate * progress
        total: Tensor | None = None
        for operation in self.operations:
            y = operation(x)
            if not isinstance(operation, nn.Identity):
                y = drop_path(y, keep_probability)
            total = y if total is None else total + y
        assert total is not None, "a cell without operations"
        return self.relu(total)

    def draw_coins(self, x: Tensor, *, progress: float) -> None:
        """Take from the random numbers what :meth:`aggregate` would, when it is left out."""
        keep_probability = 1.0 - self.drop_rate * progress
        for operation in self.operations:
            if not isinstance(operation, nn.Identity):
                drop_path(x[:, :0], keep_probability)

    def transmit(self, kind: EdgeKind, activated: Tensor) -> Tensor:
        """T_kind of ReLU(H), before the gate's factor (Eq. 5)."""
        return self.transitions[kind](activated)

    def signal(self, kind: EdgeKind, activated: Tensor, strength: Tensor) -> Tensor:
        """What goes along one edge (Eq. 5 to 7), with gates ``strength`` (N,)."""
        factor = strength[:, None, None, None]
        return factor.to(activated.dtype) * self.transmit(kind, activated)

    def pass_on(
        self, x: Tensor, signal: Tensor | None, *, gates: Tensor, reached: Tensor
    ) -> Tensor:
        """``signal`` (zeros, if None), and X itself, without the ReLU, where all gates are closed.

        Args:
            x: X, (N, C, H, W).
            signal: what the keep edge carries otherwise.
            gates: (N, k) of the cell.
            reached: (N,) bool, the images for which the cell exists.
        """
        closed = (reached & ~(gates > 0).any(dim=1))[:, None, None, None]
        return torch.where(closed, x, x.new_zeros(()) if signal is None else signal)
