"""What a route costs (Li et al. 2020, Sec. 3.3 and Eq. 8-10).

Cost is linear in the route, so one table a size serves the budget loss, the evaluator, the tables
and sub-networks alike. Expected cost is differentiable and weighs by gate strength; executed cost
counts what really ran. Both are per image, at the size that was routed, in one of two conventions
(:data:`~dynamic_routing.routing.counting.CONVENTIONS`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dynamic_routing.routing.counting import CONVENTIONS, Work, count_work, meta_image
from dynamic_routing.routing.decoder import SegmentationDecoder
from dynamic_routing.routing.network import RoutingNetwork
from dynamic_routing.routing.routes import Routes
from dynamic_routing.routing.space import INITIAL, STEM_STRIDE, Edge, Node, RoutingSpace

GIGA = 1e9

WorkAtSize = Callable[[int, int], Work]
"""(height, width) of the image -> work of a part that runs whatever the route."""


@dataclass(frozen=True, eq=False)
class CostTable:
    """Cost of every part of a network at one image size, float64 on the CPU.

    Attributes:
        cells: (V,) operations of each node.
        gates: (V,) gate network of each node.
        edges: (E,) transition of each edge.
        fixed: name -> cost of what always runs: the stem and, where the network has them, a head
            or projections.
    """

    space: RoutingSpace
    cells: Tensor
    gates: Tensor
    edges: Tensor
    fixed: Mapping[str, float]

    def parts(self) -> dict[str, float]:
        """Cost by part with every gate open: stem, cells of each scale, gates, up, keep, ..."""
        parts = {k: v for k, v in self.fixed.items() if k == "stem"}
        for scale in self.space.scales:
            own = [i for i, n in enumerate(self.space.nodes) if n.scale == scale]
            parts[f"cells 1/{STEM_STRIDE << scale}"] = float(self.cells[own].sum())
        parts["gates"] = float(self.gates.sum())
        for kind in ("up", "keep", "down"):
            own = [i for i, e in enumerate(self.space.edges) if e.kind == kind]
            parts[kind] = float(self.edges[own].sum())
        parts.update({k: v for k, v in self.fixed.items() if k != "stem"})
        return parts


class CostModel:
    """Cost of routes through one network.

    Args:
        network: the routed network. Only its shape matters; weights are never read.
        convention: ``macs`` or ``paper``.
        fixed: further parts that always run, for example ``{"head": head_work(decoder)}``.

    Raises:
        ValueError: an unknown convention.

    Example:
        >>> cost = CostModel(network, convention="macs")
        >>> cost.executed(routes) / 1e9          # GMACs of each image
    """

    def __init__(
        self,
        network: RoutingNetwork,
        *,
        convention: str = "macs",
        fixed: Mapping[str, WorkAtSize] | None = None,
    ) -> None:
        if convention not in CONVENTIONS:
            raise ValueError(
                f"cost convention {convention!r} is unknown; allowed: {', '.join(CONVENTIONS)}"
            )
        self.space = network.space
        self.convention = convention
        self._network = network
        self._fixed = dict(fixed or {})
        self._tables: dict[tuple[int, int], CostTable] = {}

    def expected(self, routes: Routes) -> Tensor:
        """Expected cost of the space for each image, (N,), differentiable.

        Sum over cells of max_j(alpha_j) * C(cell) plus sum over edges of alpha * C(edge). Stem,
        head, gate networks and the initial cell's operations are constant and left out; the
        initial cell's edges are in.
        """
        table = self.table(*routes.image_size)
        gates = routes.gates.double()
        edges = table.edges.to(gates.device)
        cells = table.cells.to(gates.device)
        total = gates @ edges
        for index, node in enumerate(self.space.nodes):
            if node != INITIAL:
                total = total + gates[:, self.space.columns(node)].amax(dim=1) * cells[index]
        return total

    def full_expected(self, height: int, width: int) -> float:
        """C_all: the expected cost with every gate at 1."""
        return float(self.expected(self._uniform(1.0, height, width)))

    def executed(self, routes: Routes) -> Tensor:
        """Cost of what ran for each image, (N,), exact.

        Stem and head, the gates of reached cells, the operations of cells with an open edge, and
        the open edges.
        """
        table = self.table(*routes.image_size)
        routes = routes.detach()
        return (
            sum(table.fixed.values())
            + routes.reached.double() @ table.gates
            + routes.running.double() @ table.cells
            + routes.open.double() @ table.edges
        )

    def scale_shares(self, routes: Routes) -> dict[str, float]:
        """Share of each scale's cells in the operations that ran, averaged over the images."""
        table = self.table(*routes.image_size)
        ran = (routes.detach().running.double() * table.cells).mean(dim=0)
        total = float(ran.sum())
        shares = {}
        for scale in self.space.scales:
            own = [i for i, node in enumerate(self.space.nodes) if node.scale == scale]
            share = float(ran[own].sum()) / total if total else 0.0
            shares[f"share_stride{STEM_STRIDE << scale}"] = share
        return shares

    def open_cost(self, height: int, width: int) -> float:
        """Executed cost of the whole network with every gate open."""
        return float(self.executed(self._uniform(1.0, height, width)))

    def closed_cost(self, height: int, width: int) -> float:
        """Executed cost with every gate that can close closed: no route costs less.

        Where gates cannot close (fixed, softmax) it is the cost with every gate open.
        """
        if not any(self._network.cell(n).gate.can_close for n in self.space.nodes):
            return self.open_cost(height, width)
        return float(self.executed(self._uniform(0.0, height, width)))

    def _uniform(self, value: float, height: int, width: int) -> Routes:
        gates = torch.full((1, len(self.space.edges)), value, dtype=torch.float64)
        return Routes(self.space, gates, self._network.unreached, (height, width))

    def table(self, height: int, width: int) -> CostTable:
        """Cost of every part for images of this size, counted once a size."""
        size = (height, width)
        if size not in self._tables:
            self._tables[size] = self._count(height, width)
        return self._tables[size]

    def _count(self, height: int, width: int) -> CostTable:
        space = self.space
        # Cells of one scale with the same edges are alike: each kind is counted once.
        kinds: dict[tuple[int, tuple[str, ...]], _CellCost] = {}
        costs = []
        for node in space.nodes:
            key = (node.scale, self._network.cell(node).kinds)
            if key not in kinds:
                kinds[key] = self._cell_cost(node, height, width)
            costs.append(kinds[key])
        cells = [self._node_cost(n, c.operations) for n, c in zip(space.nodes, costs, strict=True)]
        gates = [self._node_cost(n, c.gate) for n, c in zip(space.nodes, costs, strict=True)]
        edges = [self._edge_cost(e, costs[space.node_index[e.source]]) for e in space.edges]
        fixed = {"stem": self._stem_work(height, width)}
        fixed.update({name: work(height, width) for name, work in self._fixed.items()})
        return CostTable(
            space=space,
            cells=torch.tensor(cells, dtype=torch.float64),
            gates=torch.tensor(gates, dtype=torch.float64),
            edges=torch.tensor(edges, dtype=torch.float64),
            fixed={name: float(work.cost(self.convention)) for name, work in fixed.items()},
        )

    def _cell_cost(self, node: Node, height: int, width: int) -> _CellCost:
        """Count the modules of one cell on its input at this image size."""
        cell, stride = self._network.cell(node), STEM_STRIDE << node.scale
        x = meta_image(cell.channels, height // stride, width // stride)
        # Sizes that are no multiple of the coarsest stride are counted rounded down, as the
        # papers do (800 at stride 64 is 12); a network never runs at such a size.
        even = x[..., : x.shape[-2] // 2 * 2, : x.shape[-1] // 2 * 2]
        return _CellCost(
            operations=sum((count_work(op, x) for op in cell.operations), Work()),
            gate=count_work(cell.gate, x),
            relu=count_work(cell.relu, x),
            transitions={
                kind: count_work(cell.transitions[kind], even if kind == "down" else x)
                for kind in cell.kinds
            },
        )

    def _stem_work(self, height: int, width: int) -> Work:
        """The stem; the papers count its middle at exactly half the image, whatever the padding."""
        stem = self._network.stem
        if self.convention == "paper":
            stem = copy.deepcopy(stem)
            stem.first.conv.padding = (1, 1)
        return count_work(stem, meta_image(self._network.image_channels, height, width))

    def _node_cost(self, node: Node, work: Work) -> int:
        """The papers' count leaves out operations and gate of the initial cell."""
        left_out = self.convention == "paper" and node == INITIAL
        return 0 if left_out else work.cost(self.convention)

    def _edge_cost(self, edge: Edge, cell: _CellCost) -> int:
        """A transition with its ReLU; the papers leave out the ReLU of the outputs."""
        is_output = edge.target.layer == self.space.num_layers
        relu = Work() if is_output else cell.relu
        return (cell.transitions[edge.kind] + relu).cost(self.convention)


@dataclass(frozen=True)
class _CellCost:
    """Work of the modules of one kind of cell."""

    operations: Work
    gate: Work
    relu: Work
    transitions: Mapping[str, Work]


def head_work(decoder: SegmentationDecoder) -> WorkAtSize:
    """Work of the segmentation decoder, which runs in full for every image."""

    def work(height: int, width: int) -> Work:
        """Count one call of the head for one image."""
        features = {
            scale: meta_image(
                channels, height // (STEM_STRIDE << scale), width // (STEM_STRIDE << scale)
            )
            for scale, channels in enumerate(decoder.channels)
        }
        return count_work(decoder, features)

    return work


def count_parameters(module: nn.Module) -> int:
    """Number of parameters, buffers not included."""
    return sum(p.numel() for p in module.parameters())
