"""What the benchmark compares: executor, dense definition, static network, head, ResNet-50-FPN.

The candidates of one level take the same forced route (or, for a trained network, its own), and
each level has copies of its own, so that nothing is switched while the clock runs.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from dynamic_routing.analysis.benchmark import Candidate, count_macs, stored_activations
from dynamic_routing.analysis.sparsity import TrainableGivenGate, closed_cells, closed_paths
from dynamic_routing.routing import (
    GateSpec,
    PreparedNetwork,
    Routes,
    RoutingNetwork,
    RoutingOutput,
    SegmentationDecoder,
    StemSpec,
    prepare_for_inference,
)
from dynamic_routing.routing.cost import CostModel
from dynamic_routing.routing.editing import without_unreached
from dynamic_routing.routing.prepared_decoder import PreparedDecoder
from dynamic_routing.routing.replay import force_routes
from dynamic_routing.routing.subnetworks import common_subgraph, copy_weights

OPEN = "all open"
LEVELS: dict[str, tuple[Callable[..., Tensor], float]] = {
    OPEN: (closed_paths, 0.0),
    "half the cells closed": (closed_cells, 0.5),
    "half the paths closed": (closed_paths, 0.5),
    "80 % of the paths closed": (closed_paths, 0.8),
}
"""Level -> which edges it closes, and the share."""

GRAPHS = "executor, CUDA graphs"
TRAINED = "trained"
DIFFERENT = "80 % closed, different routes"
CANDIDATES = 51
"""Random routes of which a level takes the one of median cost."""
CLASSES = 19
LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Setting:
    """What is compared at.

    Attributes:
        network: the routing network, in evaluation mode; it is copied, never changed.
        images: (N, C, H, W), as many as the largest batch.
        seed: of the random routes.
    """

    network: RoutingNetwork
    images: Tensor
    seed: int = 0

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the images."""
        return self.images.shape[-2], self.images.shape[-1]


def read_images(files: Sequence[Path], size: tuple[int, int], count: int) -> Tensor:
    """(count, 3, H, W), the files in turn, or noise if there are none; zero mean.

    Raises:
        OSError: a file that is no image.
    """
    if not files:
        return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(0))
    import numpy as np
    from PIL import Image

    resized = [Image.open(f).convert("RGB").resize((size[1], size[0])) for f in files]
    pixels = [np.array(image, dtype=np.float32)[:, :, ::-1] - 115.0 for image in resized]
    images = [torch.from_numpy(p.transpose(2, 0, 1).copy()) for p in pixels]
    return torch.stack([images[i % len(images)] for i in range(count)])


def level_routes(setting: Setting, level: str, *, count: int = 1) -> Routes:
    """Routes (count, E) of a level: random ones of median cost that reach an output."""
    close, share = LEVELS[level]
    network = setting.network
    cost = CostModel(network)
    found: list[tuple[float, int, Routes]] = []
    for i in range(CANDIDATES if share else count):
        generator = torch.Generator().manual_seed(1000 * setting.seed + i)
        gates = close(network.space, share, generator=generator)[None]
        routes = without_unreached(Routes(network.space, gates, network.unreached, setting.size))
        if any(bool(routes.output_reached(s)) for s in network.space.scales):
            found.append((float(cost.executed(routes)), i, routes))
    found.sort(key=lambda item: item[:2])
    middle = len(found) // 2 - count // 2
    chosen = [routes for *_, routes in found[middle : middle + count]]
    gates = torch.cat([routes.gates for routes in chosen])
    return Routes(network.space, gates, network.unreached, setting.size)


Network = TypeVar("Network", RoutingNetwork, PreparedNetwork)


def forced_copy(network: Network, routes: Routes | None) -> Network:
    """A copy of a network that always takes the same routes; None: its own."""
    copied = copy.deepcopy(network)
    if routes is not None:
        force_routes(copied, routes, gate_type=TrainableGivenGate)
    return copied


def executors(setting: Setting, level: str, routes: Routes | None, batch: int) -> list[Candidate]:
    """Executor and dense definition on one level; None: the network's own routes.

    On a GPU also the executor from recorded CUDA graphs, which run single images.
    """
    network, images = setting.network, setting.images[:batch]
    lean = forced_copy(prepare_for_inference(network), routes)
    dense = forced_copy(network, routes)

    def run_dense() -> RoutingOutput:
        with torch.no_grad():
            return dense.forward_dense(images)

    with torch.no_grad():
        needed = float(CostModel(network).executed(lean(images).routes).sum())
    found = [
        Candidate("executor", level, batch, needed, lambda: lean(images)),
        Candidate("dense definition", level, batch, count_macs(run_dense), run_dense),
    ]
    if batch == 1 and images.is_cuda:
        graphed = forced_copy(prepare_for_inference(network, graphs=True), routes)
        found.append(Candidate(GRAPHS, level, batch, needed, lambda: graphed(images)))
    return found


