"""Stem, operations, transitions and drop path."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dynamic_routing.routing import INITIAL, OPERATIONS, Node, RoutingNetwork, RoutingSpace
from dynamic_routing.routing.cells import Stem, drop_path
from tests.routing.builders import random_images, relative_error, small_network

GRID = RoutingSpace.grid(4)


def dropping_network(probability: float, *, operations: tuple[str, ...]) -> RoutingNetwork:
    """A small float64 network with drop path."""
    network = RoutingNetwork(GRID, width=8, operations=operations, drop_path=probability)
    return network.double().train()


def kept_samples(network: RoutingNetwork, node: Node, *, count: int, progress: float) -> Tensor:
    """(count,) what is left of each sample's operation, relative to the undropped one."""
    cell = network.cell(node)
    torch.manual_seed(1)
    x = torch.rand(1, cell.channels, 4, 4, dtype=torch.float64).expand(count, -1, -1, -1)
    full = cell.aggregate(x).flatten(1)
    dropped = cell.aggregate(x, progress=progress).flatten(1)
    ratios = dropped.sum(dim=1) / full.sum(dim=1)
    assert relative_error(dropped, ratios[:, None] * full) < 1e-9  # one coin a sample
    return ratios


@pytest.mark.parametrize("padding", [0, 1])
def test_stem_gives_exactly_stride_4(padding):
    stem = Stem(4, nn.BatchNorm2d, middle_channels=4, padding=padding).eval().to("meta")
    for height in range(32, 801, 32):
        for width in (96, 1344, 2048):
            images = torch.empty(1, 3, height, width, device="meta")
            assert stem(images).shape == (1, 4, height // 4, width // 4)
    for side in range(4, 133, 4):
        images = torch.empty(1, 3, side, side + 4, device="meta")
        assert stem(images).shape[-2:] == (side // 4, side // 4 + 1)


def test_stem_pads_its_first_convolution_only_when_asked():
    published = small_network(RoutingSpace.grid(1), padding=0, seed=1).stem
    padded = small_network(RoutingSpace.grid(1), padding=1, seed=1).stem
    padded.load_state_dict(published.state_dict())
    images = random_images(1)
    assert relative_error(published(images), padded(images)) > 0.01
    assert published.first.conv.padding == (0, 0) and padded.first.conv.padding == (1, 1)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operation_keeps_shape_and_ends_without_relu(operation):
    module = OPERATIONS[operation](8, nn.BatchNorm2d)
    x = torch.randn(2, 8, 6, 10)
    y = module(x)
    assert y.shape == x.shape
    assert (y < 0).any()


@pytest.mark.parametrize(("kind", "scale"), [("up", 1), ("keep", 1), ("down", 1), ("down", 0)])
def test_transition_changes_channels_and_stride(kind, scale):
    network = small_network()
    cell = network.cell(Node(1, scale))
    y = cell.transmit(kind, torch.rand(2, cell.channels, 8, 6, dtype=torch.float64))
    channels = {"up": cell.channels // 2, "keep": cell.channels, "down": cell.channels * 2}
    size = {"up": (16, 12), "keep": (8, 6), "down": (4, 3)}
    assert y.shape == (2, channels[kind], *size[kind])
    assert (y >= 0).all()


def test_drop_path_is_unbiased_and_drops_whole_samples():
    x = torch.rand(20000, 2, 1, 2) + 1
    y = drop_path(x, 0.7)
    ratio = y / x
    assert torch.equal(ratio.amin(dim=(1, 2, 3)) > 0, ratio.amax(dim=(1, 2, 3)) > 0)
    values = ratio[:, 0, 0, 0]
    assert torch.allclose(values[values > 0], torch.tensor(1 / 0.7))
    assert (values > 0).float().mean().item() == pytest.approx(0.7, abs=0.015)
    assert values.mean().item() == pytest.approx(1.0, abs=0.02)


def test_drop_path_coins_differ_between_samples_and_calls():
    x = torch.ones(64, 1, 1, 1)
    first, second = drop_path(x, 0.5), drop_path(x, 0.5)
    assert not torch.equal(first, second) and len(first.unique()) == 2


@pytest.mark.parametrize("progress", [0.25, 1.0])
@pytest.mark.parametrize("layer", [-1, 0, 1, 2, 3])
def test_drop_path_probability_grows_with_layer_and_progress(layer, progress):
    network = dropping_network(0.4, operations=("avg_pool_3x3",))
    ratios = kept_samples(network, Node(layer, 0), count=5000, progress=progress)
    expected = 1 - (layer + 1) / 4 * progress * 0.4
    assert (ratios > 0.5).double().mean().item() == pytest.approx(expected, abs=0.02)
    assert ratios.mean().item() == pytest.approx(1.0, abs=0.04)
    assert ratios.max().item() == pytest.approx(1 / expected, abs=1e-9)


def test_drop_path_never_drops_the_identity():
    network = dropping_network(0.9, operations=("identity",))
    ratios = kept_samples(network, Node(3, 0), count=500, progress=1.0)
    assert relative_error(ratios, torch.ones_like(ratios)) < 1e-9


def test_drop_path_leaves_the_identity_beside_a_dropped_operation():
    cell = dropping_network(0.9, operations=("avg_pool_3x3", "identity")).cell(Node(3, 0))
    x = torch.rand(1, 8, 4, 4, dtype=torch.float64).expand(200, -1, -1, -1)
    y = cell.aggregate(x, progress=1.0)
    only_identity = [relative_error(row, x[0]) < 1e-9 for row in y]
    assert 150 < sum(only_identity) < 200


def test_drop_path_tosses_a_coin_for_each_operation():
    names = ("avg_pool_3x3", "max_pool_3x3")
    cell = dropping_network(0.5, operations=names).cell(Node(3, 0))
    x = torch.rand(1, 8, 4, 4, dtype=torch.float64).expand(400, -1, -1, -1)
    y = cell.aggregate(x, progress=1.0)
    average, maximum = (2 * operation(x[:1]) for operation in cell.operations)
    outcomes = [torch.zeros_like(average), average, maximum, average + maximum]
    counts = [sum(torch.allclose(row, o[0]) for row in y) for o in outcomes]
    assert sum(counts) == 400 and min(counts) > 60


def test_drop_path_follows_the_progress_of_training():
    network = dropping_network(0.5, operations=("avg_pool_3x3",))
    images = random_images(4)

    def differs() -> bool:
        first, second = (network(images).features[0] for _ in range(2))
        return not torch.equal(first, second)

    assert not differs()  # at iteration 0 nothing is dropped
    network.set_progress(1.0)
    assert differs()
    network.eval()
    assert not differs()
    assert torch.equal(network(images).features[0], network.forward_dense(images).features[0])


def test_drop_path_does_not_touch_evaluation():
    plain = small_network(GRID, seed=4)
    dropping = RoutingNetwork(GRID, width=8, drop_path=0.9, stem=None).double()
    state = {k: v for k, v in plain.state_dict().items() if not k.startswith("stem")}
    dropping.load_state_dict(state, strict=False)
    dropping.stem = plain.stem
    dropping.set_progress(1.0)
    dropping.eval()
    images = random_images(2)
    for run in ("forward", "forward_dense", "forward_sparse"):
        expected, got = getattr(plain, run)(images), getattr(dropping, run)(images)
        assert torch.equal(got.features[0], expected.features[0])
    assert dropping.cell(INITIAL).drop_rate == 0
