"""Every ValueError of the core says what was wrong, with the value."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from dynamic_routing.routing import (
    Edge,
    GateSpec,
    Node,
    Routes,
    RoutingNetwork,
    RoutingSpace,
    StemSpec,
)
from dynamic_routing.routing.cells import bottleneck, build_operations
from tests.routing.builders import small_network

GRID = RoutingSpace.grid(3)
NETWORK = small_network(GRID)
SPACES = {
    "no layer": (partial(RoutingSpace, 0, ()), "at least 1 layer, got 0"),
    "no edge": (partial(RoutingSpace, 1, ()), "no output .* can be reached"),
    "edge twice": (partial(RoutingSpace, 3, GRID.edges + GRID.edges[:1]), "lists an edge twice"),
    "grid without layers": (
        partial(RoutingSpace.grid, 0),
        "at least 1 layer and 1 scale, got 0 and 4",
    ),
    "grid without scales": (
        partial(RoutingSpace.grid, 2, num_scales=0),
        "at least 1 layer and 1 scale, got 2 and 0",
    ),
    "too many outputs": (
        partial(RoutingSpace.grid, 4, num_output_scales=6),
        "6 output scales cannot be reached in 4 layers .* allowed: 1 to 5",
    ),
    "too many outputs of one layer": (
        partial(RoutingSpace.grid, 1, num_output_scales=3),
        "3 output scales cannot be reached .* allowed: 1 to 2",
    ),
    "no outputs": (partial(RoutingSpace.grid, 4, num_output_scales=0), "0 output scales"),
    "scales of no layer": (partial(RoutingSpace.from_scales, []), "at least 1 layer, got 0"),
    "unreachable output": (
        partial(RoutingSpace.from_scales, [1, 3]),
        "output at layer 1, 1/16 cannot be reached",
    ),
    "empty last layer": (partial(RoutingSpace.from_scales, [2, 0]), "no output .* can be reached"),
    "no edges": (partial(RoutingSpace.from_edges, []), "needs edges, got none"),
    "too short": (partial(RoutingSpace.from_edges, [(0, 1)]), r"is \[layer, scale, kind\], got"),
    "too long": (partial(RoutingSpace.from_edges, [(0, 1, "up", 2)]), r"got \(0, 1, 'up', 2\)"),
    "no triple": (partial(RoutingSpace.from_edges, [7]), "got 7"),
    "unknown kind": (
        partial(RoutingSpace.from_edges, [(-1, 0, "left")]),
        "'left' is unknown; allowed: up, keep, down",
    ),
    "up from 1/4": (
        partial(RoutingSpace.from_edges, [(-1, 0, "keep"), (0, 0, "up"), (1, 0, "keep")]),
        "up edge of layer 0, 1/4 leaves a space of 2 layers",
    ),
    "before the initial cell": (
        partial(RoutingSpace.from_edges, [(-2, 0, "keep"), (0, 0, "keep")]),
        "leaves a space of 1 layers",
    ),
    "second initial cell": (
        partial(RoutingSpace.from_edges, [(-1, 1, "keep"), (0, 1, "keep")]),
        "keep edge of layer -1, 1/8 leaves",
    ),
    "past the last layer": (
        partial(RoutingSpace, 1, (Edge(Node(-1, 0), "keep"), Edge(Node(4, 0), "keep"))),
        "keep edge of layer 4, 1/4 leaves a space of 1 layers",
    ),
    "last layer goes down": (
        partial(RoutingSpace.from_edges, [(-1, 0, "keep"), (0, 0, "down")]),
        "leaves the last layer, whose cells only keep",
    ),
    "unreachable cell": (
        partial(
            RoutingSpace.from_edges,
            [(-1, 0, "keep"), (0, 0, "keep"), (0, 1, "up"), (1, 0, "keep")],
        ),
        "cell at layer 0, 1/8 cannot be reached",
    ),
    "dead end": (
        partial(
            RoutingSpace.from_edges,
            [(-1, 0, "keep"), (-1, 0, "down"), (0, 0, "keep"), (1, 0, "keep")],
        ),
        r"down edge of layer -1, 1/4 leads to no output \(a dead end\)",
    ),
    "foreign edge": (
        partial(GRID.subspace, [Edge(Node(7, 0), "keep")]),
        "keep edge of layer 7, 1/4 is not part of this space",
    ),
    "nothing left": (partial(GRID.subspace, GRID.edges[:2]), "no output .* can be reached"),
}
IMAGES = {
    "too low": ((1, 3, 16, 64), "image of 16x64 is smaller than the coarsest stride 32"),
    "too narrow": ((1, 3, 64, 31), "64x31 is smaller .* at least 32x32"),
    "height no multiple": ((1, 3, 40, 64), "multiples of 32, got 40x64"),
    "width no multiple": ((1, 3, 64, 65), "multiples of 32, got 64x65"),
    "no image": ((0, 3, 32, 32), r"N >= 1, C, H, W\), got shape \(0, 3, 32, 32\)"),
    "no batch": ((3, 32, 32), r"got shape \(3, 32, 32\)"),
}


@pytest.mark.parametrize("case", SPACES)
def test_space_refuses(case):
    build, message = SPACES[case]
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    "bad", [(None, 0, "keep"), (0, [], "keep"), ("a", 0, "keep"), (0.5, 0, "keep")], ids=str
)
def test_space_refuses_layers_and_scales_that_are_no_whole_numbers(bad):
    with pytest.raises(ValueError, match=r"\[layer, scale, kind\], got"):
        RoutingSpace.from_edges([(-1, 0, "keep"), bad])


@pytest.mark.parametrize("mode", ["training", "sparse", "dense"])
@pytest.mark.parametrize("case", IMAGES)
def test_network_refuses_images(case, mode):
    shape, message = IMAGES[case]
    network = NETWORK.train(mode == "training")
    run = network.forward_dense if mode == "dense" else network
    with pytest.raises(ValueError, match=message):
        run(torch.zeros(shape, dtype=torch.float64))


@pytest.mark.parametrize("width", [0, 1, 7, -4])
def test_network_refuses_width(width):
    with pytest.raises(ValueError, match=f"positive even number of channels, got {width}"):
        RoutingNetwork(GRID, width=width)


@pytest.mark.parametrize("value", [-0.1, 1.0, 2.0, float("nan")])
def test_network_refuses_drop_path(value):
    with pytest.raises(ValueError, match=rf"must be in \[0, 1\), got {value}"):
        RoutingNetwork(GRID, width=8, drop_path=value)


@pytest.mark.parametrize("value", [-0.01, 1.01, float("nan")])
def test_network_refuses_progress(value):
    with pytest.raises(ValueError, match=rf"progress must be in \[0, 1\], got {value}"):
        NETWORK.set_progress(value)


@pytest.mark.parametrize("padding", [-1, 2])
def test_network_refuses_stem_padding(padding):
    with pytest.raises(ValueError, match=f"stem padding must be 0 or 1, got {padding}"):
        RoutingNetwork(GRID, width=8, stem=StemSpec(padding=padding))


def test_network_refuses_unreached_rule():
    with pytest.raises(ValueError, match="'gone' is unknown; allowed: absent, released"):
        RoutingNetwork(GRID, width=8, unreached="gone")


def test_network_refuses_operations():
    with pytest.raises(ValueError, match="'conv_9x9' is unknown; allowed: .*identity"):
        RoutingNetwork(GRID, width=8, operations=("identity", "conv_9x9"))
    with pytest.raises(ValueError, match="at least one operation"):
        RoutingNetwork(GRID, width=8, operations=())
    with pytest.raises(ValueError, match="unknown"):
        build_operations(["none"], 8, nn.BatchNorm2d)


def test_bottleneck_refuses_channels():
    with pytest.raises(ValueError, match="divisible by 4, got 6"):
        bottleneck(6, nn.BatchNorm2d)
    with pytest.raises(ValueError, match="divisible by 4, got 2"):
        RoutingNetwork(GRID, width=2, operations=("bottleneck",))


def test_gate_refuses_activation():
    with pytest.raises(ValueError, match="'relu' is unknown; allowed: max_tanh.*fixed"):
        GateSpec("relu")


def test_routes_refuse_shape_and_rule():
    edges = len(GRID.edges)
    with pytest.raises(ValueError, match=rf"\(N, {edges}\) in this space, got \(2, 3\)"):
        Routes(GRID, torch.zeros(2, 3), "absent", (32, 32))
    with pytest.raises(ValueError, match=rf"got \({edges},\)"):
        Routes(GRID, torch.zeros(edges), "absent", (32, 32))
    with pytest.raises(ValueError, match="'none' is unknown; allowed: absent, released"):
        Routes(GRID, torch.zeros(2, edges), "none", (32, 32))
