"""Training that skips what is closed for the whole batch.

Same losses and gradients as dense training, which multiplies by 0 what is skipped here:

- a cell that no image of the batch opens runs no operations, an edge that none opens no
  transition, and a cell that none reaches no gate either; none of them stores activations;
- skipped parameters get zero gradients, never None, so optimisers and DistributedDataParallel see
  what dense training shows them;
- the logits of a cell that no image reaches are 0 in ``Routes.logits``;
- **running statistics** of skipped norms stay as they are, whereas dense training would update
  them from data that leave no trace in the output. Forwards without autograd, such as Precise BN's,
  never skip;
- the decision is the same on every process: the pattern of open edges is combined over all of
  them, one small tensor a layer, so that synchronised norms stay in step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dynamic_routing.routing.routes import Routes, RoutingOutput, add_signal, delivers
from dynamic_routing.routing.space import INITIAL, Node

if TYPE_CHECKING:
    from dynamic_routing.routing.cell import RoutingCell
    from dynamic_routing.routing.network import RoutingNetwork


@dataclass
class _Cell:
    """One cell on one batch.

    Attributes:
        x: its input (N, C, H, W).
        reached: (N,) bool, the images for which it exists.
        gates: (N, k).
        open: which of its k edges any image opens.
        passing: whether any image hands its input on.
    """

    node: Node
    x: Tensor
    reached: Tensor
    gates: Tensor
    open: Sequence[bool] = ()
    passing: bool = False


def may_skip(network: RoutingNetwork, images: Tensor) -> bool:
    """Whether this forward trains, and with gates whose closed state is final."""
    return (
        network.training
        and network.skip_closed
        and torch.is_grad_enabled()
        and images.device.type != "meta"
        and all(network.cell(node).gate.flat_when_closed for node in network.space.nodes)
    )


def run_training(network: RoutingNetwork, images: Tensor) -> RoutingOutput:
    """Route a training batch (N, C, H, W) without what no image needs."""
    return _TrainingRun(network, images).run()


class _TrainingRun:
    """The state of one forward."""

    def __init__(self, network: RoutingNetwork, images: Tensor) -> None:
        self.network = network
        self.images = images
        self.progress = float(network.progress)
        self.incoming: dict[Node, Tensor] = {INITIAL: network.stem(images)}
        self.dtype = self.incoming[INITIAL].dtype
        self.never = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        self.reached: dict[Node, Tensor] = defaultdict(lambda: self.never, {INITIAL: ~self.never})
        self.exists: set[Node] = {INITIAL}
        self.gates: dict[Node, Tensor] = {}
        self.logits: dict[Node, Tensor] = {}
        self.skipped: list[nn.Parameter] = []

    def run(self) -> RoutingOutput:
        """Run every layer."""
        network, space = self.network, self.network.space
        for layer in range(-1, space.num_layers):
            nodes = [node for node in space.nodes if node.layer == layer]
            cells = {node: self._gated(node) for node in nodes if node in self.exists}
            self._read_pattern(list(cells.values()))
            for node in nodes:
                self._run_cell(node, cells.get(node))
        features = {s: self._input(space.output_node(s)) for s in space.scales}
        gates, logits = self._columns(self.gates), self._columns(self.logits)
        gates, logits, *maps = _WithZeroGradients.apply(
            len(features),
            gates,
            logits,
            *features.values(),
            *(p for p in self.skipped if p.requires_grad),
        )
        features = dict(zip(features, maps, strict=True))
        size = (self.images.shape[-2], self.images.shape[-1])
        return RoutingOutput(features, Routes(space, gates, network.unreached, size, logits))

    def _input(self, node: Node) -> Tensor:
        """What arrived at a node; zeros if nothing was computed for it."""
        if node in self.incoming:
            return self.incoming.pop(node)
        return self.network.zeros(self.images, node.scale).to(self.dtype)

    def _gated(self, node: Node) -> _Cell:
        """Run the gate of a node that some image reaches."""
        x, reached, gate = self._input(node), self.reached[node], self.network.cell(node).gate
        self.logits[node] = gate.logits(x)
        self.gates[node] = gate.activate(self.logits[node]) * reached[:, None]
        return _Cell(node, x, reached, self.gates[node])

    def _read_pattern(self, cells: Sequence[_Cell]) -> None:
        """Read by the host, for a whole layer and over all processes, what anyone needs."""
        if not cells:
            return
        found = []
        for cell in cells:
            opened = cell.gates.detach() > 0
            passing = cell.reached & ~opened.any(dim=1)
            found.append(torch.cat([opened.any(dim=0), passing.any(dim=0, keepdim=True)]))
        pattern = torch.cat(found).to(torch.uint8)
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(pattern, op=dist.ReduceOp.MAX)
        values = iter(pattern.tolist())
        for cell in cells:
            cell.open = [bool(next(values)) for _ in range(cell.gates.shape[1])]
            cell.passing = bool(next(values))

    def _run_cell(self, node: Node, cell: _Cell | None) -> None:
        """Run a cell as far as any image needs it and note what was left out."""
        modules = self.network.cell(node)
        activated = None
        if cell is None:
            self.skipped += modules.gate.parameters()
        if cell is None or not any(cell.open):
            self.skipped += modules.operations.parameters()
            modules.draw_coins(self.images, progress=self.progress)
        else:
            activated = modules.aggregate(cell.x, progress=self.progress)
        for k, kind in enumerate(modules.kinds):
            if cell is None or not cell.open[k]:
                self.skipped += modules.transitions[kind].parameters()
        if cell is not None:
            self._send_all(modules, cell, activated)

    def _send_all(self, modules: RoutingCell, cell: _Cell, activated: Tensor | None) -> None:
        """Send along every edge what any image sends."""
        space, rule = self.network.space, self.network.unreached
        gates = cell.gates.detach()
        sent = delivers(space, cell.node, gates=gates, reached=cell.reached, rule=rule)
        for k, edge in enumerate(space.out_edges(cell.node)):
            passing = cell.passing and edge.kind == "keep"
            if not (cell.open[k] or passing or (rule == "released" and any(cell.open))):
                continue
            self.exists.add(edge.target)
            self.reached[edge.target] = self.reached[edge.target] | sent[:, k]
            signal = None
            if cell.open[k]:
                assert activated is not None, "an open edge of a cell that did not run"
                signal = modules.signal(edge.kind, activated, cell.gates[:, k])
            if passing:
                signal = modules.pass_on(cell.x, signal, gates=gates, reached=cell.reached)
            if signal is not None:
                add_signal(self.incoming, edge.target, signal)

    def _columns(self, found: dict[Node, Tensor]) -> Tensor:
        """(N, E) from the columns of each node; 0 for nodes that no image reaches."""
        space, like = self.network.space, found[INITIAL]
        widths = {node: len(space.out_edges(node)) for node in space.nodes}
        absent = [node for node in space.nodes if node not in found]
        zeros = {node: like.new_zeros(len(like), widths[node]) for node in absent}
        return torch.cat([{**found, **zeros}[node] for node in space.nodes], dim=1)


class _WithZeroGradients(torch.autograd.Function):
    """Hands tensors on, and gives what did not take part in the loss a gradient of 0.

    That is: parameters that were left out, and the gates, which a loss on the features alone does
    not reach where they are closed.
    """

    @staticmethod
    def forward(
        ctx: Any, count: int, gates: Tensor, logits: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        """Gates, logits and the ``count`` features as they are; the others are the parameters."""
        ctx.set_materialize_grads(False)
        ctx.mark_dirty(*tensors[:count])  # else they would be views that no head may overwrite
        ctx.parameters = tensors[count:]
        ctx.gates = gates.detach()
        return gates, logits, *tensors[:count]

    @staticmethod
    def backward(
        ctx: Any, gates: Tensor | None, *gradients: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """Gradients as they come, zeros for the parameters and for gates without any."""
        if gates is None:
            gates = torch.zeros_like(ctx.gates)
        return (None, gates, *gradients, *(torch.zeros_like(p) for p in ctx.parameters))
