from __future__ import annotations

import copy

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch.utils.flop_counter import FlopCounterMode

from dynamic_routing.modeling import get_config
from dynamic_routing.modeling.cost import RouteCosts, backbone_cost, model_cost, routed_network
from dynamic_routing.routing import RoutingSpace
from dynamic_routing.routing.cost import GIGA, count_parameters
from tests.modeling.builders import CONFIGS, relative_error, small_model, weightless
from tests.modeling.detectors import (
    DETECTORS,
    MASK,
    STOCK,
    detection_batch,
    small_detector,
    small_detector_config,
)

every_detector = pytest.mark.parametrize("kind", DETECTORS)
ODD_SIZES = ((70, 131), (64, 64), (129, 65))


def infer(model, inputs):
    with torch.no_grad():
        return model.eval()(copy.deepcopy(inputs))


def step(model, inputs):
    """One training step's losses."""
    torch.manual_seed(0)  # R-CNN samples proposals
    with EventStorage(0):
        losses = model.train()(copy.deepcopy(inputs))
    sum(losses.values()).backward()
    return losses


def published():
    """The 17-layer Faster R-CNN, without memory."""
    cfg = get_config(CONFIGS / "COCO-Detection" / "dr_raw_faster_rcnn_l17_1x.yaml")
    cfg.MODEL.DEVICE = "meta"
    with weightless():
        return build_model(cfg)


def test_published_detection_backbone_has_its_figures():
    model = published()
    network = routed_network(model.backbone)
    assert network.space == RoutingSpace.grid(17, num_output_scales=5)
    assert network.space.activation_dim == 198
    assert round(count_parameters(network) / 1e6, 2) == 22.01
    paper = backbone_cost(model, convention="paper").open_cost(800, 800) / GIGA
    assert round(paper, 2) == 38.34
    shapes = model.backbone.output_shape()
    assert [s.stride for s in shapes.values()] == [4, 8, 16, 32, 64]
    assert {s.channels for s in shapes.values()} == {256}


@every_detector
def test_detector_trains_and_hands_over_routes(kind):
    model = small_detector(*DETECTORS[kind])
    losses = step(model, detection_batch(*ODD_SIZES[:2]))
    assert all(bool(v.isfinite()) for v in losses.values())
    cells = model.backbone.network.cells.named_parameters()
    gates = {name: p.grad for name, p in cells if ".gate." in name}
    unused = {name for name, gradient in gates.items() if gradient is None}
    # RetinaNet has no use for p2, so the cell that makes it learns nothing.
    assert all(kind == "retinanet" and name.startswith("3_0.") for name in unused), unused
    learned = [float(gates[name].abs().sum()) for name in gates.keys() - unused]
    assert learned and max(learned) > 0
    for output in infer(model, detection_batch(*ODD_SIZES, labels=False)):
        assert len(output["routes"]) == 1 and output["milliseconds"] > 0
        assert output["routes"].gates.device.type == "cpu"


@every_detector
def test_unmodified_meta_architecture_runs_on_the_backbone(kind):
    stock = small_detector(*DETECTORS[kind], "MODEL.META_ARCHITECTURE", STOCK[kind])
    routed = small_detector(*DETECTORS[kind], seed=3)
    stock.load_state_dict(routed.state_dict())
    inputs = detection_batch((64, 128), (64, 128))
    a, b = step(stock, inputs), step(routed, inputs)
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    stock.load_state_dict(routed.state_dict())  # running statistics
    for plain, ours in zip(infer(stock, inputs), infer(routed, inputs), strict=True):
        assert set(ours) - set(plain) == {"routes", "milliseconds"}
        assert torch.equal(plain["instances"].scores, ours["instances"].scores)


@every_detector
def test_batch_of_different_sizes_equals_its_images_one_by_one(kind):
    model = small_detector(*DETECTORS[kind], seed=1)
    inputs = detection_batch(*ODD_SIZES, labels=False)
    together = infer(model, inputs)
    for output, inputs_of_one in zip(together, inputs, strict=True):
        alone = infer(model, [inputs_of_one])[0]
        assert torch.equal(output["routes"].gates, alone["routes"].gates)
        assert_same_instances(output["instances"], alone["instances"])


