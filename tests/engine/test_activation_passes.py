"""Fresh passes for the clustering: the same gates as an evaluation, and nothing else changes."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from torch import nn

from dynamic_routing.data.catalog import register_datasets
from dynamic_routing.data.cityscapes import generate_cityscapes
from dynamic_routing.divdr.bank import Snapshot
from dynamic_routing.divdr.sources import choose_subset
from dynamic_routing.engine.activation_passes import (
    PassSource,
    backbone_routes,
    build_pass_source,
    evaluation_mode,
    merged,
)
from dynamic_routing.engine.kmeans_hook import build_kmeans_hook
from dynamic_routing.engine.loaders import build_train_loader, count_images
from dynamic_routing.engine.trainer import Trainer
from tests.engine.divdr_training import DIVDR, short_training
from tests.modeling.builders import batch, small_config, small_model

COUNT = 5
CLASSES_OF_STREET = ("MODEL.SEM_SEG_HEAD.NUM_CLASSES", "19")
INPUT = "INPUT.MIN_SIZE_TEST 64 INPUT.MAX_SIZE_TEST 128 DATALOADER.NUM_WORKERS 0".split()


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    """Generated street scenes, registered while this module runs."""
    root = tmp_path_factory.mktemp("datasets")
    generate_cityscapes(root, counts={"train": COUNT, "val": 1}, size=(64, 128), seed=1)
    saved = dict(DatasetCatalog.data), dict(MetadataCatalog.data)
    register_datasets(root)
    yield root
    DatasetCatalog.data, MetadataCatalog.data = saved


def source_of(*overrides):
    options = (f"{DIVDR}NUM_CLUSTERS", "2", f"{DIVDR}SOURCE", "full", *INPUT, *overrides)
    model = small_model(*options, seed=3)
    return build_pass_source(small_config(*options), model, activation_dim=activation_dim())


def activation_dim():
    return small_model().backbone.network.space.activation_dim


def test_pass_delivers_the_gates_of_an_evaluation_and_leaves_the_model_alone():
    model = small_model(seed=3).train()
    model.backbone.eval()  # a mode of its own, which has to come back
    inputs = batch((64, 64), (64, 96), (40, 50), labels=False)
    modes = [module.training for module in model.modules()]
    before = copy.deepcopy(model.state_dict())
    source = PassSource(model, [inputs[:2], inputs[2:]], activation_dim=activation_dim())
    found = source.collect(17)
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules()) and source.bank is None
    assert found.names == ("0/0.png", "0/1.png", "0/2.png") and found.stamps.tolist() == [17] * 3
    model.eval()
    with torch.no_grad():
        outputs = model(inputs[:2]) + model(inputs[2:])
    expected = torch.cat([o["routes"].activations() for o in outputs])
    assert np.array_equal(found.activations, expected.numpy())


def test_pass_runs_no_head():
    model = small_model(seed=3).eval()
    model.sem_seg_head = nn.Identity()  # fails if called as a head
    assert len(backbone_routes(model, batch((64, 64), labels=False))) == 1


def test_batch_of_several_sizes_is_refused():
    with pytest.raises(ValueError, match="images of one padded size, got 2 of several"):
        backbone_routes(small_model().eval(), batch((64, 64), (64, 96), labels=False))


def test_mode_comes_back_after_an_error():
    model = small_model().train()
    with pytest.raises(RuntimeError, match="broken image"), evaluation_mode(model):
        assert not model.backbone.training
        raise RuntimeError("broken image")
    assert all(module.training for module in model.modules())


def test_backbone_that_does_not_route_is_refused():
    model = nn.Module()
    model.backbone = nn.Conv2d(3, 1, 1)
    model.forward = lambda inputs: model.backbone(inputs)
    with pytest.raises(ValueError, match="a pass needs one routed forward, got 0"):
        backbone_routes(model, torch.rand(1, 3, 4, 4))


def test_parts_of_the_processes_are_merged_by_name():
    def part(names, value):
        rows = np.full((len(names), 2), value, dtype=np.float32)
        return Snapshot(tuple(names), rows, np.full(len(names), value))

    found = merged([part(["c", "a"], 0), part([], 1), part(["b", "a"], 2)])
    assert found.names == ("a", "b", "c")
    assert found.activations[:, 0].tolist() == [0, 2, 0] == found.stamps.tolist()


@pytest.mark.parametrize("size", [3, 100])
def test_subset_passes_over_the_images_that_its_seed_chose(street, size):
    source = source_of(f"{DIVDR}SOURCE", "subset", f"{DIVDR}SUBSET_SIZE", str(size))
    records = DatasetCatalog.get("cityscapes_fine_sem_seg_train")
    names = [records[i]["file_name"] for i in choose_subset(COUNT, size, seed=0)]
    assert source.collect(0).names == source.collect(9).names == tuple(sorted(names))


@pytest.mark.parametrize("grouped", ["True", "False"])
def test_training_loader_says_how_many_images_it_draws_from(street, grouped):
    loader = build_train_loader(small_config(*INPUT, "DATALOADER.ASPECT_RATIO_GROUPING", grouped))
    assert count_images(loader) == COUNT
    assert count_images(iter(())) is None


def test_training_with_fewer_images_than_clusters_does_not_start(street, tmp_path):
    many = (*CLASSES_OF_STREET, *INPUT, f"{DIVDR}NUM_CLUSTERS", str(COUNT + 1))
    with pytest.raises(ValueError, match=f"DATASETS.TRAIN has {COUNT}"):
        Trainer(small_config(*many, "OUTPUT_DIR", str(tmp_path)))


def test_training_clusters_on_fresh_passes(street, tmp_path):
    full = (f"{DIVDR}SOURCE", "full", f"{DIVDR}MARGIN", "100", *INPUT, "SOLVER.MAX_ITER", "6")
    trainer = short_training(tmp_path, *full)
    logged = trainer.storage.latest()
    assert logged["divdr/images"] == (COUNT, 5) and logged["divdr/age_mean"] == (0, 5)
    assert trainer.losses[1] == 0 and trainer.losses[-1] > 0 and trainer.loss.sink is None
    assert "bank" not in trainer.hook.state_dict()
    options = (f"{DIVDR}NUM_CLUSTERS", "2", *full)
    assert build_kmeans_hook(small_config(*options), small_model(*options))._source.bank is None
