"""The executor gives what the dense definition gives, does what is needed, and leaks nothing."""

from __future__ import annotations

import copy
import gc
import weakref
from collections import Counter
from itertools import product

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from dynamic_routing.analysis.sparsity import closed_paths
from dynamic_routing.routing import (
    OPERATIONS,
    UNREACHED_RULES,
    GateSpec,
    PreparedNetwork,
    Routes,
    RoutingNetwork,
    RoutingSpace,
    prepare_for_inference,
    record_routes,
)
from dynamic_routing.routing import run_image as run_image_module
from dynamic_routing.routing.cost import CostModel
from dynamic_routing.routing.replay import force_routes
from tests.routing.builders import (
    SMALL_DETECTION,
    assert_same,
    close_coarsest,
    close_everything,
    close_initial,
    one_by_one,
    random_images,
    randomise,
    relative_error,
    set_gate_bias,
    small_network,
)

PROMISED = 1e-4
"""Largest relative deviation from the dense definition in float32 (issue 6)."""
BFLOAT16 = 0.1
"""The same in bfloat16 on a few layers, of which the dense definition itself is as far off."""
MOST_OPERATIONS_OPEN = 1400
MOST_OPERATIONS_80 = 350
MOST_READS = 17
ACTIVATIONS = ["max_tanh", "sigmoid", "softmax", "fixed"]


def check(network: RoutingNetwork, images: torch.Tensor, *, tolerance: float = 1e-9) -> Routes:
    """Prepared, both ways of running a batch, against dense; returns the routes."""
    with torch.no_grad():
        expected = network.forward_dense(images)
    prepared = prepare_for_inference(network)
    for grouped in (False, True):
        prepared.grouped = grouped
        found = prepared(images)
        assert_same(found, expected, tolerance=tolerance)
        for scale in network.space.scales:
            reached = expected.routes.output_reached(scale)
            assert torch.equal(found.output_reached(scale), reached)
        assert found.routes.image_size == expected.routes.image_size
        assert found.routes.gates.dtype == expected.routes.gates.dtype
    return expected.routes


@pytest.mark.parametrize("rule", UNREACHED_RULES)
@pytest.mark.parametrize("seed", range(6))
def test_prepared_equals_dense_on_random_routes(rule, seed):
    height, width = [(32, 32), (32, 64), (96, 32), (64, 160)][seed % 4]
    bias = [0.4, -0.1, -0.7][seed % 3]
    network = small_network(unreached=rule, seed=seed, bias=bias, spread=1.5)
    check(network, random_images(3, height, width, seed))


@pytest.mark.parametrize("rule", UNREACHED_RULES)
@pytest.mark.parametrize("close", [close_coarsest, close_initial, close_everything])
def test_prepared_equals_dense_on_extreme_routes(rule, close):
    network = small_network(unreached=rule, seed=1, bias=0.8)
    close(network)
    check(network, random_images())


@pytest.mark.parametrize("rule", UNREACHED_RULES)
@pytest.mark.parametrize(("activation", "small"), list(product(ACTIVATIONS, [False, True])))
def test_prepared_equals_dense_with_every_gate(rule, activation, small):
    spread = 1.0 if activation == "max_tanh" else 3000.0
    gate = GateSpec(activation, small=small)
    network = small_network(gate=gate, unreached=rule, seed=2, spread=spread)
    check(network, random_images(2, 32, 96))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_prepared_equals_dense_with_every_operation(operation):
    for operations in ((operation,), ("identity", operation)):
        network = small_network(RoutingSpace.grid(3), operations=operations, seed=1, bias=0.2)
        check(network, random_images(2, 64, 32))


@pytest.mark.parametrize("rule", UNREACHED_RULES)
@pytest.mark.parametrize("seed", range(3))
def test_prepared_equals_dense_in_other_spaces(rule, seed):
    generator = torch.Generator().manual_seed(seed)
    whole = RoutingSpace.grid(5)
    kept = [e for e in whole.edges if torch.rand((), generator=generator) < 0.75]
    for space in (whole.subspace(kept), SMALL_DETECTION):
        network = small_network(space, unreached=rule, seed=seed, bias=0.2)
        check(network, random_images(2, 64, 128, seed))


