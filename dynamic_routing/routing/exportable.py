"""Forms of a routing network that torch.export can hold without freezing one image's route.

Sparse execution decides in Python which cell runs. Traced, it would keep the route of the example
image for ever, so it refuses to be traced. Two forms hold every route:

    masked     every cell runs for every image, gates multiply and mask; any batch
    branches   ``torch.cond`` skips closed cells and edges; one image at a time

Both share the weights of the network that they are made of and give its results.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dynamic_routing.routing.network import RoutingCell, RoutingNetwork
from dynamic_routing.routing.routes import delivers
from dynamic_routing.routing.space import INITIAL, STEM_STRIDE, EdgeKind, Node
from dynamic_routing.routing.sparse import is_static


class MaskedForm(nn.Module):
    """A routing network as a plain sequence of tensor operations.

    Maps images (N, C, H, W), H and W multiples of the space's stride, to the features of every
    scale, fine to coarse, then for each scale which images reached it (N,), then the gates (N, E).

    Args:
        network: in evaluation mode.

    Raises:
        ValueError: a network in training mode.
    """

    def __init__(self, network: RoutingNetwork) -> None:
        super().__init__()
        if network.training:
            raise ValueError("only a network in evaluation mode can be exported, call eval()")
        self.network = network

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Features, reached and gates; see the class."""
        space = self.network.space
        incoming: dict[Node, Tensor] = {INITIAL: self.network.stem(images)}
        always = images.new_ones(images.shape[0], dtype=torch.bool)
        reached: dict[Node, Tensor] = {INITIAL: always}
        columns = []
        for node in space.nodes:
            cell, x, here = self.network.cell(node), incoming.pop(node), reached[node]
            gates = self._gates(cell, x, here)
            columns.append(gates)
            sent = delivers(space, node, gates=gates, reached=here, rule=self.network.unreached)
            for k, (edge, y) in enumerate(zip(space.out_edges(node), self._run(cell, x, gates))):
                target = edge.target
                if edge.kind == "keep" and cell.gate.can_close:
                    passing = here & ~(gates > 0).any(dim=1)
                    y = torch.where(passing[:, None, None, None], x, y)
                incoming[target] = incoming[target] + y if target in incoming else y
                reached[target] = reached[target] | sent[:, k] if target in reached else sent[:, k]
        outputs = [space.output_node(scale) for scale in space.scales]
        features = [incoming[o] if o in incoming else self._zeros(images, o) for o in outputs]
        flags = [reached[o] if o in reached else ~always for o in outputs]
        return features, flags, torch.cat(columns, dim=1)

    def _zeros(self, images: Tensor, output: Node) -> Tensor:
        """What stands for an output that no edge leads to."""
        stride = STEM_STRIDE << output.scale
        height, width = images.shape[-2] // stride, images.shape[-1] // stride
        return images.new_zeros(images.shape[0], self.network.channels(output.scale), height, width)

    def _gates(self, cell: RoutingCell, x: Tensor, here: Tensor) -> Tensor:
        """Gates (N, k), 0 where the cell does not exist."""
        return cell.gate(x) * here[:, None]

    def _run(self, cell: RoutingCell, x: Tensor, gates: Tensor) -> list[Tensor]:
        """What a cell computes for each of its edges, times the gate."""
        activated = cell.aggregate(x)
        return [
            gates[:, k, None, None, None].to(activated.dtype) * cell.transmit(kind, activated)
            for k, kind in enumerate(cell.kinds)
        ]


class BranchingForm(MaskedForm):
    """The same with real branches (``torch.cond``): what is closed is not computed.

    Takes one image (1, C, H, W).
    """

    def _gates(self, cell: RoutingCell, x: Tensor, here: Tensor) -> Tensor:
        """The gate of a cell that does not exist is not computed."""
        count = len(cell.kinds)

        def run(x: Tensor) -> Tensor:
            return cell.gate(x).clone()  # a branch may not return what it was given

        def skip(x: Tensor) -> Tensor:
            return x.new_zeros(x.shape[0], count)

        return torch.cond(here[0], run, skip, (x,))

    def _run(self, cell: RoutingCell, x: Tensor, gates: Tensor) -> list[Tensor]:
        """Operations run if an edge is open, transitions if theirs is."""

        def copy(x: Tensor) -> Tensor:
            return x.clone()

        activated = torch.cond((gates[0] > 0).any(), cell.aggregate, copy, (x,))
        return [
            self._signal(cell, kind, activated, gates[:, k]) for k, kind in enumerate(cell.kinds)
        ]

    def _signal(self, cell: RoutingCell, kind: EdgeKind, x: Tensor, gate: Tensor) -> Tensor:
        """The gate times the transition of ReLU(H), or zeros."""
        if kind == "keep":  # nothing to save: the transition is the identity
            return gate[:, None, None, None].to(x.dtype) * x

        def run(x: Tensor, gate: Tensor) -> Tensor:
            return gate[:, None, None, None].to(x.dtype) * cell.transmit(kind, x)

        def skip(x: Tensor, gate: Tensor) -> Tensor:
            count, channels, height, width = x.shape
            if kind == "up":
                return x.new_zeros(count, channels // 2, 2 * height, 2 * width)
            return x.new_zeros(count, 2 * channels, (height + 1) // 2, (width + 1) // 2)

        return torch.cond(gate[0] > 0, run, skip, (x, gate))


FORMS: dict[str, Callable[[RoutingNetwork], MaskedForm]] = {
    "masked": MaskedForm,
    "branches": BranchingForm,
}
"""Forms of a dynamic network by name."""

STATIC = "static"


def exportable(network: RoutingNetwork, form: str) -> MaskedForm:
    """A form of ``network`` that can be exported.

    Args:
        network: in evaluation mode.
        form: a key of :data:`FORMS`, or "static" for a network with fixed gates.

    Raises:
        ValueError: an unknown form, or "static" for a network whose routes depend on the image.
    """
    if form == STATIC:
        if not is_static(network):
            raise ValueError(
                "this network's routes depend on the image: exported as static it would keep one "
                f"of them; take {' or '.join(FORMS)}"
            )
        return MaskedForm(network)
    if form not in FORMS:
        raise ValueError(f"form {form!r} is unknown; allowed: {', '.join([STATIC, *FORMS])}")
    return FORMS[form](network)
