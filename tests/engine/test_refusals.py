"""What would silently be ignored or scored at random is refused."""

from __future__ import annotations

import json

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from dynamic_routing.data.checks import DatasetError
from dynamic_routing.engine.checkpoint import CheckpointError, RoutingCheckpointer
from dynamic_routing.engine.hooks import BEST, BestCheckpoint
from dynamic_routing.engine.loaders import check_classes
from dynamic_routing.engine.model_checks import check_budget_applies
from dynamic_routing.modeling.cost import model_cost
from tests.modeling.builders import CLASSES, FPN_HEAD, PLAIN, PSP, small_config, small_model

NODE = "MODEL.DYNAMIC_ROUTING."
GATE = NODE + "GATE."


def stored(folder, *overrides):
    """The checkpoint of a small model."""
    RoutingCheckpointer(small_model(*overrides, seed=1), str(folder)).save("model")
    return str(folder / "model.pth")


def load(path, *overrides, strict):
    RoutingCheckpointer(small_model(*overrides), strict=strict).load(path)


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        ((GATE + "ACTIVATION", "fixed"), ()),
        ((), PSP),
        ((), FPN_HEAD),
        ((), ("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 7)),
    ],
    ids=["gates", "pooling", "head", "classes"],
)
def test_evaluation_needs_every_tensor_where_training_may_start_anew(tmp_path, made, wanted):
    path = stored(tmp_path, *made)
    with pytest.raises(CheckpointError):
        load(path, *wanted, strict=True)
    load(path, *wanted, strict=False)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        (NODE + "UNREACHED", "released", "unreached rule absent, the config says released"),
        (NODE + "STEM_PADDING", "1", "stem padding 0, the config says 1"),
        (NODE + "OPERATIONS", "['sep_conv_3x3_x2', 'max_pool_3x3']", "made with operations"),
    ],
)
@pytest.mark.parametrize("strict", [False, True])
def test_rules_that_no_tensor_shows_are_part_of_a_checkpoint(tmp_path, key, value, said, strict):
    path = stored(tmp_path)
    with pytest.raises(CheckpointError, match=said):
        load(path, key, value, strict=strict)


@pytest.mark.parametrize(("key", "value"), [("ACTIVATION", "sigmoid"), ("SMALL", "True")])
def test_gates_may_differ_for_a_new_training_only(tmp_path, key, value):
    path = stored(tmp_path)
    load(path, GATE + key, value, strict=False)
    with pytest.raises(CheckpointError, match="the config says"):
        load(path, GATE + key, value, strict=True)


@pytest.fixture
def two_classes():
    name = "refusals_two_classes"
    DatasetCatalog.register(name, list)
    MetadataCatalog.get(name).set(stuff_classes=["a", "b"], ignore_label=254)
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def test_classes_and_ignored_label_are_those_of_the_data(two_classes):
    key = "MODEL.SEM_SEG_HEAD."
    with pytest.raises(DatasetError, match=f"has 2 classes, .* is {CLASSES}"):
        check_classes(small_config(), two_classes)
    with pytest.raises(DatasetError, match="ignores label 254, .* is 255"):
        check_classes(small_config(key + "NUM_CLASSES", 2), two_classes)
    check_classes(small_config(key + "NUM_CLASSES", 2, key + "IGNORE_VALUE", 254), two_classes)


@pytest.mark.parametrize("key", ["LAMBDA", "TARGET_GMACS"])
def test_budget_on_a_model_without_one_is_refused(key):
    off = (NODE + "BUDGET.LAMBDA", 0)
    plain = small_config(*off, *PLAIN)
    check_budget_applies(plain, small_model(*off, *PLAIN))
    cfg = small_config(*PLAIN, *off, NODE + "BUDGET." + key, 0.5)
    with pytest.raises(ValueError, match="SemanticSegmentor has no budget"):
        check_budget_applies(cfg, small_model(*off, *PLAIN))


@pytest.mark.parametrize(("activation", "closes"), [("max_tanh", True), ("softmax", False)])
def test_floor_is_the_ceiling_where_gates_cannot_close(activation, closes):
    cost = model_cost(small_model(GATE + "ACTIVATION", activation), convention="macs")
    assert (cost.closed_cost(64, 64) < cost.open_cost(64, 64)) == closes


def test_resumed_best_metric_is_that_of_the_best_file(tmp_path):
    checkpointer = RoutingCheckpointer(small_model(), str(tmp_path))
    hook = BestCheckpoint(checkpointer, metric="a/b", period=1)
    hook.load_state_dict({"best": 0.25})
    assert hook.state_dict() == {"best": 0.25}
    checkpointer.save(BEST, tag=False, metric=0.5)
    hook.load_state_dict({"best": 0.25})
    assert hook.state_dict() == {"best": 0.5}


def test_description_is_plain_data():
    description = small_model().backbone.network.description()
    assert json.loads(json.dumps(description)) == description
    assert not any(isinstance(value, torch.Tensor) for value in description.values())
