"""Nodes and edges of a routing space, and which of them lie on a path through it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

EdgeKind = Literal["up", "keep", "down"]

EDGE_KINDS: tuple[EdgeKind, ...] = ("up", "keep", "down")
"""Slot order of an activation vector A(x), and the order of the edges of one node."""

SCALE_SHIFT: dict[EdgeKind, int] = {"up": -1, "keep": 0, "down": 1}
"""What an edge does to the scale index: ``up`` halves the stride, ``down`` doubles it."""

STEM_STRIDE = 4
"""Stride of scale 0 with respect to the image."""


@dataclass(frozen=True, order=True)
class Node:
    """One cell. ``layer`` -1 is the initial cell; ``scale`` 0 is stride 4, 1 is stride 8, ..."""

    layer: int
    scale: int

    @property
    def stride(self) -> int:
        """Stride of this node's input with respect to the image."""
        return STEM_STRIDE << self.scale

    def __str__(self) -> str:
        return f"layer {self.layer}, 1/{self.stride}"


INITIAL = Node(-1, 0)
"""The initial cell, which receives the stem's result."""


@dataclass(frozen=True)
class Edge:
    """A gated connection from ``source`` into the next layer."""

    source: Node
    kind: EdgeKind

    @property
    def target(self) -> Node:
        """The node that receives this edge; one layer past the last for an output edge."""
        return Node(self.source.layer + 1, self.source.scale + SCALE_SHIFT[self.kind])

    @property
    def sort_key(self) -> tuple[Node, int]:
        """Column order of gates: by node, then up, keep, down."""
        return self.source, EDGE_KINDS.index(self.kind)

    def __str__(self) -> str:
        return f"{self.kind} edge of {self.source}"


def reachable_from(edges: set[Edge]) -> set[Node]:
    """Nodes on a path from the initial cell, virtual output nodes included."""
    reached = {INITIAL}
    for edge in sorted(edges, key=lambda e: e.sort_key):
        if edge.source in reached:
            reached.add(edge.target)
    return reached


def leading_to_output(edges: set[Edge], num_layers: int) -> set[Node]:
    """Nodes from which an output can be reached, virtual output nodes included."""
    useful = {e.target for e in edges if e.target.layer == num_layers}
    for edge in sorted(edges, key=lambda e: e.sort_key, reverse=True):
        if edge.target in useful:
            useful.add(edge.source)
    return useful
