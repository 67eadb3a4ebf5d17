"""The network against an independent implementation written from the equations."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dynamic_routing.routing import (
    OPERATIONS,
    UNREACHED_RULES,
    GateSpec,
    RoutingNetwork,
    RoutingOutput,
    RoutingSpace,
)
from tests.routing.builders import DETECTION, random_images, relative_error, small_network
from tests.routing.reference import Reference

GATES = [
    GateSpec("max_tanh"),
    GateSpec("sigmoid"),
    GateSpec("softmax"),
    GateSpec("fixed"),
    GateSpec("max_tanh", small=True),
]
SCALES_16 = [2, 3] + [4] * 14
SCALES_17 = [2, 3] + [4] * 14 + [5]


def triples_of(scales: list[int]) -> set[tuple[int, int, str]]:
    """The published grid, written from its description: targets exist in the next layer."""
    edges = {(-1, 0, "keep"), (-1, 0, "down")}
    for layer, count in enumerate(scales):
        for scale in range(count):
            if layer == len(scales) - 1:
                edges.add((layer, scale, "keep"))
                continue
            targets = {"up": scale - 1, "keep": scale, "down": scale + 1}
            edges |= {(layer, scale, k) for k, t in targets.items() if 0 <= t < scales[layer + 1]}
    return edges


def reference_of(network: RoutingNetwork, **options) -> Reference:
    """The independent implementation with the weights of ``network``."""
    return Reference(network.space.to_edges(), network.state_dict(), **options)


def worst_deviation(output: RoutingOutput, reference: Reference, features: dict) -> float:
    """Largest relative error over the features and the gates."""
    assert output.features.keys() == features.keys()
    errors = [relative_error(output.features[s], features[s]) for s in features]
    columns = [reference.gates[edge] for edge in output.routes.space.to_edges()]
    gates = torch.stack(columns, dim=1)
    assert torch.equal(output.routes.gates > 0, gates > 0)
    return max([*errors, relative_error(output.routes.gates, gates)])


@pytest.mark.parametrize(
    ("space", "scales"), [(RoutingSpace.grid(16), SCALES_16), (DETECTION, SCALES_17)]
)
def test_grid_is_the_described_grid(space, scales):
    assert set(space.to_edges()) == triples_of(scales)


@pytest.mark.parametrize("rule", UNREACHED_RULES)
@pytest.mark.parametrize("seed", range(2))
def test_each_image_alone_follows_the_equations(rule, seed):
    network = small_network(unreached=rule, seed=seed)
    images = random_images(seed=seed)
    for image in images.split(1):
        reference = reference_of(network, rule=rule)
        features = reference.run(image)
        for output in (network(image), network.forward_dense(image)):
            assert worst_deviation(output, reference, features) < 1e-9


@pytest.mark.parametrize("gate", GATES, ids=str)
@pytest.mark.parametrize("rule", UNREACHED_RULES)
def test_every_gate_follows_the_equations(gate, rule):
    network = small_network(gate=gate, unreached=rule, seed=5)
    reference = reference_of(network, rule=rule, activation=gate.activation, small=gate.small)
    images = random_images()
    features = reference.run(images)
    assert worst_deviation(network(images), reference, features) < 1e-9
    assert worst_deviation(network.forward_dense(images), reference, features) < 1e-9


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_follows_the_equations(operation):
    names = (operation, "identity") if operation != "identity" else ("identity",)
    network = small_network(RoutingSpace.grid(3), operations=names, seed=6, bias=0.5)
    reference = reference_of(network, operations=names)
    images = random_images(height=64)
    features = reference.run(images)
    assert worst_deviation(network.forward_dense(images), reference, features) < 1e-9


def test_several_operations_are_summed():
    names = ("sep_conv_3x3", "conv_3x3", "avg_pool_3x3", "identity")
    network = small_network(RoutingSpace.grid(3), operations=names, seed=7)
    reference = reference_of(network, operations=names)
    images = random_images()
    features = reference.run(images)
    assert worst_deviation(network(images), reference, features) < 1e-9


@pytest.mark.parametrize("padding", [0, 1])
def test_stem_follows_the_equations(padding):
    network = small_network(RoutingSpace.grid(1), padding=padding, seed=8)
    reference = reference_of(network, stem_padding=padding)
    images = random_images(height=64, width=96)
    features = reference.run(images)
    assert worst_deviation(network(images), reference, features) < 1e-9


@pytest.mark.parametrize("rule", UNREACHED_RULES)
@pytest.mark.parametrize("seed", range(2))
def test_training_uses_the_statistics_of_the_whole_batch(rule, seed):
    network = small_network(unreached=rule, seed=seed).train()
    images = random_images(4, height=64, seed=seed)
    reference = reference_of(network, rule=rule, batch_statistics=True)
    features = reference.run(images)
    assert worst_deviation(network(images), reference, features) < 1e-9


@pytest.mark.parametrize("gate", GATES, ids=str)
def test_training_follows_the_equations_with_every_gate(gate):
    network = small_network(gate=gate, seed=9).train()
    images = random_images(4, height=64, width=128)
    reference = reference_of(
        network, activation=gate.activation, small=gate.small, batch_statistics=True
    )
    features = reference.run(images)
    assert worst_deviation(network(images), reference, features) < 1e-9


@pytest.mark.parametrize("skip", [False, True])
def test_training_updates_every_norm_once_unless_it_is_skipped(skip):
    network = small_network().train()
    network.skip_closed = skip
    network(random_images(4))
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    updates = [int(norm.num_batches_tracked) for norm in norms]
    assert max(updates) == 1 and min(updates) == (0 if skip else 1)


@pytest.mark.slow
@pytest.mark.parametrize("space", [RoutingSpace.grid(16), DETECTION], ids=["16", "17"])
@pytest.mark.parametrize("rule", UNREACHED_RULES)
def test_published_spaces_follow_the_equations(space, rule):
    network = small_network(space, unreached=rule, seed=3, bias=0.3)
    reference = reference_of(network, rule=rule)
    images = random_images(2, height=64, width=128)
    features = reference.run(images)
    assert worst_deviation(network(images), reference, features) < 1e-9
    assert worst_deviation(network.forward_dense(images), reference, features) < 1e-9
