"""One image through a prepared network: only what its gates open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dynamic_routing.routing.prepared import Step, common_activation, double_size
from dynamic_routing.routing.space import INITIAL, Node

if TYPE_CHECKING:
    from dynamic_routing.routing.execution import PreparedNetwork


@dataclass(frozen=True)
class ImageRun:
    """The result of one image.

    Attributes:
        gates: one row, the strength of every edge.
        outputs: scale -> (1, C, H, W), None for zeros; no entry where nothing arrived.
    """

    gates: list[list[float]]
    outputs: dict[int, Tensor | None]

    def present(self, scale: int) -> tuple[bool, ...]:
        """Whether anything arrived at the output of ``scale``."""
        return (scale in self.outputs,)

    def map(self, scale: int, network: PreparedNetwork, images: Tensor) -> Tensor:
        """The output of ``scale``, zeros where there is none."""
        found = self.outputs.get(scale)
        return network.zeros(images, scale, 1) if found is None else found


class Arrivals:
    """What has arrived at nodes: nothing (no entry), zeros only (None), or data."""

    def __init__(self) -> None:
        self.maps: dict[Node, Tensor | None] = {}

    def add(self, node: Node, y: Tensor, strength: float = 1.0) -> None:
        """Add ``strength * y`` to a node's input; ``y`` is given away."""
        present = self.maps.get(node)
        if present is not None:
            present.add_(y, alpha=strength)
        else:
            self.maps[node] = y if strength == 1.0 else y.mul_(strength)

    def add_up(self, node: Node, y: Tensor, strength: float) -> None:
        """Add ``strength * y`` at twice its size."""
        present = self.maps.get(node)
        if present is not None:
            present.add_(double_size(y), alpha=strength)
        else:
            self.maps[node] = double_size(y if strength == 1.0 else y.mul_(strength))

    def add_zeros(self, node: Node) -> None:
        """Let a node exist although nothing was computed for it (rule ``released``)."""
        self.maps.setdefault(node)


def run_image(network: PreparedNetwork, image: Tensor) -> ImageRun:
    """Route one image (1, C, H, W)."""
    row = [0.0] * len(network.space.edges)
    arrivals = Arrivals()
    arrivals.add(INITIAL, network.stem(image.contiguous(memory_format=torch.channels_last)))
    for layer in network.layers:
        here, arrivals = arrivals.maps, Arrivals()
        steps = [step for step in layer if step.node in here]
        if not steps:
            break
        inputs = [_data(here.pop(step.node), network, image, step) for step in steps]
        for step, x, strengths in zip(steps, inputs, read_gates(steps, inputs), strict=True):
            row[step.columns] = strengths
            _send(step, x, strengths, arrivals, zeros_too=network.unreached == "released")
    return ImageRun([row], {node.scale: x for node, x in arrivals.maps.items()})


def _data(x: Tensor | None, network: PreparedNetwork, image: Tensor, step: Step) -> Tensor:
    """X, or zeros where only zeros arrived."""
    return network.zeros(image, step.node.scale, 1) if x is None else x


def read_gates(steps: Sequence[Step], inputs: Sequence[Tensor]) -> list[list[float]]:
    """The gates of one image at the existing nodes of a layer, read by the host in one go."""
    logits = [step.cell.gate(x) for step, x in zip(steps, inputs, strict=True)]
    activation = common_activation(steps)
    if activation is None:
        gates = [step.cell.gate.activation(g) for step, g in zip(steps, logits, strict=True)]
        row = torch.cat(gates, dim=1)
    else:
        row = activation(torch.cat(logits, dim=1))
    values = iter(row.tolist()[0])
    return [[next(values) for _ in step.edges] for step in steps]


def _send(
    step: Step, x: Tensor, strengths: list[float], arrivals: Arrivals, *, zeros_too: bool
) -> None:
    """Run one existing cell as far as its gates ask for it; ``x`` is given away."""
    if max(strengths) <= 0:
        if step.keep is not None:
            arrivals.add(step.keep, x)
        return
    activated = step.cell.aggregate(x)
    for kind, k, target in step.edges:
        strength = strengths[k]
        if strength > 0:
            if kind == "keep":
                arrivals.add(target, activated, strength)
            elif kind == "up":
                arrivals.add_up(target, step.cell.project(kind, activated), strength)
            else:
                arrivals.add(target, step.cell.project(kind, activated), strength)
        elif zeros_too:
            arrivals.add_zeros(target)
