"""The parts of a routing network as the executor runs them: folded copies without autograd.

A prepared part gives what its original gives in evaluation, and may overwrite tensors that it made
itself. See ``execution.py`` for how they are run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynamic_routing.routing.folding import fold
from dynamic_routing.routing.gates import (
    SMALL_GATE_SCALE,
    FixedGate,
    Gate,
    SoftGate,
    at_least_float32,
    shrink,
    softmax,
)
from dynamic_routing.routing.space import EdgeKind, Node, RoutingSpace

if TYPE_CHECKING:
    from dynamic_routing.routing.cell import RoutingCell

Activation = Callable[[Tensor], Tensor]


class PreparedGate(nn.Module):
    """Interface: the logits of a cell's gate, and what turns them into gates.

    Attributes:
        activation: from logits (N, k) to gates (N, k).
        elementwise: whether ``activation`` treats every logit alone, so that it may be called
            once for a whole layer.
        recordable: whether device tensors alone decide the logits and gates, so that a CUDA graph
            of them stays right.
    """

    activation: Activation
    elementwise: bool
    recordable = False

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, k), in at least float32, of the cell's input (N, C, H, W)."""
        raise NotImplementedError


class PreparedSoftGate(PreparedGate):
    """:class:`SoftGate` with its norm folded and its pooling and prediction as one product."""

    recordable = True
    predict_weight: Tensor
    predict_bias: Tensor

    def __init__(self, gate: SoftGate) -> None:
        super().__init__()
        self.activation = gate.activate_with
        self.elementwise = gate.activate_with is not softmax
        self.small = gate.small
        self.squeeze = fold(gate.squeeze)
        predict = gate.predict
        assert predict.bias is not None, "a gate's last convolution has a bias"
        dtype = at_least_float32(predict.weight.dtype)
        self.register_buffer(
            "predict_weight", predict.weight.detach().flatten(1).t().to(dtype, copy=True)
        )
        self.register_buffer("predict_bias", predict.bias.detach().to(dtype, copy=True))

    def forward(self, x: Tensor) -> Tensor:
        """G (N, k), in at least float32 whatever the precision of ``x``."""
        pooled = self.squeeze(shrink_fast(x) if self.small else x).mean(dim=(2, 3))
        dtype = at_least_float32(pooled.dtype)
        weight, bias = self.predict_weight.to(dtype), self.predict_bias.to(dtype)
        if not torch.is_autocast_enabled(x.device.type):
            return torch.addmm(bias, pooled.to(dtype), weight)
        with torch.autocast(x.device.type, enabled=False):
            return torch.addmm(bias, pooled.to(dtype), weight)


class PreparedOtherGate(PreparedGate):
    """Any other :class:`Gate`, as it is."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self.gate = fold(gate)
        self.elementwise = self.recordable = isinstance(gate, FixedGate)

    def activation(self, logits: Tensor) -> Tensor:  # type: ignore[override]
        """The gate's own activation."""
        return self.gate.activate(logits)  # type: ignore[operator]

    def forward(self, x: Tensor) -> Tensor:
        """The gate's own logits (N, k)."""
        return self.gate.logits(x)  # type: ignore[operator]


def prepare_gate(gate: Gate) -> PreparedGate:
    """A lean copy of ``gate``."""
    return PreparedSoftGate(gate) if type(gate) is SoftGate else PreparedOtherGate(gate)


def shrink_fast(x: Tensor) -> Tensor:
    """:func:`~dynamic_routing.routing.gates.shrink` by slices and one pooling.

    Bilinear x0.25 samples at 4 i + 1.5, that is, it averages the middle 2x2 of every 4x4 pixels.
    """
    step = round(1 / SMALL_GATE_SCALE)
    height, width = (side // step * step for side in x.shape[-2:])
    if min(height, width) < step:
        return shrink(x)
    return F.avg_pool2d(x[..., 1 : height - 1, 1 : width - 1], 2, stride=step)


class PreparedCell(nn.Module):
    """The modules of one node, folded.

    Args:
        cell: the cell to copy.
    """

    def __init__(self, cell: RoutingCell) -> None:
        super().__init__()
        self.channels = cell.channels
        self.kinds: tuple[EdgeKind, ...] = cell.kinds
        self.gate = prepare_gate(cell.gate)
        self.operations = nn.ModuleList(fold(operation) for operation in cell.operations)
        self.projections = nn.ModuleDict(
            {k: fold(cell.transitions[k].project) for k in cell.kinds if k != "keep"}  # type: ignore[arg-type]
        )

    def aggregate(self, x: Tensor) -> Tensor:
        """ReLU(H) of X (N, C, H, W), a tensor of its own; X stays as it is."""
        total: Tensor | None = None
        owned = False
        for operation in self.operations:
            y = operation(x)
            if total is None:
                total, owned = y, y is not x
            elif owned:
                total = total.add_(y)
            elif y is not x:
                total, owned = y.add_(total), True
            else:
                total, owned = total + y, True
        assert total is not None, "a cell without operations"
        return total.relu_() if owned else total.relu()

    def project(self, kind: EdgeKind, activated: Tensor) -> Tensor:
        """ReLU(BN(1x1)) of an up or down edge, before any upsampling; a tensor of its own."""
        return self.projections[kind](activated)


def double_size(x: Tensor) -> Tensor:
    """Bilinear x2, as an up edge ends."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def positions(rows: Sequence[int], *, device: torch.device) -> Tensor:
    """Rows of a batch as an index tensor, for which the host does not wait for the device."""
    return torch.tensor(rows).to(device, non_blocking=True)


@dataclass(frozen=True)
class Step:
    """One node as the executor runs it.

    Attributes:
        node: the node.
        cell: its modules.
        columns: where its gates are among those of the space.
        edges: kind, position among the node's gates, and target of each edge. Keep comes last,
            because it may overwrite the ReLU(H) that the others read.
        keep: target of the keep edge, if there is one.
    """

    node: Node
    cell: PreparedCell
    columns: slice
    edges: tuple[tuple[EdgeKind, int, Node], ...]
    keep: Node | None


def plan(space: RoutingSpace, cell: Callable[[Node], PreparedCell]) -> list[list[Step]]:
    """The nodes of each layer in order, the initial cell's first."""
    layers: list[list[Step]] = [[] for _ in range(space.num_layers + 1)]
    for node in space.nodes:
        edges = [(e.kind, k, e.target) for k, e in enumerate(space.out_edges(node))]
        edges.sort(key=lambda edge: edge[0] == "keep")
        keep = next((target for kind, _, target in edges if kind == "keep"), None)
        step = Step(node, cell(node), space.columns(node), tuple(edges), keep)
        layers[node.layer + 1].append(step)
    return layers


def common_activation(steps: Sequence[Step]) -> Activation | None:
    """The activation of a layer's gates, if they may all be activated in one call."""
    activations = {step.cell.gate.activation for step in steps if step.cell.gate.elementwise}
    together = len(activations) == 1 and all(step.cell.gate.elementwise for step in steps)
    return activations.pop() if together else None