def frozen(channels: int) -> nn.Module:
    """torchvision's frozen norm, whose formula is Detectron2's."""
    from torchvision.ops import FrozenBatchNorm2d

    return FrozenBatchNorm2d(channels)


NORMS = {
    "BN": nn.BatchNorm2d,
    "BN without affine": lambda channels: nn.BatchNorm2d(channels, affine=False),
    "BN without statistics": lambda c: nn.BatchNorm2d(c, track_running_stats=False),
    "SyncBN": nn.SyncBatchNorm,
    "FrozenBN": frozen,
    "GN": lambda channels: nn.GroupNorm(2, channels),
}


@pytest.mark.parametrize("norm", NORMS)
def test_prepared_equals_dense_with_every_norm(norm):
    network = RoutingNetwork(RoutingSpace.grid(3), width=8, norm=NORMS[norm])
    generator = torch.Generator().manual_seed(0)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and ".norm." in name:
            tensor.uniform_(0.5, 1.5, generator=generator)
    # Without running statistics a norm looks at its whole batch, which then must be one image.
    count = 1 if norm == "BN without statistics" else 2
    routes = check(network.double().eval(), random_images(count, 64, 64))
    assert routes.open.any()


def test_prepared_equals_dense_in_float32():
    for seed in range(4):
        network = small_network(seed=seed).float()
        for node in network.space.nodes:
            network.cell(node).gate.predict.weight.data *= 0.3  # steep gates amplify rounding
        check(network, random_images(seed=seed).float(), tolerance=PROMISED)


def test_prepared_equals_dense_in_float32_at_full_width():
    network = RoutingNetwork(RoutingSpace.grid(6), width=64, gate=GateSpec(small=True)).eval()
    randomise(network, seed=0, bias=0.5)
    for node in network.space.nodes:
        network.cell(node).gate.predict.weight.data *= 0.1
    check(network, random_images(2, 128, 160).float(), tolerance=PROMISED)


def test_prepared_is_close_to_dense_in_bfloat16():
    network = small_network(RoutingSpace.grid(3), seed=3).float()
    for node in network.space.nodes:
        set_gate_bias(network, node, -1.0 if node.scale == 1 else 1.0)
    images = random_images(2, 64, 64).float()
    exact = network.forward_dense(images)
    prepared = prepare_for_inference(network.bfloat16())
    found = prepared(images.bfloat16())
    assert found.routes.gates.dtype == torch.float32
    for scale, feature in exact.features.items():
        assert found.features[scale].dtype == torch.bfloat16
        assert relative_error(found.features[scale].float(), feature) < BFLOAT16
    with torch.autocast("cpu", torch.bfloat16):
        mixed = prepare_for_inference(network.float())(images)
    assert torch.equal(mixed.routes.open, exact.routes.open)


def test_images_of_a_batch_do_not_influence_each_other():
    network = small_network(seed=5, bias=0.1).float()
    images = random_images(4, 64, 64).float()
    for grouped in (False, True):
        prepared = prepare_for_inference(network, grouped=grouped)
        together = prepared(images)
        assert len(torch.unique(together.routes.open, dim=0)) > 1
        assert_same(together, one_by_one(prepared, images), tolerance=1e-5)


def test_any_size_works_without_preparing_again():
    network = small_network(seed=2)
    prepared = prepare_for_inference(network)
    for height, width in ((32, 32), (160, 64), (32, 96), (32, 32)):
        images = random_images(1, height, width)
        assert_same(prepared(images), network.forward_dense(images))


def test_network_and_images_stay_as_they_are():
    network = small_network(seed=1, bias=0.5).train()
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    prepared = prepare_for_inference(network)
    own = {name: value.clone() for name, value in prepared.state_dict().items()}
    images = random_images()
    before = images.clone()
    first = prepared(images)
    second = prepared(images)
    assert_same(first, second, tolerance=1e-15)
    assert torch.equal(images, before) and network.training
    assert all(torch.equal(weights[n], v) for n, v in network.state_dict().items())
    assert all(torch.equal(own[n], v) for n, v in prepared.state_dict().items())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
    assert_same(prepared(images), first, tolerance=1e-15)  # copies, not views


