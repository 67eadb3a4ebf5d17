"""The Detectron2 backbone is the routing network, and its cost model that of the whole model."""

from __future__ import annotations

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dynamic_routing.modeling.cost import RouteCosts, model_cost, routed_network
from dynamic_routing.modeling.features import FeatureMaps
from dynamic_routing.routing import RoutingSpace, record_routes
from tests.modeling.builders import FPN_HEAD, PSP, batch, small_config, small_model

SPACE = "MODEL.DYNAMIC_ROUTING.SPACE"


@pytest.mark.parametrize("train", [False, True])
def test_features_are_those_of_the_network_with_detectron2s_names(train):
    backbone = small_model(seed=1).backbone.train(train)
    images = torch.rand(2, 3, 64, 96)
    features = backbone(images)
    output = backbone.network(images)
    assert isinstance(features, FeatureMaps) and list(features) == ["p2", "p3", "p4", "p5"]
    for scale, name in enumerate(features):
        assert torch.equal(features[name], output.features[scale])
        assert torch.equal(features.reached[name], output.routes.output_reached(scale))


def test_output_shape_is_what_comes_out():
    overrides = (f"{SPACE}.NUM_LAYERS", "5", f"{SPACE}.NUM_OUTPUT_SCALES", "5")
    backbone = build_backbone(small_config(*overrides))
    assert backbone.network.space == RoutingSpace.grid(5, num_output_scales=5)
    assert backbone.size_divisibility == 64
    features = backbone.eval()(torch.rand(1, 3, 64, 128))
    assert list(features) == ["p2", "p3", "p4", "p5", "p6"]
    for name, shape in backbone.output_shape().items():
        assert isinstance(shape, ShapeSpec)
        expected = (1, shape.channels, 64 // shape.stride, 128 // shape.stride)
        assert tuple(features[name].shape) == expected


def test_config_keys_reach_the_network():
    keys = {
        "OPERATIONS": "['mb_conv_3x3']",
        "GATE.ACTIVATION": "sigmoid",
        "GATE.BIAS_INIT": "0.25",
        "GATE.SMALL": "True",
        "UNREACHED": "released",
        "STEM_PADDING": "1",
        "NORM": "GN",
        "WIDTH": "64",
        "DROP_PATH": "0.3",
    }
    pairs = [x for k, v in keys.items() for x in (f"MODEL.DYNAMIC_ROUTING.{k}", v)]
    network = build_backbone(small_config(*pairs)).network
    cell = network.cells["1_1"]
    assert len(cell.operations) == 1 and type(cell.operations[0]).__name__ == "Sequential"
    assert cell.gate.small and cell.gate.activate_with is torch.sigmoid
    assert torch.equal(cell.gate.predict.bias, torch.full((3,), 0.25))
    assert network.unreached == "released" and network.width == 64
    assert network.stem.first.conv.padding == (1, 1)
    assert isinstance(network.stem.first.norm, nn.GroupNorm)
    assert cell.drop_rate == pytest.approx(0.3 * 2 / 3)


def test_backbone_without_one_routing_network_is_refused():
    with pytest.raises(ValueError, match="one routing network.*ModuleList has 0"):
        routed_network(nn.ModuleList())
    network = small_model().backbone.network
    with pytest.raises(ValueError, match="has 2"):
        routed_network(nn.ModuleList([network, small_model().backbone.network]))
    assert routed_network(nn.ModuleList([network])) is network


@torch.no_grad()
@pytest.mark.parametrize("overrides", [(), PSP, FPN_HEAD], ids=["head", "psp", "fpn"])
def test_executed_macs_of_the_whole_model_are_counted_exactly(overrides):
    executed = set()
    for seed in range(2):
        model = small_model(*overrides, seed=seed).eval()
        cost = model_cost(model, convention="macs")
        inputs = batch((64, 96), labels=False)
        with FlopCounterMode(display=False) as counter:
            routes = model(inputs)[0]["routes"]
        assert float(cost.executed(routes)) == counter.get_total_flops() / 2
        executed.add(float(cost.executed(routes)))
    assert len(executed) > 1


def test_route_costs_are_both_conventions_in_units_of_1e9():
    model = small_model(seed=2).eval()
    with record_routes(model.backbone) as records, torch.no_grad():
        model.backbone(torch.rand(3, 3, 64, 64) * 100)
    costs = RouteCosts(model)(records[0])
    assert set(costs) == {"gmacs", "paper_gflops"}
    macs = model_cost(model, convention="macs").executed(records[0])
    assert torch.equal(costs["gmacs"], macs / 1e9) and costs["gmacs"].shape == (3,)
    assert (costs["paper_gflops"] > costs["gmacs"]).all()
