"""What the routes of a data set have in common, and whether they have collapsed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dynamic_routing.routing.routes import Routes
from dynamic_routing.routing.space import STEM_STRIDE, Edge, Node, RoutingSpace

COLLAPSED_STD = 0.01
"""Gates "hardly vary" when none has a standard deviation over the images above this (of a range
of 1): routes that differ by less cannot make a cell treat two images differently."""


@dataclass(frozen=True, eq=False)
class RouteStatistics:
    """Routes of N images summed up.

    Counts of edges, patterns, and gates that never or always open are over the *grid edges*: the
    edges that DivDR's A(x) describes, all but those of the initial cell. Tensors per gate have one
    entry for each of the E edges, the initial cell's included.

    Attributes:
        space: the space whose edges the tensors follow.
        images: N.
        grid_edges: how many grid edges there are.
        distinct_routes: different open/closed patterns.
        open_edges_avg: open edges of an image, averaged; ``_min`` and ``_max`` alike.
        open_rate: (E,) share of the images for which the gate was open.
        entropy: (E,) bits, of the gate being open or closed: 0 if it never changes, at most 1.
        gate_mean: (E,) mean strength.
        gate_std: (E,) standard deviation (population) of the strength.
        never_open: grid edges that no image opens.
        always_open: grid edges that every image opens.
        same_pattern: more than one image, and all of them open the same edges.
        collapsed: ``same_pattern``, and no grid edge's ``gate_std`` exceeds
            :data:`COLLAPSED_STD`. Routes that share a pattern but differ in strength have not.
        collapse_reason: one sentence that says why ``collapsed`` is what it is.
    """

    space: RoutingSpace
    images: int
    grid_edges: int
    distinct_routes: int
    open_edges_avg: float
    open_edges_min: int
    open_edges_max: int
    open_rate: Tensor
    entropy: Tensor
    gate_mean: Tensor
    gate_std: Tensor
    never_open: tuple[Edge, ...]
    always_open: tuple[Edge, ...]
    same_pattern: bool
    collapsed: bool
    collapse_reason: str

    @property
    def open_share(self) -> float:
        """Share of the grid edges that are open, over all images."""
        return self.open_edges_avg / self.grid_edges

    @property
    def entropy_mean(self) -> float:
        """Mean entropy of the grid edges in bits."""
        return float(self.entropy[list(self.space.activation_columns)].mean())

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON types; entry i of a list per gate belongs to entry i of ``edges``."""
        numbers = (
            "images", "grid_edges", "distinct_routes", "open_edges_avg", "open_edges_min",
            "open_edges_max", "open_share", "entropy_mean", "same_pattern", "collapsed",
            "collapse_reason",
        )  # fmt: skip
        per_gate = ("open_rate", "entropy", "gate_mean", "gate_std")
        result: dict[str, Any] = {name: getattr(self, name) for name in numbers}
        result["edges"] = [list(edge) for edge in self.space.to_edges()]
        result |= {name: getattr(self, name).tolist() for name in per_gate}
        for name in ("never_open", "always_open"):
            edges = getattr(self, name)
            result[name] = [[e.source.layer, e.source.scale, e.kind] for e in edges]
        return result


def route_statistics(routes: Routes) -> RouteStatistics:
    """Sum up the routes of a data set.

    Args:
        routes: at least one image; detached.

    Raises:
        ValueError: no image, gates that are not finite, or a space of the initial cell alone.
    """
    gates = routes.gates.detach().double().cpu()
    columns = list(routes.space.activation_columns)
    if not len(routes) or not columns:
        raise ValueError(
            f"statistics need images and grid edges, got {len(routes)} images, {len(columns)} edges"
        )
    if not torch.isfinite(gates).all():
        raise ValueError(f"gates must be finite, got {gates[~torch.isfinite(gates)][0].item()}")
    is_open = gates > 0
    pattern = is_open[:, columns]
    counts = pattern.sum(dim=1)
    std = gates.std(dim=0, correction=0)
    distinct = len(torch.unique(pattern, dim=0))
    same_pattern = len(routes) > 1 and distinct == 1
    spread = float(std[columns].max())
    rate = is_open.double().mean(dim=0)
    return RouteStatistics(
        space=routes.space,
        images=len(routes),
        grid_edges=len(columns),
        distinct_routes=distinct,
        open_edges_avg=float(counts.double().mean()),
        open_edges_min=int(counts.min()),
        open_edges_max=int(counts.max()),
        open_rate=rate,
        entropy=binary_entropy(rate),
        gate_mean=gates.mean(dim=0),
        gate_std=std,
        never_open=tuple(routes.space.edges[i] for i in columns if not is_open[:, i].any()),
        always_open=tuple(routes.space.edges[i] for i in columns if is_open[:, i].all()),
        same_pattern=same_pattern,
        collapsed=same_pattern and spread <= COLLAPSED_STD,
        collapse_reason=_collapse_reason(len(routes), distinct, int(counts[0]), spread),
    )


def binary_entropy(rate: Tensor) -> Tensor:
    """Entropy in bits of an event of probability ``rate``: 0 at 0 and 1, 1 at 0.5."""
    nats = torch.special.entr(rate) + torch.special.entr(1 - rate)
    return nats / math.log(2)


def gate_table(statistics: RouteStatistics) -> str:
    """Open rate and entropy of every gate as text: a row a layer, a column a scale.

    A cell reads ``up 12 .53  keep 100 .00``: up is open for 12 % of the images, that is 0.53 bits.
    """
    space = statistics.space
    cells: dict[Node, str] = {}
    for node in space.nodes:
        columns = range(*space.columns(node).indices(len(space.edges)))
        gates = [
            f"{space.edges[i].kind} {100 * float(statistics.open_rate[i]):.0f}"
            f" {float(statistics.entropy[i]):.2f}".replace(" 0.", " .")
            for i in columns
        ]
        cells[node] = "  ".join(gates)
    scales = sorted({node.scale for node in cells})
    layers = sorted({node.layer for node in cells})
    header = ["layer", *(f"1/{STEM_STRIDE << scale}" for scale in scales)]
    rows = [
        ["initial" if layer < 0 else str(layer), *(cells.get(Node(layer, s), "") for s in scales)]
        for layer in layers
    ]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [" | ".join(t.ljust(w) for t, w in zip(row, widths)) for row in [header, *rows]]
    return "\n".join(line.rstrip() for line in lines)


def _collapse_reason(images: int, distinct: int, opened: int, spread: float) -> str:
    """One sentence; ``spread`` is the largest standard deviation of a grid edge's gate."""
    if images == 1:
        return "one image cannot show whether routes depend on the image"
    if distinct > 1:
        return f"{images} images take {distinct} distinct routes"
    same = f"all {images} images open the same {opened} edges"
    if spread <= COLLAPSED_STD:
        return f"{same} and no gate's strength varies by more than {spread:.2g} (std)"
    return f"{same}, but strengths vary by up to {spread:.2g} (std)"