def test_copies_are_independent_and_record_their_routes():
    prepared = prepare_for_inference(nn.Sequential(small_network(seed=1)))
    other = copy.deepcopy(prepared)
    for buffer in other.buffers():
        buffer.zero_()
    with record_routes(nn.ModuleList([prepared])) as records:
        output = prepared(random_images())
        prepared(random_images(1))
    assert [len(routes) for routes in records] == [3, 1]
    assert records[0] is output.routes and output.routes.open.any()
    assert not any(p.requires_grad for p in prepared.parameters())
    assert isinstance(prepared, PreparedNetwork)


def test_misuse_is_refused_with_one_line():
    with pytest.raises(ValueError, match="expected one RoutingNetwork in Linear, found 0"):
        prepare_for_inference(nn.Linear(1, 1))
    prepared = prepare_for_inference(small_network())
    with pytest.raises(ValueError, match="multiples of 32, got 33x64"):
        prepared(random_images(1, 33, 64))
    with pytest.raises(ValueError, match="only infers"):
        prepared.train()(random_images(1))


# What runs -----------------------------------------------------------------------------------


class Operators(TorchDispatchMode):
    """Counts dispatched operators."""

    def __init__(self):
        super().__init__()
        self.count = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def published():
    """The 16-layer network at a tenth of its width."""
    return RoutingNetwork(RoutingSpace.grid(16), width=8).eval()


def forced_operators(network: RoutingNetwork, share: float, seed: int = 0) -> Counter[str]:
    """Operators of one image with a share of the paths closed."""
    prepared = prepare_for_inference(network)
    gates = closed_paths(network.space, share, generator=torch.Generator().manual_seed(seed))
    routes = Routes(network.space, gates[None], network.unreached, (64, 128))
    force_routes(prepared, routes)
    with Operators() as operators:
        prepared(torch.randn(1, 3, 64, 128))
    return operators.count


def test_dispatched_operators_fall_with_the_route(published):
    assert sum(forced_operators(published, 0.0).values()) <= MOST_OPERATIONS_OPEN
    counts = [sum(forced_operators(published, 0.8, seed).values()) for seed in range(8)]
    assert sorted(counts)[len(counts) // 2] <= MOST_OPERATIONS_80
    assert forced_operators(published, 1.0)["convolution"] < 120  # stem and one gate a layer


def test_host_reads_gates_at_most_once_a_layer(published, monkeypatch):
    reads = []
    tolist = torch.Tensor.tolist

    def counted(tensor):
        reads.append(tensor.shape)
        return tolist(tensor)

    monkeypatch.setattr(torch.Tensor, "tolist", counted)
    for grouped, count in ((False, 1), (True, 3)):
        prepared = prepare_for_inference(published, grouped=grouped)
        reads.clear()
        with Operators() as operators:
            prepared(torch.randn(count, 3, 64, 64))
        assert 0 < len(reads) <= MOST_READS
        assert operators.count["_local_scalar_dense"] == operators.count["item"] == 0
        assert operators.count["nonzero"] == operators.count["is_nonzero"] == 0
    assert run_image_module.read_gates.__doc__


@pytest.mark.parametrize("rule", UNREACHED_RULES)
def test_executed_multiply_adds_are_the_needed_ones(rule):
    seen = set()
    for seed in range(4):
        network = small_network(unreached=rule, seed=seed, bias=0.1)
        cost, images = CostModel(network), random_images(3, 64, 64, seed)
        for grouped in (False, True):
            prepared = prepare_for_inference(network, grouped=grouped)
            with FlopCounterMode(display=False) as counter:
                output = prepared(images)
            needed = float(cost.executed(output.routes).sum())
            assert counter.get_total_flops() / 2 == needed
            seen.add(needed)
    assert len(seen) > 2


def test_memory_is_released_between_images_of_different_size():
    prepared = prepare_for_inference(small_network(bias=0.5))
    buffers = {id(tensor) for tensor in prepared.buffers()}
    kept = []
    # Of a single image the maps are handed on as they are, of several they are copied.
    for height, width, count in ((32, 32, 2), (64, 96, 2), (96, 64, 1)):
        output = prepared(random_images(count, height, width))
        kept += [weakref.ref(x) for x in output.features.values()]
        kept.append(weakref.ref(output.routes.gates))
        del output
    gc.collect()
    assert all(reference() is None for reference in kept)
    assert {id(tensor) for tensor in prepared.buffers()} == buffers
    held = [v for m in prepared.modules() for v in vars(m).values() if isinstance(v, torch.Tensor)]
    assert held == []
