"""The executor: routes fast through weights that no longer change.

``RoutingNetwork`` defines the method and trains; :func:`prepare_for_inference` makes a copy of it
that only infers, with norms folded, and that runs a layer at a time:

1. the gates of every cell that exists, whose values the host reads at once (one read a layer);
2. the operations of cells with an open edge, ReLU(H) once for all their edges;
3. the open edges, the gate's factor applied before any upsampling, added up in place.

A node is absent, reached by zeros only, or has data; zeros are made only where something computes
on them. On a CPU the images of a batch run one after the other (``run_image.py``); elsewhere those
that share a cell run there together (``run_grouped.py``). A single image can be run from recorded
CUDA graphs (``run_graphed.py``). Either way an image's result is the one that it has alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dynamic_routing.routing.folding import fold
from dynamic_routing.routing.gates import at_least_float32
from dynamic_routing.routing.network import RoutingNetwork, cell_name, check_images
from dynamic_routing.routing.prepared import PreparedCell, Step, plan
from dynamic_routing.routing.routes import RoutedModule, Routes, RoutingOutput
from dynamic_routing.routing.run_graphed import GraphedRunner
from dynamic_routing.routing.run_grouped import GroupedRun, run_grouped
from dynamic_routing.routing.run_image import ImageRun, run_image
from dynamic_routing.routing.space import STEM_STRIDE, Node
from dynamic_routing.routing.sparse import is_static, is_traced, refuse_tracing


class PreparedNetwork(RoutedModule):
    """A routing network that only infers. Make one with :func:`prepare_for_inference`.

    It holds copies of the weights: train the original and prepare anew.

    Args:
        network: the trained network; it is left as it is.
        grouped: whether the images of a batch that share a cell run there together; None: on
            every device but the CPU, where image by image is faster.
        graphs: whether a batch of one image runs from recorded CUDA graphs. On a CPU the same
            code runs without recording anything, which is slower than without.
    """

    def __init__(
        self, network: RoutingNetwork, *, grouped: bool | None = None, graphs: bool = False
    ) -> None:
        super().__init__()
        self.space = network.space
        self.width = network.width
        self.unreached = network.unreached
        self.image_channels = network.image_channels
        self.grouped = grouped
        self.graphed = GraphedRunner() if graphs else None
        self.static = is_static(network)
        self.stem = fold(network.stem)
        nodes = network.space.nodes
        self.cells = nn.ModuleDict({cell_name(n): PreparedCell(network.cell(n)) for n in nodes})
        self.layers: list[list[Step]] = plan(network.space, self.cell)
        self.eval()

    def cell(self, node: Node) -> PreparedCell:
        """The modules of ``node``."""
        return self.cells[cell_name(node)]  # type: ignore[return-value]

    def channels(self, scale: int) -> int:
        """Channels of every feature map at ``scale``."""
        return self.width << scale

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the weights."""
        return next(self.stem.buffers()).dtype

    @property
    def gate_dtype(self) -> torch.dtype:
        """Data type of the gates."""
        return at_least_float32(self.dtype)

    def zeros(self, images: Tensor, scale: int, count: int) -> Tensor:
        """What stands for ``count`` inputs or outputs of ``scale`` at which nothing arrived."""
        height, width = (side // (STEM_STRIDE << scale) for side in images.shape[-2:])
        shape = (count, self.channels(scale), height, width)
        layout = torch.channels_last
        maps = torch.empty(shape, dtype=self.dtype, device=images.device, memory_format=layout)
        return maps.zero_()

    @torch.no_grad()
    def forward(self, images: Tensor) -> RoutingOutput:
        """Route a batch (N, in_channels, H, W), each image as if it were alone.

        Raises:
            ValueError: another shape, or a network that was put in training mode.
            RuntimeError: it is being traced or exported, which would freeze one route.
        """
        if is_traced() and not self.static:
            refuse_tracing()
        if self.training:
            raise ValueError("a prepared network only infers: train the network it was made from")
        check_images(self.space, images)
        runs = self._runs(images)
        features, present = {}, {}
        for scale in self.space.scales:
            maps = [run.map(scale, self, images) for run in runs]
            features[scale] = maps[0] if len(maps) == 1 else torch.cat(maps)
            present[scale] = tuple(here for run in runs for here in run.present(scale))
        rows = [row for run in runs for row in run.gates]
        gates = torch.tensor(rows, dtype=self.gate_dtype).to(images.device, non_blocking=True)
        size = (images.shape[-2], images.shape[-1])
        return RoutingOutput(features, Routes(self.space, gates, self.unreached, size), present)

    def _runs(self, images: Tensor) -> list[ImageRun] | list[GroupedRun]:
        """The images in the way that suits device and batch."""
        if len(images) == 1 and self._recordable(images):
            assert self.graphed is not None, "nothing records"
            return [self.graphed.run(self, images)]
        grouped = images.device.type != "cpu" if self.grouped is None else self.grouped
        if grouped and len(images) > 1:
            return [run_grouped(self, images)]
        return [run_image(self, images[n : n + 1]) for n in range(len(images))]

    def _recordable(self, images: Tensor) -> bool:
        """Whether to record, and nothing but device tensors decides what kernels compute."""
        if self.graphed is None or self.graphed.failed:
            return False
        if torch.is_autocast_enabled(images.device.type) or is_traced():
            return False
        return all(cell.gate.recordable for cell in self.cells.values())  # type: ignore[union-attr]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PreparedNetwork:
        """Move or convert the weights, which recordings would still look for where they were."""
        if self.graphed is not None:
            self.graphed.clear()
        return super()._apply(fn, recurse)


def prepare_for_inference(
    module: nn.Module, *, grouped: bool | None = None, graphs: bool = False
) -> PreparedNetwork:
    """A copy of a trained network that infers fast and exactly.

    Args:
        module: a :class:`RoutingNetwork`, or a module that contains exactly one.
        grouped: see :class:`PreparedNetwork`.
        graphs: see :class:`PreparedNetwork`.

    Raises:
        ValueError: no routing network, or more than one.

    Example:
        >>> fast = prepare_for_inference(network)
        >>> fast(images).features[0]       # what network.eval()(images).features[0] is
    """
    found = [m for m in module.modules() if isinstance(m, RoutingNetwork)]
    if len(found) != 1:
        raise ValueError(
            f"expected one RoutingNetwork in {type(module).__name__}, found {len(found)}"
        )
    return PreparedNetwork(found[0], grouped=grouped, graphs=graphs)
