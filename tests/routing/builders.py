"""Small networks with random weights, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from dynamic_routing.routing import (
    INITIAL,
    PUBLISHED_CELL,
    GateSpec,
    Node,
    Routes,
    RoutingNetwork,
    RoutingOutput,
    RoutingSpace,
    StemSpec,
)
from dynamic_routing.routing.gates import SoftGate

Triple = tuple[int, int, str]

DETECTION = RoutingSpace.grid(17, num_output_scales=5)
SMALL_DETECTION = RoutingSpace.grid(5, num_output_scales=5)


def small_network(
    space: RoutingSpace | None = None,
    *,
    operations: Sequence[str] = PUBLISHED_CELL,
    gate: GateSpec | None = None,
    unreached: str = "absent",
    padding: int = 0,
    seed: int = 0,
    bias: float = -0.3,
    spread: float = 1.0,
) -> RoutingNetwork:
    """A float64 network of width 8 in evaluation mode with every weight and statistic random."""
    network = RoutingNetwork(
        space or RoutingSpace.grid(4),
        width=8,
        operations=operations,
        gate=gate,
        unreached=unreached,
        stem=StemSpec(middle_channels=8, padding=padding),
    )
    randomise(network, seed=seed, bias=bias, spread=spread)
    return network.double().eval()


def randomise(network: nn.Module, *, seed: int, bias: float = -0.3, spread: float = 1.0) -> None:
    """Random norms, so that zeros do not stay zeros, and gates that differ between images."""
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor: Tensor, mean: float, deviation: float) -> None:
        tensor.copy_(mean + deviation * torch.randn(tensor.shape, generator=generator))

    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                normal(module.weight, 1.0, 0.2)
                normal(module.bias, 0.1, 0.3)
                normal(module.running_mean, 0.0, 0.2)
                module.running_var.uniform_(0.5, 2.0, generator=generator)
            if isinstance(module, nn.Conv2d):
                fan_in = module.weight[0].numel()
                normal(module.weight, 0.0, (2 / fan_in) ** 0.5)
        for module in network.modules():
            if isinstance(module, SoftGate):
                normal(module.predict.bias, bias, spread)


def set_gate_bias(network: RoutingNetwork, node: Node, value: float) -> None:
    """Make every gate of ``node`` depend on its bias alone."""
    gate = network.cell(node).gate
    assert isinstance(gate, SoftGate)
    nn.init.zeros_(gate.predict.weight)
    nn.init.constant_(gate.predict.bias, value)


def set_edge_bias(network: RoutingNetwork, triple: Triple, value: float) -> None:
    """Add a bias to one gate only, whatever the image."""
    layer, scale, kind = triple
    cell = network.cell(Node(layer, scale))
    assert isinstance(cell.gate, SoftGate)
    column = cell.kinds.index(kind)
    with torch.no_grad():
        cell.gate.predict.weight[column] = 0
        cell.gate.predict.bias[column] = value


def close_everything(network: RoutingNetwork) -> None:
    """Close every gate of every cell, whatever the image."""
    for node in network.space.nodes:
        set_gate_bias(network, node, -3.0)


def close_initial(network: RoutingNetwork) -> None:
    """Close the initial cell, which then hands the stem's result on."""
    set_gate_bias(network, INITIAL, -3.0)


def close_coarsest(network: RoutingNetwork) -> None:
    """Close every edge that leads down to the coarsest scale."""
    coarsest = max(node.scale for node in network.space.nodes)
    for layer, scale, kind in network.space.to_edges():
        if kind == "down" and scale == coarsest - 1:
            set_edge_bias(network, (layer, scale, kind), -3.0)


def random_images(count: int = 3, height: int = 32, width: int = 64, seed: int = 0) -> Tensor:
    """(count, 3, height, width) float64, images of different contrast and mean."""
    generator = torch.Generator().manual_seed(1000 + seed)
    noise = torch.randn(count, 3, height, width, generator=generator, dtype=torch.float64)
    contrast = torch.linspace(0.3, 3.0, count, dtype=torch.float64)[:, None, None, None]
    mean = torch.randn(count, 3, 1, 1, generator=generator, dtype=torch.float64)
    return contrast * noise + mean


def one_by_one(run: Callable[[Tensor], RoutingOutput], images: Tensor) -> RoutingOutput:
    """The outputs of single images, stacked."""
    outputs = [run(image[None]) for image in images]
    first = outputs[0]
    features = {s: torch.cat([o.features[s] for o in outputs]) for s in first.features}
    gates = torch.cat([o.routes.gates for o in outputs])
    routes = first.routes
    return RoutingOutput(features, Routes(routes.space, gates, routes.rule, routes.image_size))


def relative_error(a: Tensor, b: Tensor) -> float:
    """Largest deviation relative to the largest magnitude of ``b``."""
    assert a.shape == b.shape, (a.shape, b.shape)
    assert torch.isfinite(a).all() and torch.isfinite(b).all()
    scale = b.abs().max().item() or 1.0
    return (a - b).abs().max().item() / scale


def assert_same(a: RoutingOutput, b: RoutingOutput, *, tolerance: float = 1e-9) -> None:
    """Equal features and gates, relative to the largest entry."""
    assert a.features.keys() == b.features.keys()
    for scale, feature in b.features.items():
        assert relative_error(a.features[scale], feature) < tolerance, scale
    assert relative_error(a.routes.gates, b.routes.gates) < tolerance
    assert torch.equal(a.routes.open, b.routes.open)
    assert torch.equal(a.routes.reached, b.routes.reached)
