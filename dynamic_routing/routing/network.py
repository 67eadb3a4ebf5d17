"""The routing network: one definition of the method, run densely or sparsely.

Dense (training): every cell runs for every image of the batch, and gates multiply. Sparse
(evaluation): each image visits only what its own gates open (see ``sparse.py``; ``execution.py`` is
the fast way for weights that no longer change). Both give the same result, because what does not
exist for an image is masked image by image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dynamic_routing.routing.cell import RoutingCell
from dynamic_routing.routing.cells import PUBLISHED_CELL, Stem
from dynamic_routing.routing.gates import GateSpec
from dynamic_routing.routing.layers import NormFactory
from dynamic_routing.routing.routes import (
    RoutedModule,
    Routes,
    RoutingOutput,
    add_signal,
    check_unreached_rule,
    delivers,
)
from dynamic_routing.routing.space import INITIAL, STEM_STRIDE, Node, RoutingSpace
from dynamic_routing.routing.sparse import run_sparse
from dynamic_routing.routing.training_sparse import may_skip, run_training


@dataclass(frozen=True)
class StemSpec:
    """Shape of the stem: image channels, channels between its convolutions, first padding."""

    in_channels: int = 3
    middle_channels: int = 64
    padding: int = 0


class RoutingNetwork(RoutedModule):
    """Stem, initial cell and gated cells over a :class:`RoutingSpace`.

    Args:
        space: which cells and edges exist.
        width: C, channels at stride 4; they double with the stride. An even number.
        operations: names from :data:`~dynamic_routing.routing.cells.OPERATIONS`.
        gate: activation, initial bias and size of the gates.
        norm: maker of every norm layer.
        unreached: what happens to nodes that no open edge reaches, a key of ``UNREACHED_RULES``.
        drop_path: p of scheduled drop path at the last layer and the last iteration, in [0, 1).
        stem: shape of the stem.

    Attributes:
        skip_closed: whether training leaves out what no image of the batch opens.

    Raises:
        ValueError: an argument outside these bounds, with its value.

    Example:
        >>> network = RoutingNetwork(RoutingSpace.grid(16), width=64)
        >>> output = network(torch.rand(1, 3, 256, 512))
        >>> output.features[0].shape, output.routes.gates.shape
    """

    progress: Tensor

    def __init__(
        self,
        space: RoutingSpace,
        *,
        width: int = 64,
        operations: Sequence[str] = PUBLISHED_CELL,
        gate: GateSpec | None = None,
        norm: NormFactory = nn.BatchNorm2d,
        unreached: str = "absent",
        drop_path: float = 0.0,
        stem: StemSpec | None = None,
    ) -> None:
        super().__init__()
        if width < 2 or width % 2:
            raise ValueError(f"width must be a positive even number of channels, got {width}")
        if not 0.0 <= drop_path < 1.0:
            raise ValueError(f"drop path probability must be in [0, 1), got {drop_path}")
        self.space = space
        self.width = width
        self.unreached = check_unreached_rule(unreached)
        self.skip_closed = True
        gate = gate or GateSpec()
        stem = stem or StemSpec()
        self.image_channels = stem.in_channels
        self.stem = Stem(
            width,
            norm,
            in_channels=stem.in_channels,
            middle_channels=stem.middle_channels,
            padding=stem.padding,
        )
        make_cell = partial(RoutingCell, operations=operations, gate=gate, norm=norm)
        self.cells = nn.ModuleDict(
            {
                cell_name(node): make_cell(
                    self.channels(node.scale),
                    [edge.kind for edge in space.out_edges(node)],
                    drop_rate=drop_path * (node.layer + 1) / space.num_layers,
                )
                for node in space.nodes
            }
        )
        self._description = {
            "operations": list(operations),
            "activation": gate.activation,
            "small gate": gate.small,
            "stem padding": stem.padding,
        }
        self.register_buffer("progress", torch.zeros(()), persistent=False)

    def description(self) -> dict[str, Any]:
        """What decides results without being a tensor, as plain values for a checkpoint."""
        return {**self._description, "unreached rule": self.unreached}

    def channels(self, scale: int) -> int:
        """Channels of every feature map at ``scale``."""
        return self.width << scale

    def zeros(self, images: Tensor, scale: int) -> Tensor:
        """What stands for an input or output of ``scale`` at which nothing arrived."""
        height, width = (side // (STEM_STRIDE << scale) for side in images.shape[-2:])
        return images.new_zeros(len(images), self.channels(scale), height, width)

    def cell(self, node: Node) -> RoutingCell:
        """The modules of ``node``."""
        return self.cells[cell_name(node)]  # type: ignore[return-value]

    def set_progress(self, fraction: float) -> None:
        """Tell scheduled drop path how much of the training is done, in [0, 1]."""
        if not 0.0 <= fraction <= 1.0:
            raise ValueError(f"training progress must be in [0, 1], got {fraction}")
        self.progress.fill_(fraction)

    def forward(self, images: Tensor) -> RoutingOutput:
        """Route a batch: densely in training mode, sparsely image by image in evaluation mode.

        Args:
            images: (N, in_channels, H, W), H and W multiples of ``space.stride``, N at least 1.

        Raises:
            ValueError: another shape.
        """
        if self.training:
            return self.forward_dense(images)
        return self.forward_sparse(images)

    def forward_sparse(self, images: Tensor) -> RoutingOutput:
        """Run only what each image's gates open; the batch never influences an image."""
        check_images(self.space, images)
        return run_sparse(self, images)

    def forward_dense(self, images: Tensor) -> RoutingOutput:
        """Run every cell for every image and let the gates multiply.

        In training, what is closed for the whole batch is left out unless :attr:`skip_closed` is
        False; the result is the same (see ``training_sparse.py``).
        """
        check_images(self.space, images)
        if may_skip(self, images):
            return run_training(self, images)
        space = self.space
        progress = float(self.progress) if self.training else 0.0
        size = (images.shape[-2], images.shape[-1])
        x = self.stem(images)
        incoming: dict[Node, Tensor] = {INITIAL: x}
        reached = {INITIAL: torch.ones(len(images), dtype=torch.bool, device=images.device)}
        columns, logits = [], []
        for node in space.nodes:
            cell, x, here = self.cell(node), incoming.pop(node), reached[node]
            logits.append(cell.gate.logits(x))
            gates = cell.gate.activate(logits[-1]) * here[:, None]
            columns.append(gates)
            sent = delivers(space, node, gates=gates.detach(), reached=here, rule=self.unreached)
            signals = self._signals(cell, x, gates, here, progress)
            for k, edge in enumerate(space.out_edges(node)):
                add_signal(incoming, edge.target, signals[k])
                _merge(reached, edge.target, sent[:, k])
        routes = Routes(space, torch.cat(columns, 1), self.unreached, size, torch.cat(logits, 1))
        outputs = {s: incoming.get(space.output_node(s)) for s in space.scales}
        features = {s: self.zeros(images, s) if x is None else x for s, x in outputs.items()}
        return RoutingOutput(features, routes)

    def _signals(
        self, cell: RoutingCell, x: Tensor, gates: Tensor, reached: Tensor, progress: float
    ) -> list[Tensor]:
        """What a cell sends along each of its edges, for the whole batch (Eq. 5 to 7)."""
        activated = cell.aggregate(x, progress=progress)
        signals = []
        for k, kind in enumerate(cell.kinds):
            signal = cell.signal(kind, activated, gates[:, k])
            if kind == "keep" and cell.gate.can_close:
                signal = cell.pass_on(x, signal, gates=gates, reached=reached)
            signals.append(signal)
        return signals


def check_images(space: RoutingSpace, images: Tensor) -> None:
    """One clear line for inputs that a space cannot route.

    Raises:
        ValueError: no batch of images, or sides that are no multiples of the coarsest stride.
    """
    stride = space.stride
    if images.ndim != 4 or images.shape[0] == 0:
        raise ValueError(
            f"expected a batch of images (N >= 1, C, H, W), got shape {tuple(images.shape)}"
        )
    height, width = images.shape[-2:]
    if height < stride or width < stride:
        raise ValueError(
            f"an image of {height}x{width} is smaller than the coarsest stride {stride}; "
            f"pad or resize it to at least {stride}x{stride}"
        )
    if height % stride or width % stride:
        raise ValueError(
            f"image height and width must be multiples of {stride}, got {height}x{width}; "
            "pad the image (the Detectron2 backbone does this by itself)"
        )


def cell_name(node: Node) -> str:
    """Name of a node in the state dict: ``initial`` or ``layer_scale``."""
    return "initial" if node == INITIAL else f"{node.layer}_{node.scale}"


def _merge(reached: dict[Node, Tensor], node: Node, sent: Tensor) -> None:
    """A node exists for an image once anything was sent to it."""
    reached[node] = reached[node] | sent if node in reached else sent