def assert_same_instances(a, b):
    assert len(a) == len(b) and a.image_size == b.image_size
    for name, value in a.get_fields().items():
        other = b.get(name)
        if name == "pred_boxes":
            value, other = value.tensor, other.tensor
        if value.is_floating_point():
            torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-4)
        else:
            assert torch.equal(value, other)


def test_padding_changes_an_image_like_a_black_border_and_in_no_other_way():
    # An unmodified meta-architecture pads to the largest image of the batch. That border (zeros
    # after normalisation) is part of the image: gates average over it and convolutions see it.
    model = small_detector(*MASK, "MODEL.META_ARCHITECTURE", "GeneralizedRCNN", seed=1)
    inputs = detection_batch((64, 64), (128, 192), labels=False)
    mean = model.pixel_mean.expand(3, 128, 192).clone()
    mean[:, :64, :64] = inputs[0]["image"]
    with torch.no_grad():
        model.eval()
        features = model.backbone(model.preprocess_image(inputs).tensor)
        bordered = model.backbone(model.preprocess_image([{"image": mean}]).tensor)
        alone = model.backbone(model.preprocess_image(inputs[:1]).tensor)
    for name, x in features.items():
        assert relative_error(x[:1], bordered[name]) < 1e-5
    # And a border does change something, which is why evaluation pads to the stride alone.
    assert relative_error(features["p2"][:1, :, :16, :16], alone["p2"]) > 1e-3


def test_odd_image_equals_itself_padded_to_the_stride():
    model = small_detector(seed=2).eval()
    image = detection_batch((70, 131), labels=False)[0]["image"]
    padded = model.pixel_mean.expand(3, 128, 192).clone()
    padded[:, :70, :131] = image
    with torch.no_grad():
        inside = model([{"image": image}])[0]["routes"]
        by_hand = model([{"image": padded}])[0]["routes"]
    assert inside.image_size == by_hand.image_size == (128, 192)
    assert torch.equal(inside.gates, by_hand.gates)


@pytest.mark.slow
@every_detector
def test_cost_is_what_ran_up_to_the_heads_that_see_proposals(kind):
    model = small_detector(*DETECTORS[kind], seed=5).eval()
    image = detection_batch((64, 128), labels=False)[0]["image"]
    routes = infer(model, [{"image": image}])[0]["routes"]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        features = model.backbone(image[None] - model.pixel_mean)
        if kind == "retinanet":
            model.head([features[f] for f in model.head_in_features])
        else:
            generator = model.proposal_generator
            generator.rpn_head([features[f] for f in generator.in_features])
        if kind == "panoptic_fpn":
            model.sem_seg_head(features)
    costs = RouteCosts(model)(routes)
    assert float(costs["gmacs"]) == pytest.approx(counter.get_total_flops() / 2 / GIGA, rel=1e-9)
    alone = backbone_cost(model, convention="macs").executed(routes)
    assert float(costs["backbone_gmacs"]) == pytest.approx(float(alone) / GIGA)
    assert float(costs["backbone_gmacs"]) < float(costs["gmacs"])


def test_cost_is_defined_at_sizes_that_are_no_multiple_of_the_stride():
    model = small_detector("MODEL.DYNAMIC_ROUTING.NECK", "top_down")
    costs = model_cost(model, convention="macs")
    assert costs.open_cost(100, 100) > costs.closed_cost(100, 100) > 0


def test_segmentation_weights_fit_the_detection_backbone():
    layers = ("MODEL.DYNAMIC_ROUTING.SPACE.NUM_LAYERS", "4")
    scales = ("MODEL.DYNAMIC_ROUTING.SPACE.NUM_OUTPUT_SCALES", "5")
    segmentation, detector = small_model(*layers, *scales, seed=1), small_detector(*layers)
    weights = segmentation.backbone.state_dict()
    result = detector.backbone.load_state_dict(weights, strict=False)
    assert not result.unexpected_keys
    assert result.missing_keys and all(k.startswith("neck.") for k in result.missing_keys)


def test_wrong_neck_is_one_line():
    with pytest.raises(ValueError, match="NECK 'fpn' is unknown; allowed: projection, top_down"):
        small_detector_config("MODEL.DYNAMIC_ROUTING.NECK", "fpn")
