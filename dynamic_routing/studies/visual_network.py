"""The real backbone and decoder at a small width, with learned, fixed or told gates."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from dynamic_routing.routing.cost import CostModel, head_work
from dynamic_routing.routing.decoder import SegmentationDecoder
from dynamic_routing.routing.gates import (
    FIXED,
    Gate,
    GateSpec,
    at_least_float32,
    max_tanh,
)
from dynamic_routing.routing.network import RoutingNetwork, StemSpec
from dynamic_routing.routing.routes import Routes
from dynamic_routing.routing.space import RoutingSpace
from dynamic_routing.studies.visual_data import CLASSES, SIDE, SUBSETS

WIDTH = 8
SCALES = 3
STEM_CHANNELS = 8
GATE_BIAS = 1.5
TABLE_NOISE = 0.3
"""Spread of the oracle's first logits: it breaks the symmetry of the subsets."""


class TableGate(Gate):
    """The oracle's gate: one learned row of logits a subset, whatever the image shows.

    Before each forward :meth:`tell` names the subset of every image.

    Args:
        num_edges: k.
    """

    def __init__(self, num_edges: int) -> None:
        super().__init__()
        self.num_edges = num_edges
        self.can_close = True
        start = GATE_BIAS + TABLE_NOISE * torch.randn(len(SUBSETS), num_edges)
        self.table = nn.Parameter(start)
        self.subsets: Tensor | None = None

    def tell(self, subsets: Tensor | None) -> None:
        """The subsets (N,) of the images that come next, or None afterwards."""
        self.subsets = subsets

    def logits(self, x: Tensor) -> Tensor:
        """The rows (N, k) of the images' subsets."""
        assert self.subsets is not None, "the oracle was not told the subsets"
        return self.table[self.subsets].to(at_least_float32(x.dtype))

    def activate(self, logits: Tensor) -> Tensor:
        """The same activation as that of gates that look at the image."""
        return max_tanh(logits)


class VisualNetwork(nn.Module):
    """Backbone and decoder.

    Args:
        method: ``static`` has every gate open, ``oracle`` :class:`TableGate`, others soft gates.
        layers: of the routing space.
    """

    def __init__(self, method: str, layers: int) -> None:
        super().__init__()
        space = RoutingSpace.grid(layers, num_scales=SCALES)
        told = method in ("static", "oracle")
        gate = GateSpec(FIXED) if told else GateSpec(bias_init=GATE_BIAS)
        stem = StemSpec(middle_channels=STEM_CHANNELS, padding=1)
        self.backbone = RoutingNetwork(space, width=WIDTH, gate=gate, stem=stem)
        self.backbone.skip_closed = False  # its decisions are data, which vmap does not allow
        channels = [WIDTH << scale for scale in range(SCALES)]
        self.head = SegmentationDecoder(channels, CLASSES, norm=nn.BatchNorm2d)
        # Counted before the oracle's tables come in: like fixed gates they cost nothing.
        self.cost = CostModel(self.backbone, fixed={"head": head_work(self.head)})
        self.cost.table(SIDE, SIDE)
        self.tables: list[TableGate] = []
        if method == "oracle":
            for node in space.nodes:
                table = TableGate(len(space.out_edges(node)))
                self.backbone.cell(node).gate = table
                self.tables.append(table)

    def forward(self, images: Tensor, subsets: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (N, 4, H, W) and gates (N, E); only the oracle reads the subsets (N,).

        Always dense: a batch at a time, with the result of the sparse execution.
        """
        for table in self.tables:
            table.tell(subsets)
        output = self.backbone.forward_dense(images)
        for table in self.tables:
            table.tell(None)
        reached = {scale: output.routes.output_reached(scale) for scale in output.features}
        return self.head(output.features, reached), output.routes.gates

    def routes(self, gates: Tensor) -> Routes:
        """Gates (N, E) with all that a loss needs to know."""
        space = self.backbone.space
        return Routes(space, gates, self.backbone.unreached, (SIDE, SIDE))


class Ensemble:
    """S networks, one a seed, that share each pass but no number.

    One pass over S small networks costs about a third of S passes: what takes time at this width
    is the number of operations, not their size.

    Args:
        method: see :class:`VisualNetwork`.
        layers: of the routing space.
        seeds: S seeds of the weights.
    """

    def __init__(self, method: str, layers: int, seeds: Sequence[int]) -> None:
        networks = []
        for seed in seeds:
            torch.manual_seed(seed)
            networks.append(VisualNetwork(method, layers))
        self.base = networks[0]
        self.parameters, buffers = stack_module_state(networks)  # type: ignore[arg-type]
        # Not of a seed: the progress of drop path, which vmap could not read.
        self._buffers = {k: v for k, v in buffers.items() if not k.endswith("progress")}

    def __call__(self, images: Tensor, subsets: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (S, N, 4, H, W) and gates (S, N, E) of images (S, N, 3, H, W)."""
        return vmap(self._one)(self.parameters, self._buffers, images, subsets)

    def _one(
        self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], *inputs: Tensor
    ) -> tuple[Tensor, Tensor]:
        return functional_call(self.base, (parameters, buffers), inputs)

    def network(self, number: int) -> VisualNetwork:
        """A copy of one network, in evaluation mode."""
        network = copy.deepcopy(self.base)
        state = {k: v[number].detach() for k, v in (self.parameters | self._buffers).items()}
        network.load_state_dict(state)
        return network.eval()
