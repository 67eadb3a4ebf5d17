"""Prepared Detectron2 models evaluate as the models they were made from, which stay as they are."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dynamic_routing.modeling import prepare_model
from dynamic_routing.modeling import prepared as prepared_module
from dynamic_routing.modeling.features import FeatureMaps
from dynamic_routing.modeling.neck import ProjectionNeck
from dynamic_routing.modeling.prepared import PreparedProjection
from dynamic_routing.routing import PreparedNetwork, RoutingNetwork, SegmentationDecoder
from dynamic_routing.routing.prepared_decoder import PreparedDecoder
from tests.modeling.builders import FPN_HEAD, PLAIN, PSP, batch, relative_error, small_model
from tests.modeling.detectors import small_detector
from tests.routing.builders import randomise

TOLERANCE = 1e-4


def infer(model: nn.Module, inputs):
    """Outputs in evaluation mode."""
    with torch.no_grad():
        return model.eval()(inputs)


@pytest.mark.parametrize(
    "overrides", [(), PLAIN, PSP, FPN_HEAD], ids=["ours", "plain", "psp", "fpn"]
)
def test_prepared_segmentor_scores_as_the_model(overrides):
    model = small_model(*overrides, seed=4, bias=0.1)
    for node in model.backbone.network.space.nodes:
        model.backbone.network.cell(node).gate.predict.weight.data *= 0.3
    inputs = batch((64, 96), (64, 96), (32, 64), labels=False)
    expected = infer(model, inputs)
    prepared = prepare_model(model)
    assert any(isinstance(m, PreparedNetwork) for m in prepared.modules())
    assert not any(isinstance(m, RoutingNetwork | SegmentationDecoder) for m in prepared.modules())
    for a, b in zip(infer(prepared, inputs), expected, strict=True):
        assert relative_error(a["sem_seg"], b["sem_seg"]) < TOLERANCE
        assert list(a) == list(b)
        if "routes" in b:
            assert torch.equal(a["routes"].open, b["routes"].open)
            assert relative_error(a["routes"].gates, b["routes"].gates) < TOLERANCE


def test_preparing_leaves_the_model_and_shares_no_weights():
    model = small_model(seed=1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    prepared = prepare_model(model.train())
    infer(prepared, batch((64, 64), labels=False))
    assert model.training and isinstance(model.backbone.network, RoutingNetwork)
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())
    own = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    others = {tensor.untyped_storage().data_ptr() for tensor in prepared.state_dict().values()}
    assert not own & others
    assert isinstance(prepared.sem_seg_head.decoder, PreparedDecoder)
    copy.deepcopy(prepared)


def test_model_without_routes_is_returned_as_it_is():
    model = nn.Linear(1, 1)
    assert prepare_model(model) is model


def test_a_copy_does_not_follow_later_training():
    model = small_model(seed=1)
    inputs = batch((64, 64), labels=False)
    prepared = prepare_model(model)
    first = infer(prepared, inputs)[0]["sem_seg"]
    randomise(model, seed=2)
    assert torch.equal(infer(prepared, inputs)[0]["sem_seg"], first)
    anew = infer(prepare_model(model), inputs)[0]["sem_seg"]
    assert not torch.equal(anew, first)


@pytest.mark.parametrize("norm", ["", "BN", "FrozenBN"])
def test_prepared_projection_equals_the_neck_and_skips_what_nothing_reached(norm):
    neck = ProjectionNeck({"p2": 4, "p3": 8}, out_channels=6, norm=norm).eval()
    randomise(neck, seed=0)
    for conv in neck.lateral.values():
        if conv.bias is not None:
            nn.init.normal_(conv.bias)
    prepared = PreparedProjection(neck)
    counts = []
    for here in ([True, True], [False, True], [False, False]):
        reached = {"p2": torch.tensor(here), "p3": torch.tensor([True, True])}
        maps = {"p2": torch.randn(2, 4, 8, 8), "p3": torch.randn(2, 8, 4, 4)}
        maps["p2"] *= reached["p2"][:, None, None, None]
        with torch.no_grad():
            expected = neck(maps)
        with FlopCounterMode(display=False) as counter:
            found = prepared(FeatureMaps(maps, reached))
        counts.append(counter.get_total_flops())
        assert list(found) == list(expected)
        for name, feature in expected.items():
            assert relative_error(found[name], feature) < 1e-6
            assert relative_error(prepared(maps)[name], feature) < 1e-6
    assert counts[0] > counts[1] > counts[2] > 0


def test_evaluation_runs_prepared_models(monkeypatch):
    from detectron2.engine import DefaultTrainer

    from dynamic_routing.engine.trainer import Trainer
    from tests.modeling.builders import small_config

    seen = []
    monkeypatch.setattr(DefaultTrainer, "test", lambda cfg, model, evaluators: seen.append(model))
    model = small_model(seed=1)
    cfg = small_config()
    for _ in range(2):
        Trainer.test(cfg, model, evaluators=[])
    assert all(any(isinstance(m, PreparedNetwork) for m in s.modules()) for s in seen)
    assert seen[0] is not seen[1]  # made anew, since weights change between evaluations


@pytest.mark.parametrize("graphs", [False, True])
def test_evaluation_records_graphs_where_config_and_device_allow(graphs, monkeypatch):
    from detectron2.engine import DefaultTrainer

    from dynamic_routing.engine.trainer import Trainer
    from tests.modeling.builders import small_config

    seen = []
    monkeypatch.setattr(DefaultTrainer, "test", lambda cfg, model, evaluators: seen.append(model))
    model = small_model(seed=1)
    cfg = small_config("MODEL.DYNAMIC_ROUTING.CUDA_GRAPHS", str(graphs))
    Trainer.test(cfg, model, evaluators=[])
    monkeypatch.setattr(prepared_module, "is_on_gpu", lambda model: True)
    Trainer.test(cfg, model, evaluators=[])
    records = [m.backbone.network.graphed is not None for m in seen]
    assert records == [False, graphs]


def test_switch_of_the_config_reaches_the_network():
    key = "MODEL.DYNAMIC_ROUTING.SKIP_CLOSED"
    assert small_model().backbone.network.skip_closed
    assert not small_model(key, "False").backbone.network.skip_closed


def test_prepared_detector_gives_the_feature_maps_of_the_model():
    model = small_detector(seed=3).eval()
    prepared = prepare_model(model)
    assert isinstance(prepared.backbone.neck, PreparedProjection)
    images = torch.rand(2, 3, 64, 128) * 2 - 1
    with torch.no_grad():
        expected = model.backbone(images)
        found = prepared.backbone(images)
    for name, feature in expected.items():
        assert torch.equal(found.reached[name], expected.reached[name])
        assert relative_error(found[name], feature) < TOLERANCE
