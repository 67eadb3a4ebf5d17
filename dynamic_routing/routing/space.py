"""The routing space: which cells exist and which edges join them (Li et al. 2020, Sec. 3.1).

A space is pure structure. It knows nothing of channels, weights or images, and it never changes,
so networks, routes, cost models and pictures can all share one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from dynamic_routing.routing.graph import (
    EDGE_KINDS,
    INITIAL,
    SCALE_SHIFT,
    STEM_STRIDE,
    Edge,
    EdgeKind,
    Node,
    leading_to_output,
    reachable_from,
)

MAX_SCALE = 15
"""The coarsest scale that a cell may have, stride 131072: a bound for files, not for networks."""

__all__ = [
    "EDGE_KINDS",
    "INITIAL",
    "SCALE_SHIFT",
    "STEM_STRIDE",
    "Edge",
    "EdgeKind",
    "Node",
    "RoutingSpace",
]


@dataclass(frozen=True)
class RoutingSpace:
    """A directed acyclic graph of cells over layers and scales.

    Build one with :meth:`grid`, :meth:`from_edges` or :meth:`subspace`.

    Attributes:
        num_layers: L, layers of cells after the initial cell.
        edges: every edge, in column order of the gates (E of them).
        num_scales: scales that the space delivers at least, also where a sub-graph uses fewer.
        grid_nodes: the cells that own slots in A(x), layer by layer.
        output_scales: scales that the last layer delivers, fine to coarse.

    Raises:
        ValueError: an edge leaves the space, a scale is beyond :data:`MAX_SCALE`, an output cannot
            be reached from the initial cell, a cell cannot be reached or leads to no output.
    """

    num_layers: int
    edges: tuple[Edge, ...]
    num_scales: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        if self.num_layers < 1:
            raise ValueError(f"a routing space needs at least 1 layer, got {self.num_layers}")
        if len(set(self.edges)) != len(self.edges):
            raise ValueError("a routing space lists an edge twice")
        object.__setattr__(self, "edges", tuple(sorted(self.edges, key=lambda e: e.sort_key)))
        for edge in self.edges:
            self._check_edge(edge)
        self._check_reachable()

    # Construction -------------------------------------------------------------------------------

    @classmethod
    def grid(
        cls, num_layers: int = 16, *, num_scales: int = 4, num_output_scales: int | None = None
    ) -> RoutingSpace:
        """The published space: layer l has min(l + 2, num_scales) scales, all edges that fit.

        Args:
            num_layers: L. 16 and 33 for segmentation, 17 for detection.
            num_scales: scales of an inner layer; 4 means strides 4 to 32.
            num_output_scales: scales of the last layer, at most one more than the layer before it.
                None: as many as the rule gives. Detection takes 5 (strides 4 to 64, P2..P6).

        Raises:
            ValueError: a count is below 1, or the coarsest output cannot be reached.
        """
        if num_layers < 1 or num_scales < 1:
            raise ValueError(
                f"a grid needs at least 1 layer and 1 scale, got {num_layers} and {num_scales}"
            )
        scales = [min(layer + 2, num_scales) for layer in range(num_layers)]
        outputs = scales[-1] if num_output_scales is None else num_output_scales
        before = scales[-2] if num_layers > 1 else 1
        if not 1 <= outputs <= before + 1:
            raise ValueError(
                f"{outputs} output scales cannot be reached in {num_layers} layers of {num_scales} "
                f"scales; allowed: 1 to {before + 1}"
            )
        return cls.from_scales([*scales[:-1], outputs])

    @classmethod
    def from_scales(cls, scales_per_layer: Sequence[int]) -> RoutingSpace:
        """A space with every edge between layers of the given numbers of scales.

        Cells of the last layer only keep: they are the outputs. An inner cell that nothing can
        reach, or that leads to no output, is left out.

        Raises:
            ValueError: no layer, or an output that the layer before it cannot reach.
        """
        last = len(scales_per_layer) - 1
        nodes = {INITIAL} | {
            Node(layer, s) for layer, count in enumerate(scales_per_layer) for s in range(count)
        }
        inner = [Edge(n, kind) for n in nodes if n.layer < last for kind in EDGE_KINDS]
        outputs = [Edge(n, "keep") for n in nodes if n.layer == last]
        edges = [e for e in inner if e.target in nodes] + outputs
        last_layer = {n for n in nodes if n.layer == last}
        return cls._pruned(len(scales_per_layer), edges, keep_nodes=last_layer)

    @classmethod
    def from_edges(
        cls, edges: Iterable[tuple[int, int, str]], *, num_scales: int = 0
    ) -> RoutingSpace:
        """A space from (layer, scale, kind) triples, for example read from JSON.

        Args:
            edges: layer -1 is the initial cell; kind is up, keep or down.
            num_scales: see :class:`RoutingSpace`.

        Raises:
            ValueError: a triple is malformed or the edges do not form a valid space.
        """
        parsed = []
        for item in edges:
            try:
                layer, scale, kind = item
            except (TypeError, ValueError):
                raise ValueError(f"an edge is [layer, scale, kind], got {item!r}") from None
            if kind not in EDGE_KINDS:
                raise ValueError(f"edge kind {kind!r} is unknown; allowed: {', '.join(EDGE_KINDS)}")
            if type(layer) is not int or type(scale) is not int:
                raise ValueError(
                    f"whole numbers make up an edge [layer, scale, kind], got {item!r}"
                )
            parsed.append(Edge(Node(layer, scale), kind))
        if not parsed:
            raise ValueError("a routing space needs edges, got none")
        return cls(max(e.source.layer for e in parsed) + 1, tuple(parsed), num_scales)

    def subspace(self, edges: Iterable[Edge]) -> RoutingSpace:
        """The sub-graph of ``edges`` without dead ends and without what nothing reaches.

        Raises:
            ValueError: an edge is not part of this space, or no output remains.
        """
        chosen = list(edges)
        for edge in chosen:
            if edge not in self.edge_index:
                raise ValueError(f"the {edge} is not part of this space")
        pruned = self._pruned(self.num_layers, chosen, keep_nodes=frozenset())
        return replace(pruned, num_scales=len(self.scales))

    @classmethod
    def _pruned(
        cls, num_layers: int, edges: Iterable[Edge], *, keep_nodes: Iterable[Node]
    ) -> RoutingSpace:
        """Drop edges off every path from the initial cell to an output, unless a node is kept."""
        chosen = set(edges)
        keep = set(keep_nodes)
        alive = reachable_from(chosen) | keep
        useful = leading_to_output(chosen, num_layers) | keep
        kept = [e for e in chosen if e.source in alive & useful and e.target in useful]
        return cls(num_layers, tuple(kept))

    # Checks -------------------------------------------------------------------------------------

    def _check_edge(self, edge: Edge) -> None:
        """Refuse an edge that leaves the space."""
        layer, scale = edge.source.layer, edge.source.scale
        if scale > MAX_SCALE:  # before its stride is computed, which could fill the memory
            raise ValueError(f"scale {scale} of layer {layer} is none: the last one is {MAX_SCALE}")
        inside = -1 <= layer < self.num_layers and scale >= 0 and edge.target.scale >= 0
        if not inside or (layer == -1 and scale != 0):
            raise ValueError(f"the {edge} leaves a space of {self.num_layers} layers")
        if layer == self.num_layers - 1 and edge.kind != "keep":
            raise ValueError(f"the {edge} leaves the last layer, whose cells only keep")

    def _check_reachable(self) -> None:
        """Every cell must lie on a path from the initial cell to an output."""
        edges = set(self.edges)
        reached = reachable_from(edges)
        useful = leading_to_output(edges, self.num_layers)
        if not any(n.layer == self.num_layers for n in reached):
            raise ValueError("no output of this routing space can be reached from the initial cell")
        for edge in self.edges:
            if edge.source not in reached:
                what = "output" if edge.target.layer == self.num_layers else "cell"
                raise ValueError(
                    f"the {what} at {edge.source} cannot be reached from the initial cell"
                )
            if edge.target not in useful:
                raise ValueError(f"the {edge} leads to no output (a dead end)")

    # Structure ----------------------------------------------------------------------------------

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """Every cell in the order in which they run, the initial cell first (V of them)."""
        return tuple(sorted({e.source for e in self.edges}))

    @cached_property
    def grid_nodes(self) -> tuple[Node, ...]:
        """The cells that A(x) describes: all but the initial one."""
        return tuple(n for n in self.nodes if n != INITIAL)

    @cached_property
    def edge_index(self) -> dict[Edge, int]:
        """Column of each edge in a matrix of gates."""
        return {edge: i for i, edge in enumerate(self.edges)}

    @cached_property
    def node_index(self) -> dict[Node, int]:
        """Column of each node in a matrix over nodes."""
        return {node: i for i, node in enumerate(self.nodes)}

    @cached_property
    def _out_edges(self) -> dict[Node, tuple[Edge, ...]]:
        found: dict[Node, list[Edge]] = defaultdict(list)
        for edge in self.edges:
            found[edge.source].append(edge)
        return {node: tuple(edges) for node, edges in found.items()}

    @cached_property
    def _in_edges(self) -> dict[Node, tuple[Edge, ...]]:
        found: dict[Node, list[Edge]] = defaultdict(list)
        for edge in self.edges:
            found[edge.target].append(edge)
        return {node: tuple(edges) for node, edges in found.items()}

    def out_edges(self, node: Node) -> tuple[Edge, ...]:
        """The edges that ``node`` sends along, in the order of its gate's outputs."""
        return self._out_edges.get(node, ())

    def in_edges(self, node: Node) -> tuple[Edge, ...]:
        """The edges that ``node`` receives; ``node`` may be an output (layer L)."""
        return self._in_edges.get(node, ())

    def columns(self, node: Node) -> slice:
        """The gate columns of one node, which are adjacent."""
        edges = self.out_edges(node)
        first = self.edge_index[edges[0]]
        return slice(first, first + len(edges))

    @cached_property
    def output_scales(self) -> tuple[int, ...]:
        """Scales that the last layer delivers, fine to coarse."""
        return tuple(n.scale for n in self.nodes if n.layer == self.num_layers - 1)

    def output_node(self, scale: int) -> Node:
        """The virtual node that receives the output edge at ``scale``."""
        return Node(self.num_layers, scale)

    @cached_property
    def scales(self) -> tuple[int, ...]:
        """Every scale from the finest to the coarsest one that the space delivers."""
        used = {n.scale for n in self.nodes} | {e.target.scale for e in self.edges}
        return tuple(range(max(max(used) + 1, self.num_scales)))

    @property
    def stride(self) -> int:
        """The coarsest stride: heights and widths of inputs must be multiples of it."""
        return STEM_STRIDE << self.scales[-1]

    # Activation vectors -------------------------------------------------------------------------

    @property
    def activation_dim(self) -> int:
        """Length of A(x): three slots a grid cell (183 for 16 layers, 198 for detection)."""
        return len(EDGE_KINDS) * len(self.grid_nodes)

    @cached_property
    def activation_columns(self) -> tuple[int, ...]:
        """Gate columns that A(x) contains: all but those of the initial cell."""
        return tuple(i for i, e in enumerate(self.edges) if e.source != INITIAL)

    @cached_property
    def activation_slots(self) -> tuple[int, ...]:
        """The slot in A(x) of each entry of :attr:`activation_columns`."""
        position = {node: i for i, node in enumerate(self.grid_nodes)}
        edges = [self.edges[i] for i in self.activation_columns]
        return tuple(len(EDGE_KINDS) * position[e.source] + EDGE_KINDS.index(e.kind) for e in edges)

    def to_edges(self) -> list[tuple[int, int, str]]:
        """The (layer, scale, kind) triples that :meth:`from_edges` reads."""
        return [(e.source.layer, e.source.scale, e.kind) for e in self.edges]
