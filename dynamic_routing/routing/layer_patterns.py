"""Which nodes a layer reaches, from which of its edges are open: a matter of the host alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dynamic_routing.routing.prepared import Step
from dynamic_routing.routing.space import Node


@dataclass(frozen=True)
class CellPattern:
    """An existing node and which of its edges are open.

    Attributes:
        node: the node.
        open: one entry an edge, in the order of the space's columns.
    """

    node: Node
    open: tuple[bool, ...]


def arrivals_of(
    layer: Sequence[Step], cells: Sequence[CellPattern], *, zeros_too: bool
) -> dict[Node, bool]:
    """The nodes that a layer reaches: True with data, False with zeros only.

    Args:
        layer: every node of the layer.
        cells: those of them that exist.
        zeros_too: the rule ``released``: a running cell also reaches the targets of its closed
            edges, with zeros.
    """
    steps = {step.node: step for step in layer}
    reached: dict[Node, bool] = {}
    for cell in cells:
        step = steps[cell.node]
        if not any(cell.open):
            if step.keep is not None:
                reached[step.keep] = True
            continue
        for _, k, target in step.edges:
            if cell.open[k]:
                reached[target] = True
            elif zeros_too:
                reached.setdefault(target, False)
    return reached
