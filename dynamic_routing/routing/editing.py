"""Routes made from other routes: with edges opened and closed, or what many images share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch

from dynamic_routing.routing.routes import Routes
from dynamic_routing.routing.space import EDGE_KINDS, INITIAL, STEM_STRIDE, Edge, Node, RoutingSpace
from dynamic_routing.routing.subnetworks import COMMON_SHARE, common_subgraph

OPENED_STRENGTH = 0.9
"""Strength of an edge that is opened by hand, about where gates start (tanh 1.5)."""

EdgeName = Edge | tuple[int, int, str]
"""An edge, or (layer, scale index, kind) as in :meth:`RoutingSpace.from_edges`."""


def edited(
    routes: Routes,
    *,
    open: Iterable[EdgeName] = (),  # noqa: A002 - what is done to the edges
    close: Iterable[EdgeName] = (),
    strength: float = OPENED_STRENGTH,
) -> Routes:
    """The same routes with edges opened and closed.

    What then no longer exists for an image is closed too. A cell that an opened edge reaches for
    the first time hands its input on, unless its own edges are opened as well; a cell whose edges
    are all closed does so too.

    Args:
        routes: of N images; they stay as they are.
        open: edges to open; those that are open keep their strength.
        close: edges to close.
        strength: of newly opened edges, in (0, 1].

    Raises:
        ValueError: an edge that the space does not have, with those that the cell has; one that is
            both opened and closed; one that is opened where no route leads; a strength outside
            the bounds.
    """
    if not 0 < strength <= 1:
        raise ValueError(f"the strength of an opened edge must be in (0, 1], got {strength}")
    space = routes.space
    opened = [find_edge(space, edge) for edge in open]
    closed = [find_edge(space, edge) for edge in close]
    both = [edge for edge in opened if edge in closed]
    if both:
        raise ValueError(f"the {both[0]} is both opened and closed")
    gates = routes.gates.detach().clone()
    for edge in closed:
        gates[:, space.edge_index[edge]] = 0
    for edge in opened:
        column = gates[:, space.edge_index[edge]]
        column[column == 0] = strength
    changed = replace(routes, gates=gates, logits=None, cluster=None, cluster_distance=None)
    found = without_unreached(changed)
    for edge in opened:
        if bool((found.gates[:, space.edge_index[edge]] == 0).any()):
            raise ValueError(f"the {edge} cannot be opened: no open edge leads to its cell")
    return found


def find_edge(space: RoutingSpace, name: EdgeName) -> Edge:
    """The edge of a space that is meant.

    Raises:
        ValueError: it is no edge of the space; the message says which edges its cell has.
    """
    edge = name if isinstance(name, Edge) else _parsed(name)
    if edge in space.edge_index:
        return edge
    kinds = [other.kind for other in space.out_edges(edge.source)]
    if kinds:
        raise ValueError(f"there is no {edge}; this cell has: {', '.join(kinds)}")
    cells = [n for n in space.nodes if n.layer == edge.source.layer]
    if not cells:
        last = space.num_layers - 1
        raise ValueError(f"there is no {edge}; layers are 0 to {last}, the initial cell is -1")
    scales = ", ".join(f"1/{node.stride}" for node in cells)
    raise ValueError(f"there is no {edge}; layer {edge.source.layer} has cells at {scales}")


def _parsed(name: tuple[int, int, str]) -> Edge:
    """An edge from its triple."""
    try:
        layer, scale, kind = name
        known = kind in EDGE_KINDS and type(layer) is int and type(scale) is int and scale >= 0
    except (TypeError, ValueError):
        known = False
    if not known:
        raise ValueError(
            f"an edge is (layer, scale index, kind) with kind {', '.join(EDGE_KINDS)}, got {name!r}"
        )
    return Edge(Node(layer, scale), kind)  # type: ignore[arg-type]


def parse_edge(text: str) -> Edge:
    """An edge as pictures of routes name it: ``LAYER,SCALE,KIND``, such as ``5,1/8,down``.

    ``in`` is the layer of the initial cell.

    Raises:
        ValueError: another form.
    """
    words = [word.strip() for word in text.split(",")]
    strides = {f"1/{STEM_STRIDE << scale}": scale for scale in range(16)}
    if len(words) == 3 and words[1] in strides and words[2] in EDGE_KINDS:
        layer = str(INITIAL.layer) if words[0] == "in" else words[0]
        if layer.removeprefix("-").isdecimal():
            return Edge(Node(int(layer), strides[words[1]]), words[2])  # type: ignore[arg-type]
    raise ValueError(f"an edge is LAYER,SCALE,KIND such as 5,1/8,down or in,1/4,keep, got {text!r}")


def without_unreached(routes: Routes) -> Routes:
    """The same routes with gates of 0 at nodes that do not exist for the image."""
    nodes = [routes.space.node_index[edge.source] for edge in routes.space.edges]
    gates = routes.gates * routes.reached[:, nodes]
    found = replace(routes, gates=gates)
    # What such a node seemed to send reaches nobody either.
    return found if torch.equal(gates, routes.gates) else without_unreached(found)


def common_route(routes: Routes, *, share: float = COMMON_SHARE) -> Routes:
    """The one route that many images share, for example those of a cluster: its expert.

    It opens the paths that at least ``share`` of the images take, with the average strength of
    those that have them open: the route of
    :func:`~dynamic_routing.routing.subnetworks.common_subgraph`, in the whole space.

    Args:
        routes: N images in one space.
        share: in (0, 1].

    Returns:
        Routes of one image (N = 1).

    Raises:
        ValueError: a share outside the bounds, no image, or no output that enough images reach.
    """
    found, space = common_subgraph(routes, share=share), routes.space
    gates = torch.zeros(1, len(space.edges))
    for edge, strength in zip(found.space.edges, found.strengths, strict=True):
        gates[0, space.edge_index[edge]] = strength
    return Routes(space, gates, routes.rule, routes.image_size)
