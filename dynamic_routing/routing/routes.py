"""Routes: what the gates of one forward decided, and how other code gets hold of them.

Everything that reads a decision (losses, evaluators, cost models, pictures) reads a
:class:`Routes`; everything that makes one is a :class:`RoutedModule`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import SupportsIndex

import torch
from torch import Tensor, nn

from dynamic_routing.routing.space import INITIAL, Node, RoutingSpace


def _absent(gates: Tensor, reached: Tensor) -> Tensor:
    """Only an open edge delivers something."""
    return gates > 0


def _released(gates: Tensor, reached: Tensor) -> Tensor:
    """A cell with any open gate delivers along every edge, zeros along the closed ones."""
    return ((gates > 0).any(dim=1) & reached)[:, None].expand_as(gates)


UNREACHED_RULES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "absent": _absent,
    "released": _released,
}
"""What counts as reaching a cell, from gates (N, k) and reached (N,) of its producer.

``absent`` (our default): a cell that no open edge reaches does not exist for that image.
``released``: the rule of the published code, for converted weights.
"""


def check_unreached_rule(rule: str) -> str:
    """Return ``rule`` if it is one of :data:`UNREACHED_RULES`, else raise ValueError."""
    if rule not in UNREACHED_RULES:
        raise ValueError(
            f"unreached-node rule {rule!r} is unknown; allowed: {', '.join(UNREACHED_RULES)}"
        )
    return rule


def delivers(
    space: RoutingSpace, node: Node, *, gates: Tensor, reached: Tensor, rule: str
) -> Tensor:
    """Which edges of ``node`` deliver a signal, image by image.

    A cell whose gates are all closed hands its input on along its keep edge.

    Args:
        gates: (N, k) gates of the node's k edges, 0 where the node is unreached.
        reached: (N,) bool, whether the node exists for the image.
        rule: a key of :data:`UNREACHED_RULES`.

    Returns:
        (N, k) bool.
    """
    delivered = UNREACHED_RULES[rule](gates, reached)
    passed_on = reached & ~(gates > 0).any(dim=1)
    keeps = torch.tensor([edge.kind == "keep" for edge in space.out_edges(node)])
    return delivered | (passed_on[:, None] & keeps.to(gates.device, non_blocking=True))


def add_signal(incoming: dict[Node, Tensor], node: Node, signal: Tensor) -> None:
    """Sum ``signal`` into what ``node`` receives, out of place."""
    incoming[node] = incoming[node] + signal if node in incoming else signal


@dataclass(frozen=True, eq=False)
class Routes:
    """The gates of one forward for N images; differentiable where the forward was.

    Attributes:
        space: the space of E edges and V nodes whose columns the tensors follow.
        gates: (N, E), in [0, 1]; 0 on every edge of a node that does not exist for the image.
        rule: what happened to nodes that nothing reached, a key of :data:`UNREACHED_RULES`.
        image_size: (height, width) in pixels of the tensor that was routed, padding included.
        logits: (N, E), the gates before their activation; kept in training only, where a loss may
            want to reach gates that are closed. 0 where no image of the batch reaches the node.
        cluster: (N,) int64, nearest cluster of each image, if the network has clusters (DivDR).
        cluster_distance: (N,) float32, Euclidean distance in A-space to the cluster's centre.
    """

    space: RoutingSpace
    gates: Tensor
    rule: str
    image_size: tuple[int, int]
    logits: Tensor | None = None
    cluster: Tensor | None = None
    cluster_distance: Tensor | None = None

    def __post_init__(self) -> None:
        if self.gates.ndim != 2 or self.gates.shape[1] != len(self.space.edges):
            raise ValueError(
                f"gates must have shape (N, {len(self.space.edges)}) in this space, "
                f"got {tuple(self.gates.shape)}"
            )
        check_unreached_rule(self.rule)

    def __len__(self) -> int:
        return self.gates.shape[0]

    def __getitem__(self, index: SupportsIndex | slice) -> Routes:
        """The routes of one image or of a slice of them, always with a batch dimension."""
        if not isinstance(index, slice):
            position = range(len(self))[operator.index(index)]
            index = slice(position, position + 1)

        def part(rows: Tensor | None) -> Tensor | None:
            return None if rows is None else rows[index]

        return replace(
            self,
            gates=self.gates[index],
            logits=part(self.logits),
            cluster=part(self.cluster),
            cluster_distance=part(self.cluster_distance),
        )

    def detach(self) -> Routes:
        """The same gates outside the autograd graph, on the CPU, in float32."""
        distance = self.cluster_distance
        return replace(
            self,
            gates=self.gates.detach().float().cpu(),
            logits=None,
            cluster=None if self.cluster is None else self.cluster.cpu(),
            cluster_distance=None if distance is None else distance.detach().cpu(),
        )

    @property
    def open(self) -> Tensor:
        """(N, E) bool: the edges that carried something computed."""
        return self.gates > 0

    @cached_property
    def _reached(self) -> dict[Node, Tensor]:
        """(N,) bool per node, virtual output nodes included."""
        never = torch.zeros(len(self), dtype=torch.bool, device=self.gates.device)
        reached = {INITIAL: ~never}
        for node in self.space.nodes:
            gates = self.gates[:, self.space.columns(node)].detach()
            here = reached.get(node, never)
            sent = delivers(self.space, node, gates=gates, reached=here, rule=self.rule)
            for column, edge in enumerate(self.space.out_edges(node)):
                reached[edge.target] = reached.get(edge.target, never) | sent[:, column]
        return reached

    @property
    def reached(self) -> Tensor:
        """(N, V) bool: the nodes that existed for each image, whose gates therefore ran."""
        return torch.stack([self._reached[node] for node in self.space.nodes], dim=1)

    def output_reached(self, scale: int) -> Tensor:
        """(N,) bool: whether anything arrived at the output of ``scale``."""
        output = self.space.output_node(scale)
        if output not in self._reached:
            return torch.zeros(len(self), dtype=torch.bool, device=self.gates.device)
        return self._reached[output]

    @property
    def running(self) -> Tensor:
        """(N, V) bool: the nodes whose operations ran, that is, with an open edge."""
        columns = [self.space.columns(node) for node in self.space.nodes]
        return torch.stack([self.open[:, c].any(dim=1) for c in columns], dim=1)

    def activations(self) -> Tensor:
        """A(x), (N, A): the gates in the slots up, keep, down of each grid cell.

        Differentiable. The initial cell is left out; slots without an edge are 0
        (DivDR, Sec. 3.2; A = 183 for 16 layers, 198 for the detection space).
        """
        vectors = self.gates.new_zeros(len(self), self.space.activation_dim)
        slots = torch.tensor(self.space.activation_slots, device=self.gates.device)
        columns = torch.tensor(self.space.activation_columns, device=self.gates.device)
        return vectors.index_copy(1, slots, self.gates.index_select(1, columns))


@dataclass(frozen=True, eq=False)
class RoutingOutput:
    """What a :class:`RoutedModule` returns.

    Attributes:
        features: scale index -> (N, C << scale, H / stride, W / stride), for every scale of the
            space; zeros where nothing arrives at the output of that scale.
        routes: the decisions that made them.
        present: scale -> whether anything arrived there, image by image, where the module that
            routed knows it already; None: it follows from ``routes``.
    """

    features: dict[int, Tensor]
    routes: Routes
    present: Mapping[int, tuple[bool, ...]] | None = None

    def output_reached(self, scale: int) -> Tensor:
        """(N,) bool: whether anything arrived at the output of ``scale``."""
        if self.present is None:
            return self.routes.output_reached(scale)
        present = torch.tensor(self.present[scale])
        return present.to(self.routes.gates.device, non_blocking=True)


class RoutedModule(nn.Module):
    """A module whose forward returns a :class:`RoutingOutput`, so that it can be recorded."""

    space: RoutingSpace


@contextmanager
def record_routes(module: nn.Module) -> Iterator[list[Routes]]:
    """Collect the routes of every :class:`RoutedModule` inside ``module``, one entry a forward.

    The hooks live only inside the ``with``, so nothing is left on the module and copies of it
    stay independent.

    Example:
        >>> with record_routes(model) as records:
        ...     model(images)
        >>> records[0].gates
    """
    records: list[Routes] = []

    def keep(_module: nn.Module, _inputs: object, output: RoutingOutput) -> None:
        records.append(output.routes)

    routed = [m for m in module.modules() if isinstance(m, RoutedModule)]
    handles = [m.register_forward_hook(keep) for m in routed]
    try:
        yield records
    finally:
        for handle in handles:
            handle.remove()
