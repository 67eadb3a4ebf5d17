"""Sizes of the published networks (Li et al. 2020, Tables 1 to 5)."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dynamic_routing.routing import GateSpec, RoutingNetwork, RoutingSpace
from tests.routing.builders import DETECTION

# The segmentation head, 19 classes: (kernel, in, out) of the decoder's four norm-convs.
DECODER = [(1, 512, 256), (1, 256, 128), (1, 128, 64), (1, 64, 64)]
HEAD = sum(k * k * i * o + 2 * o for k, i, o in DECODER) + 3 * 3 * 64 * 19 + 19

SIXTEEN = RoutingSpace.grid(16)
FIXED = GateSpec("fixed")
ONCE, THRICE = ("sep_conv_3x3", "identity"), ("sep_conv_3x3_x3", "identity")
MB = ("mb_conv_3x3", "identity")


def parameters(space: RoutingSpace, **options) -> int:
    """Parameters of a backbone of width 64."""
    with torch.device("meta"):
        network: nn.Module = RoutingNetwork(space, width=64, **options)
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("space", "options", "millions"),
    [
        pytest.param(SIXTEEN, {}, 17.785, id="16 layers, full gate"),
        pytest.param(SIXTEEN, {"gate": GateSpec(small=True)}, 17.785, id="small gate"),
        pytest.param(SIXTEEN, {"gate": FIXED}, 15.262, id="no gate"),
        pytest.param(RoutingSpace.grid(33), {}, 38.872, id="33 layers"),
        pytest.param(SIXTEEN, {"operations": ONCE}, 12.645, id="SepConv once"),
        pytest.param(SIXTEEN, {"operations": THRICE}, 22.925, id="SepConv three times"),
        pytest.param(SIXTEEN, {"operations": MB}, 48.147, id="MBConv"),
    ],
)
def test_segmentation_networks_have_the_published_size(space, options, millions):
    assert HEAD / 1e6 == pytest.approx(0.188115, abs=1e-9)
    assert round((parameters(space, **options) + HEAD) / 1e6, 3) == millions


def test_detection_backbone_has_the_published_size():
    assert round(parameters(DETECTION) / 1e6, 2) == 22.01


def test_identity_has_no_parameters():
    space = RoutingSpace.grid(2)
    assert parameters(space, operations=("sep_conv_3x3_x2",)) == parameters(space)