def static(setting: Setting, level: str, routes: Routes) -> Candidate:
    """The prepared static network that is cut along one image's route, without gates."""
    network, images = setting.network, setting.images[:1]
    subgraph = common_subgraph(routes)
    cut = RoutingNetwork(
        subgraph.space,
        width=network.width,
        operations=network.description()["operations"],
        gate=GateSpec("fixed"),
        unreached=network.unreached,
        stem=StemSpec(network.image_channels, padding=network.description()["stem padding"]),
    )
    copy_weights(network, cut.eval(), subgraph)
    lean = prepare_for_inference(cut.to(images))
    return Candidate("static", level, 1, count_macs(lambda: lean(images)), lambda: lean(images))


def heads(setting: Setting, level: str, routes: Routes) -> list[Candidate]:
    """The segmentation decoder on one image's features: as defined, and prepared."""
    network, images = setting.network, setting.images[:1]
    channels = [network.channels(s) for s in network.space.scales]
    decoder = SegmentationDecoder(channels, CLASSES, norm=nn.BatchNorm2d)
    decoder = decoder.to(images).eval()
    lean = PreparedDecoder(decoder)
    output = forced_copy(prepare_for_inference(network), routes)(images)
    reached = {s: output.output_reached(s) for s in output.features}

    def run_dense() -> Tensor:
        with torch.no_grad():
            return decoder(output.features, reached)

    def run_lean() -> Tensor:
        return lean(output.features, reached)

    return [
        Candidate("head, lean", level, 1, count_macs(run_lean), run_lean),
        Candidate("head, dense definition", level, 1, count_macs(run_dense), run_dense),
    ]


def resnet(setting: Setting, batch: int, *, lean: bool = False) -> Candidate:
    """torchvision's ResNet-50-FPN as it comes; ``lean``: batch norms, channels-last."""
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    images = setting.images[:batch]
    options = {"norm_layer": nn.BatchNorm2d} if lean else {}
    model = resnet_fpn_backbone(backbone_name="resnet50", weights=None, **options).eval()
    model = model.to(images.device, images.dtype)
    if lean:
        model = model.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)

    def run() -> object:
        with torch.no_grad():
            return model(images)

    name = "ResNet-50-FPN, channels-last" if lean else "ResNet-50-FPN"
    return Candidate(name, OPEN, batch, count_macs(run), run)


def training_steps(
    setting: Setting, level: str, routes: Routes | None, batch: int
) -> list[Candidate]:
    """Forward, backward and SGD step, with and without what is closed for the whole batch."""
    images = setting.images[:batch]
    network = forced_copy(setting.network, routes).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=LEARNING_RATE)

    def forward(skip: bool) -> Tensor:
        network.skip_closed = skip
        output = network(images)
        losses = [f.float().square().mean() for f in output.features.values()]
        return sum(losses, output.routes.gates.mean())

    def step(skip: bool) -> None:
        optimizer.zero_grad()
        forward(skip).backward()
        optimizer.step()

    candidates = []
    for name, skip in (("training step", True), ("training step, dense", False)):
        run = _bound(step, skip)
        candidate = Candidate(name, level, batch, count_macs(run), run)
        candidate.stored_bytes = stored_activations(_bound(forward, skip), network)
        candidates.append(candidate)
    return candidates


def _bound(function: Callable[[bool], object], skip: bool) -> Callable[[], object]:
    """``function`` with its argument, outside the loop that makes several."""
    return lambda: function(skip)


def median_ratio(slow: Candidate, fast: Candidate) -> float:
    """How many times faster ``fast`` is."""
    return statistics.median(slow.seconds) / statistics.median(fast.seconds)


def key_figures(candidates: Sequence[Candidate]) -> dict[str, float]:
    """The ratios that the README quotes, by name; those that were measured."""
    found = {(c.name, c.level, c.batch): c for c in candidates}
    figures = {}
    pairs = (
        ("dense definition", "executor", "dense definition / executor"),
        ("dense definition", GRAPHS, f"dense definition / {GRAPHS}"),
        ("head, dense definition", "head, lean", "head, dense / lean"),
        ("training step, dense", "training step", "training step, dense / skipping"),
    )
    for slow, fast, title in pairs:
        for (name, level, batch), candidate in found.items():
            if name == fast and (slow, level, batch) in found:
                other = found[slow, level, batch]
                figures[f"{title}, {level}, batch {batch}"] = median_ratio(other, candidate)
                if candidate.stored_bytes and other.stored_bytes:
                    share = candidate.stored_bytes / other.stored_bytes
                    figures[f"stored activations, {level}, batch {batch}"] = share
    for (name, level, batch), ours in found.items():
        for rival in ("ResNet-50-FPN", "ResNet-50-FPN, channels-last"):
            theirs = found.get((rival, OPEN, batch))
            if name in ("executor", GRAPHS) and theirs is not None:
                title = f"{rival} / {name}, {level}, batch {batch}"
                faster = median_ratio(theirs, ours)
                figures[title] = faster
                figures[f"{title}, our time per multiply-add / theirs"] = (
                    theirs.macs / ours.macs / faster
                )
    return figures
