"""Counting work: closed forms for every layer that counts, and nothing is changed by counting."""

from __future__ import annotations

import copy

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d, get_norm
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dynamic_routing.routing import OPERATIONS, RoutingSpace, SegmentationDecoder
from dynamic_routing.routing.counting import CONVENTIONS, Work, count_work, meta_image
from tests.routing.builders import small_network

C, H, W = 4, 9, 7
AREA = H * W


def conv_area(size, *, kernel, stride, padding, dilation):
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


CONVOLUTIONS = [
    {"out": 6, "kernel": 3, "stride": 1, "padding": 1, "dilation": 1, "groups": 1},
    {"out": 8, "kernel": 3, "stride": 2, "padding": 0, "dilation": 1, "groups": 2},
    {"out": 4, "kernel": 3, "stride": 1, "padding": 2, "dilation": 2, "groups": 4},
    {"out": 12, "kernel": 5, "stride": 2, "padding": 4, "dilation": 2, "groups": 4},
    {"out": 2, "kernel": 1, "stride": 3, "padding": 0, "dilation": 1, "groups": 2},
]


def by_hand(spec):
    """Multiply-adds and output area of a convolution on (C, H, W)."""
    shape = {k: spec[k] for k in ("kernel", "stride", "padding", "dilation")}
    area = conv_area(H, **shape) * conv_area(W, **shape)
    return area * spec["out"] * (C // spec["groups"]) * spec["kernel"] ** 2, area


@pytest.mark.parametrize(
    "spec", CONVOLUTIONS, ids=lambda s: f"{s['kernel']}x, {s['groups']} groups"
)
@pytest.mark.parametrize("bias", [False, True])
def test_convolutions_of_every_shape(spec, bias):
    options = {k: spec[k] for k in ("stride", "padding", "dilation", "groups")}
    module = nn.Conv2d(C, spec["out"], spec["kernel"], bias=bias, **options)
    macs, _ = by_hand(spec)
    assert count_work(module, meta_image(C, H, W)) == Work(macs, 0)
    with FlopCounterMode(display=False) as counter:
        module(torch.zeros(1, C, H, W))
    assert macs == counter.get_total_flops() / 2


@pytest.mark.parametrize(
    "spec", CONVOLUTIONS, ids=lambda s: f"{s['kernel']}x, {s['groups']} groups"
)
@pytest.mark.parametrize(("norm", "per_element"), [("BN", 2), ("FrozenBN", 2), ("GN", 2), ("", 0)])
def test_convolution_of_detectron2_counts_with_its_norm(spec, norm, per_element):
    options = {k: spec[k] for k in ("stride", "padding", "dilation", "groups")}
    out = spec["out"] * 16  # GN has 32 groups
    made = get_norm(norm, out)
    module = Conv2d(C, out, spec["kernel"], bias=False, norm=made, activation=nn.ReLU(), **options)
    macs, area = by_hand({**spec, "out": out})
    assert count_work(module, meta_image(C, H, W)) == Work(macs, area * out * (per_element + 1))


@pytest.mark.parametrize(
    ("norm", "per_element"),
    [
        (nn.BatchNorm2d(C), 2),
        (nn.BatchNorm2d(C, affine=False), 1),
        (nn.SyncBatchNorm(C), 2),
        (FrozenBatchNorm2d(C), 2),
        (nn.GroupNorm(2, C), 2),
        (nn.GroupNorm(2, C, affine=False), 1),
        (get_norm("naiveSyncBN", C), 2),
    ],
    ids=["BN", "BN plain", "SyncBN", "FrozenBN", "GN", "GN plain", "naiveSyncBN"],
)
def test_norms_count_2_an_element_or_1_without_affine(norm, per_element):
    assert count_work(norm, meta_image(C, H, W)) == Work(0, per_element * C * AREA)


def test_linear_relu_and_pool():
    module = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(C, 5))
    assert count_work(module, meta_image(C, H, W)) == Work(C * 5, 2 * C * AREA)
    assert count_work(nn.Linear(6, 5), torch.empty(1, 3, 6, device="meta")) == Work(3 * 6 * 5, 0)


def test_layer_that_runs_twice_counts_twice():
    conv = nn.Conv2d(C, C, 1)
    once = count_work(conv, meta_image(C, H, W))
    assert count_work(nn.Sequential(conv, nn.ReLU(), conv), meta_image(C, H, W)) == Work(
        2 * once.macs, C * AREA
    )


def test_what_computes_nothing_costs_nothing():
    for module in (nn.Identity(), nn.MaxPool2d(2), nn.AvgPool2d(2), nn.Dropout2d()):
        assert count_work(module, meta_image(C, H, W)) == Work()


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_cost_what_pytorch_counts(name):
    module = OPERATIONS[name](8, nn.BatchNorm2d).eval()
    with FlopCounterMode(display=False) as counter:
        module(torch.zeros(1, 8, H, W))
    assert count_work(module, meta_image(8, H, W)).macs == counter.get_total_flops() / 2


def snapshot(module):
    """Everything that counting must leave alone."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {
        "modes": [m.training for m in module.modules()],
        "hooks": [
            (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for m in module.modules()
        ],
        "identities": {k: (id(t), t.device, t.dtype, t.requires_grad) for k, t in tensors.items()},
        "values": {k: t.detach().clone() for k, t in tensors.items()},
    }


@pytest.mark.parametrize("training", [True, False])
def test_counting_leaves_the_module_as_it_was(training):
    network = small_network(RoutingSpace.grid(3)).train(training)
    decoder = SegmentationDecoder([8, 16, 32, 64], 4, norm=nn.BatchNorm2d).train(training)
    features = {s: meta_image(8 << s, 32 >> s, 32 >> s) for s in range(4)}
    for module, inputs in [(network.stem, meta_image(3, 64, 64)), (decoder, features)]:
        module.register_forward_hook(lambda *_: None)
        next(module.parameters()).requires_grad_(False)
        before = snapshot(module)
        first = count_work(module, inputs)
        assert first == count_work(module, inputs) and first.macs > 0
        after = snapshot(module)
        values = before.pop("values"), after.pop("values")
        assert before == after
        assert all(torch.equal(values[0][k], values[1][k]) for k in values[0])


def test_counting_in_training_mode_is_counting_in_evaluation_mode():
    module = nn.Sequential(nn.Conv2d(C, C, 1), nn.BatchNorm2d(C), nn.ReLU())
    plain = count_work(copy.deepcopy(module).eval(), meta_image(C, 1, 1))
    assert count_work(module.train(), meta_image(C, 1, 1)) == plain == Work(C * C, 3 * C)


def test_counting_keeps_no_gradient_graph_and_needs_no_memory():
    huge = nn.Conv2d(C, C, 1).requires_grad_()
    assert count_work(huge, meta_image(C, 100_000, 100_000)).macs == C * C * 10**10
    assert all(p.grad is None for p in huge.parameters())


def test_works_add_and_have_two_prices():
    work = Work(3, 5) + Work(10, 20)
    assert work == Work(13, 25)
    assert [work.cost(convention) for convention in CONVENTIONS] == [13, 38]


@pytest.mark.parametrize("convention", ["flops", "", "MACS"])
def test_unknown_convention_is_refused_with_the_known_ones(convention):
    with pytest.raises(ValueError, match=f"convention '{convention}' is unknown; .*: macs, paper"):
        Work(1, 1).cost(convention)
