"""What holds for every network: gates in [0, 1], and three ways of running that agree.

Spaces, rules, gates, operations, sizes, batches, data types and memory formats are drawn at random.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dynamic_routing.routing import (
    INITIAL,
    OPERATIONS,
    UNREACHED_RULES,
    Edge,
    GateSpec,
    Node,
    RoutingSpace,
    prepare_for_inference,
)
from dynamic_routing.routing.gates import ACTIVATIONS, FIXED
from tests.routing.builders import random_images, relative_error, small_network

QUICK_CASES, SLOW_CASES = 12, 400
FLOAT_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
FORMATS = ("contiguous", "channels_last", "slice", "mirrored")


@st.composite
def spaces(draw):
    """A grid, or what is left of it when edges are taken out; a way through stays."""
    grid = RoutingSpace.grid(draw(st.integers(1, 4)), num_scales=draw(st.integers(1, 4)))
    path = {Edge(INITIAL, "keep"), *(Edge(Node(i, 0), "keep") for i in range(grid.num_layers))}
    kept = draw(st.sets(st.sampled_from(grid.edges)))
    return grid.subspace(kept | path) if draw(st.booleans()) else grid


@st.composite
def cases(draw):
    """A network, and images that it can route."""
    space = draw(spaces())
    network = small_network(
        space,
        operations=tuple(draw(st.lists(st.sampled_from(list(OPERATIONS)), min_size=1, max_size=2))),
        gate=GateSpec(draw(st.sampled_from([*ACTIVATIONS, FIXED])), small=draw(st.booleans())),
        unreached=draw(st.sampled_from(sorted(UNREACHED_RULES))),
        seed=draw(st.integers(0, 1000)),
        bias=draw(st.floats(-1, 1)),
        spread=draw(st.sampled_from([0.5, 1.5])),
    )
    sides = [space.stride * draw(st.integers(1, 3)) for _ in range(2)]
    images = random_images(draw(st.integers(1, 4)), *sides, seed=draw(st.integers(0, 1000)))
    dtype = draw(st.sampled_from(list(FLOAT_TOLERANCE)))
    return network.to(dtype), arranged(images.to(dtype), draw(st.sampled_from(FORMATS)))


def arranged(images, form):
    """The same numbers, laid out otherwise in memory."""
    if form == "channels_last":
        return images.contiguous(memory_format=torch.channels_last)
    if form == "slice":
        return torch.stack([images, images], dim=-1)[..., 0]
    if form == "mirrored":
        return images.transpose(2, 3).contiguous().transpose(2, 3)
    return images


def check_agreement(case):
    """Dense, sparse and prepared give the same, and gates lie in [0, 1]."""
    network, images = case
    tolerance = FLOAT_TOLERANCE[images.dtype]
    before = images.clone()
    with torch.no_grad():
        dense = network.forward_dense(images)
    found = {
        "sparse": network.forward_sparse(images),
        "prepared": prepare_for_inference(network)(images),
    }
    assert torch.equal(images, before)
    for name, output in {**found, "dense": dense}.items():
        gates = output.routes.gates
        assert gates.dtype == images.dtype and gates.shape == (
            len(images),
            len(network.space.edges),
        )
        assert ((gates >= 0) & (gates <= 1)).all(), name
        assert relative_error(gates, dense.routes.gates) < tolerance, name
        for scale, feature in dense.features.items():
            assert relative_error(output.features[scale], feature) < tolerance, (name, scale)


@settings(max_examples=QUICK_CASES, suppress_health_check=[HealthCheck.too_slow])
@given(cases())
def test_dense_sparse_and_prepared_agree(case):
    check_agreement(case)


@pytest.mark.slow
@settings(max_examples=SLOW_CASES, suppress_health_check=[HealthCheck.too_slow])
@given(cases())
def test_dense_sparse_and_prepared_agree_in_many_cases(case):
    check_agreement(case)


@settings(max_examples=60)
@given(
    activation=st.sampled_from(list(ACTIVATIONS)),
    logits=st.lists(
        st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=6
    ),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_every_activation_stays_between_0_and_1(activation, logits, dtype):
    gates = ACTIVATIONS[activation](torch.tensor([logits], dtype=dtype))
    assert gates.shape == (1, len(logits)) and gates.dtype == dtype
    assert ((gates >= 0) & (gates <= 1)).all()


@settings(max_examples=15)
@given(
    images=st.sampled_from([1e-30, 1e-3, 1.0, 1e4]),
    dtype=st.sampled_from([torch.bfloat16, torch.float16, torch.float32]),
    small=st.booleans(),
)
def test_gates_stay_between_0_and_1_for_any_scale_and_type_of_input(images, dtype, small):
    """The gate alone, as autocast feeds it: its input in half precision, its weights not."""
    network = small_network(gate=GateSpec(small=small), seed=3).float()
    gate = network.cell(INITIAL).gate
    x = (torch.randn(2, 8, 8, 8) * images).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype != torch.float32):
        gates = gate(x)
    assert gates.dtype == torch.float32 and ((gates >= 0) & (gates <= 1)).all()
