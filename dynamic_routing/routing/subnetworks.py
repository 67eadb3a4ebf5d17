"""Static sub-graphs of a routing space: classic architectures, common paths, one image's route.

A sub-network keeps the weights of the network that it is cut from. Its gates are fixed: to 1 for
the classic architectures (Li et al. 2020, Table 1), to the average strength of the images that it
was cut from otherwise, so that it reproduces an image that takes exactly its route.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from dynamic_routing.routing.gates import FixedGate
from dynamic_routing.routing.network import RoutingNetwork
from dynamic_routing.routing.routes import Routes
from dynamic_routing.routing.space import Edge, RoutingSpace

CLASSIC = ("fcn_32s", "deeplab_v3", "unet", "hrnet_v2", "auto_deeplab")
"""Classic architectures modelled in the 16-layer space. The paper's sub-graphs are not published;
these come within 2 % of its GFLOPs and parameters."""

COMMON_SHARE = 0.95
"""Share of the images that must take a path for it to be common (Li et al. 2020, Sec. 4.2)."""


def read_subgraph(name_or_path: str | Path, *, num_scales: int = 0) -> RoutingSpace:
    """A classic architecture by name, or the edges of a JSON file.

    The file holds a list of [layer, scale, kind] triples, or an object with that list as "edges".
    Layer -1 is the initial cell; kind is up, keep or down.

    Args:
        name_or_path: one of :data:`CLASSIC`, or a file.
        num_scales: scales that the space delivers at least.

    Raises:
        ValueError: an unknown name, a file that is missing, no JSON, or not a valid space.
    """
    if str(name_or_path) in CLASSIC:
        source = resources.files("dynamic_routing.routing") / "subgraphs" / f"{name_or_path}.json"
        edges = json.loads(source.read_text(encoding="utf-8"))["edges"]
        return RoutingSpace.from_edges(edges, num_scales=num_scales)
    path = Path(name_or_path)
    if not path.is_file():
        raise ValueError(
            f"sub-graph {str(path)!r} is neither a file nor one of {', '.join(CLASSIC)}"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"sub-graph file {path} is no JSON: {error}") from None
    edges = content.get("edges") if isinstance(content, dict) else content
    if not isinstance(edges, list):
        raise ValueError(f"sub-graph file {path} must hold a list of [layer, scale, kind]")
    return RoutingSpace.from_edges(edges, num_scales=num_scales)


@dataclass(frozen=True)
class Subgraph:
    """A sub-space and how strongly each of its edges passes its signal on.

    Attributes:
        space: the sub-space of E' edges.
        strengths: (E',) in [0, 1]. A cell whose edges are all 0 hands its input on.
    """

    space: RoutingSpace
    strengths: Tensor


def common_subgraph(routes: Routes, *, share: float = COMMON_SHARE) -> Subgraph:
    """The paths that at least ``share`` of the images take.

    An image takes an edge when it is open or when its cell hands its input on along it. A cell
    that most of the images which reach it skip is kept as a skip. With one image this is exactly
    its route. Exact for routes of rule ``absent`` only: zeros that ``released`` sends are dropped.

    Args:
        routes: N images in one space.
        share: in (0, 1].

    Raises:
        ValueError: a share outside the bounds, no image, or no output that enough images reach.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be in (0, 1], got {share}")
    if len(routes) == 0:
        raise ValueError("a sub-graph needs the route of at least one image, got none")
    taken, passing = _usage(routes)
    often = taken.double().mean(dim=0) >= share
    chosen = [
        edge
        for i, edge in enumerate(routes.space.edges)
        if often[i] and _delivers(routes, edge, passing)
    ]
    try:
        space = routes.space.subspace(chosen)
    except ValueError:
        raise ValueError(
            f"no output is reached by {share:.0%} of the {len(routes)} images"
        ) from None
    strengths = [_strength(routes, edge, passing) for edge in space.edges]
    return Subgraph(space, torch.tensor(strengths))


def _usage(routes: Routes) -> tuple[Tensor, Tensor]:
    """(N, E) edges that deliver, and (N, V) cells that hand their input on."""
    space, open_edges = routes.space, routes.open
    passing = routes.reached & ~routes.running
    taken = open_edges.clone()
    for edge, column in space.edge_index.items():
        if edge.kind == "keep":
            taken[:, column] |= passing[:, space.node_index[edge.source]]
    return taken, passing


def _is_skipped(routes: Routes, edge: Edge, passing: Tensor) -> bool:
    """Whether most images that reach the edge's cell skip it."""
    node = routes.space.node_index[edge.source]
    return int(passing[:, node].sum()) > int(routes.running[:, node].sum())


def _delivers(routes: Routes, edge: Edge, passing: Tensor) -> bool:
    """Whether the static cell would send anything along an edge."""
    if _is_skipped(routes, edge, passing):
        return edge.kind == "keep"
    return _strength(routes, edge, passing) > 0


def _strength(routes: Routes, edge: Edge, passing: Tensor) -> float:
    """Average gate of an edge over the images that have it open; 0 for a skipped cell."""
    if _is_skipped(routes, edge, passing):
        return 0.0
    gates = routes.gates[:, routes.space.edge_index[edge]]
    return float(gates[gates > 0].mean()) if bool((gates > 0).any()) else 0.0


def copy_weights(source: RoutingNetwork, target: RoutingNetwork, subgraph: Subgraph) -> None:
    """Fill a fixed-gate network over ``subgraph.space`` with the weights of ``source``.

    Raises:
        ValueError: ``target`` has learned gates, another space, or other shapes.
    """
    if target.space.edges != subgraph.space.edges:
        raise ValueError("the target network does not have the sub-graph's space")
    weights: Mapping[str, Tensor] = source.state_dict()
    own = {k: v for k, v in target.state_dict().items() if ".gate." not in k}
    missing = [k for k, v in own.items() if k not in weights or weights[k].shape != v.shape]
    if missing:
        raise ValueError(f"the source network lacks {len(missing)} tensors, such as {missing[0]}")
    gates = {node: target.cell(node).gate for node in target.space.nodes}
    if not all(isinstance(gate, FixedGate) for gate in gates.values()):
        raise ValueError("the target network of a sub-graph needs fixed gates")
    target.load_state_dict({k: weights[k] for k in own}, strict=False)
    for node, gate in gates.items():
        assert isinstance(gate, FixedGate), "checked above"
        gate.set_strength(subgraph.strengths[target.space.columns(node)])
