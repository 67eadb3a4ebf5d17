"""A batch through a prepared network, the images that share a cell together.

For devices on which one large kernel beats several small ones. Which images a cell has is decided
by the host from one read of the layer's gates; an image's result does not depend on the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dynamic_routing.routing.prepared import Step, double_size, positions
from dynamic_routing.routing.space import INITIAL, EdgeKind, Node

if TYPE_CHECKING:
    from dynamic_routing.routing.execution import PreparedNetwork


@dataclass
class Arrived:
    """What has arrived at one node.

    Attributes:
        images: positions in the batch of the images for which the node exists.
        parts: (images, maps) that add up to the input; images without any have zeros.
    """

    images: set[int] = field(default_factory=set)
    parts: list[tuple[list[int], Tensor]] = field(default_factory=list)

    def add(self, images: list[int], y: Tensor) -> None:
        """Add maps (len(images), C, H, W), which are given away."""
        self.images.update(images)
        self.parts.append((images, y))


@dataclass(frozen=True)
class GroupedRun:
    """The results of a batch.

    Attributes:
        gates: one row an image, the strength of every edge.
        outputs: scale -> what arrived there.
    """

    gates: list[list[float]]
    outputs: dict[int, Arrived]

    def present(self, scale: int) -> tuple[bool, ...]:
        """For which images anything arrived at the output of ``scale``."""
        images = self.outputs[scale].images if scale in self.outputs else set()
        return tuple(n in images for n in range(len(self.gates)))

    def map(self, scale: int, network: PreparedNetwork, images: Tensor) -> Tensor:
        """The output of ``scale`` for every image, zeros where there is none."""
        arrived = self.outputs.get(scale, Arrived())
        return _sum(arrived, list(range(len(images))), network, images, scale)


def run_grouped(network: PreparedNetwork, images: Tensor) -> GroupedRun:
    """Route a batch (N, C, H, W)."""
    rows = [[0.0] * len(network.space.edges) for _ in images]
    arrivals: dict[Node, Arrived] = {INITIAL: Arrived()}
    everyone = list(range(len(images)))
    stem = network.stem(images.contiguous(memory_format=torch.channels_last))
    arrivals[INITIAL].add(everyone, stem)
    for layer in network.layers:
        here, arrivals = arrivals, {}
        steps = [step for step in layer if step.node in here]
        if not steps:
            break
        groups = []
        for step in steps:
            arrived = here.pop(step.node)
            members = sorted(arrived.images)
            groups.append((members, _sum(arrived, members, network, images, step.node.scale)))
        gates = [s.cell.gate.activation(s.cell.gate(x)) for s, (_, x) in zip(steps, groups)]
        read = iter(torch.cat([g.flatten() for g in gates]).tolist())
        for step, (members, x), strengths in zip(steps, groups, gates, strict=True):
            for n in members:
                rows[n][step.columns] = [next(read) for _ in step.edges]
            cell = _GroupedCell(step, members, [rows[n][step.columns] for n in members])
            cell.send(x, strengths, arrivals, zeros_too=network.unreached == "released")
    return GroupedRun(rows, {node.scale: arrived for node, arrived in arrivals.items()})


class _GroupedCell:
    """One cell for the images that reach it."""

    def __init__(self, step: Step, members: list[int], values: list[list[float]]) -> None:
        self.step = step
        self.members = members
        self.values = values

    def send(
        self, x: Tensor, gates: Tensor, arrivals: dict[Node, Arrived], *, zeros_too: bool
    ) -> None:
        """Run the cell for the images with an open gate; the others hand ``x`` on."""
        running = [i for i, row in enumerate(self.values) if max(row) > 0]
        passing = [i for i in range(len(self.members)) if i not in set(running)]
        if passing and self.step.keep is not None:
            self._add(arrivals, self.step.keep, passing, _take(x, passing))
        if not running:
            return
        activated = self.step.cell.aggregate(_take(x, running))
        for kind, k, target in self.step.edges:
            opened = [j for j, i in enumerate(running) if self.values[i][k] > 0]
            if opened:
                y = self._transmit(kind, _take(activated, opened))
                rows = [running[j] for j in opened]
                factor = _take(gates, rows)[:, k, None, None, None].to(y.dtype)
                y = y.mul_(factor)
                self._add(arrivals, target, rows, double_size(y) if kind == "up" else y)
            if zeros_too:
                arrivals.setdefault(target, Arrived()).images.update(
                    self.members[i] for i in running
                )

    def _transmit(self, kind: EdgeKind, activated: Tensor) -> Tensor:
        return activated if kind == "keep" else self.step.cell.project(kind, activated)

    def _add(
        self, arrivals: dict[Node, Arrived], node: Node, rows: Sequence[int], y: Tensor
    ) -> None:
        arrivals.setdefault(node, Arrived()).add([self.members[i] for i in rows], y)


def _take(x: Tensor, rows: Sequence[int]) -> Tensor:
    """Some rows of ``x``; ``x`` itself where that is all of them."""
    if len(rows) == len(x):
        return x
    return x.index_select(0, positions(rows, device=x.device))


def _sum(
    arrived: Arrived, members: list[int], network: PreparedNetwork, images: Tensor, scale: int
) -> Tensor:
    """The input of a node for ``members``, in this order."""
    position = {n: i for i, n in enumerate(members)}
    whole = [y for part, y in arrived.parts if part == members]
    total = whole[0] if whole else network.zeros(images, scale, len(members))
    for part, y in arrived.parts:
        if part == members:
            total = total if y is total else total.add_(y)
        else:
            index = positions([position[n] for n in part], device=y.device)
            total.index_add_(0, index, y.to(total.dtype))
    return total
