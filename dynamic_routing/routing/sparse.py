"""Sparse execution: an image visits what its gates open, and nothing else costs anything.

A node that nothing reaches runs neither operations nor gate; a cell whose gates are all closed
hands its input on; a closed edge runs no transition. Images of a batch run one after the other,
so the result for an image cannot depend on its batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dynamic_routing.routing.gates import FixedGate, at_least_float32
from dynamic_routing.routing.routes import Routes, RoutingOutput
from dynamic_routing.routing.space import INITIAL, Edge, Node

if TYPE_CHECKING:
    from dynamic_routing.routing.network import RoutingNetwork


def run_sparse(network: RoutingNetwork, images: Tensor) -> RoutingOutput:
    """Route each image of (N, C, H, W) by itself and stack the results.

    Raises:
        RuntimeError: the network is being traced or exported, which would freeze one route.
    """
    if not is_static(network):
        refuse_tracing()
    outputs = [_run_image(network, images[n : n + 1]) for n in range(len(images))]
    features = {s: torch.cat([o.features[s] for o in outputs]) for s in network.space.scales}
    gates = torch.cat([o.routes.gates for o in outputs])
    size = (images.shape[-2], images.shape[-1])
    return RoutingOutput(features, Routes(network.space, gates, network.unreached, size))


def is_static(network: RoutingNetwork) -> bool:
    """Whether every image takes the same route, because no gate looks at it."""
    return all(isinstance(network.cell(node).gate, FixedGate) for node in network.space.nodes)


def refuse_tracing() -> None:
    """Raise where Python decides what runs and somebody is recording it.

    Raises:
        RuntimeError: inside torch.jit.trace or torch.export.
    """
    if torch.jit.is_tracing() or torch.compiler.is_exporting():
        raise RuntimeError(
            "sparse execution decides in Python what runs: traced, it would keep the route of the "
            "example image for every other; export the masked or branching form of the "
            "RoutingNetwork (dynamic_routing.routing.exportable, tools/export_model.py)"
        )


class _Arrivals:
    """What has arrived at each node of one image: absent, reached by zeros only, or data."""

    def __init__(self, network: RoutingNetwork, image: Tensor) -> None:
        self._network = network
        self._image = image
        self._data: dict[Node, Tensor] = {INITIAL: network.stem(image)}
        self._reached: set[Node] = {INITIAL}

    def send(self, node: Node, signal: Tensor) -> None:
        """Add a computed signal."""
        self._reached.add(node)
        self._data[node] = self._data[node] + signal if node in self._data else signal

    def send_zeros(self, node: Node) -> None:
        """Let a node exist without computing anything (the released code's zero tensors)."""
        self._reached.add(node)

    def reaches(self, node: Node) -> bool:
        """Whether the node exists for this image."""
        return node in self._reached

    def take(self, node: Node) -> Tensor:
        """The node's input X; zeros where only zeros arrived."""
        if node in self._data:
            return self._data.pop(node)
        return self._network.zeros(self._image, node.scale)


def _run_image(network: RoutingNetwork, image: Tensor) -> RoutingOutput:
    """Route one image (1, C, H, W)."""
    space = network.space
    arrivals = _Arrivals(network, image)
    dtype = at_least_float32(image.dtype)
    columns = []
    for node in space.nodes:
        edges = space.out_edges(node)
        if not arrivals.reaches(node):
            columns.append(image.new_zeros(1, len(edges), dtype=dtype))
            continue
        x = arrivals.take(node)
        gates = network.cell(node).gate(x)
        columns.append(gates)
        _send(network, node, x=x, gates=gates, arrivals=arrivals)
    features = {s: arrivals.take(space.output_node(s)) for s in space.scales}
    size = (image.shape[-2], image.shape[-1])
    return RoutingOutput(features, Routes(space, torch.cat(columns, 1), network.unreached, size))


def _send(
    network: RoutingNetwork, node: Node, *, x: Tensor, gates: Tensor, arrivals: _Arrivals
) -> None:
    """Run one existing cell on X as far as its gates (1, k) ask for it."""
    edges: tuple[Edge, ...] = network.space.out_edges(node)
    values = gates[0].tolist()
    cell = network.cell(node)
    if max(values) <= 0:
        for edge in edges:
            if edge.kind == "keep":
                arrivals.send(edge.target, x)
        return
    activated = cell.aggregate(x)
    for k, edge in enumerate(edges):
        if values[k] > 0:
            factor = gates[:, k, None, None, None].to(activated.dtype)
            arrivals.send(edge.target, factor * cell.transmit(edge.kind, activated))
        elif network.unreached == "released":
            arrivals.send_zeros(edge.target)
