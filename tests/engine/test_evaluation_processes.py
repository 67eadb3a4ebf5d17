"""An evaluation gives the same files on one process, on two and on three, however they share."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model

from dynamic_routing.data.catalog import register_datasets
from dynamic_routing.data.cityscapes import generate_cityscapes
from dynamic_routing.data.coco import generate_coco
from dynamic_routing.engine.trainer import Trainer
from tests.engine.processes import in_processes
from tests.modeling.builders import small_config
from tests.modeling.detectors import MASK, small_detector_config
from tests.routing.builders import randomise

IMAGES = 5  # 3 + 2 on two processes, 2 + 2 + 1 on three
TIMED = ("ms_avg",)
SEGMENTATION = (
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES 19 INPUT.MIN_SIZE_TEST 64 INPUT.MAX_SIZE_TEST 128 "
    "DATALOADER.NUM_WORKERS 0"
).split()
DETECTION = (
    *MASK,
    *"MODEL.ROI_HEADS.NUM_CLASSES 80 MODEL.RETINANET.NUM_CLASSES 80 DATALOADER.NUM_WORKERS 0 "
    "INPUT.MIN_SIZE_TEST 128 INPUT.MAX_SIZE_TEST 160".split(),
)

pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # fork, 3.12


@pytest.fixture(scope="module", autouse=True)
def datasets(tmp_path_factory):
    """Five images each of two generated data sets, under Detectron2's names."""
    folder = tmp_path_factory.mktemp("datasets")
    generate_cityscapes(folder, counts={"train": 1, "val": IMAGES}, size=(64, 128), seed=1)
    generate_coco(folder, counts={"val": IMAGES}, size=(128, 160), seed=2)
    saved = dict(DatasetCatalog.data), dict(MetadataCatalog.data)
    register_datasets(folder)
    yield
    DatasetCatalog.data, MetadataCatalog.data = saved


def evaluated(cfg):
    """Evaluate a network with random routes; what is returned in this process."""
    torch.manual_seed(0)
    model = build_model(cfg)
    randomise(model.backbone.network, seed=1)
    return Trainer.test(cfg, model)


def without_times(results):
    """Results as text, since nan is not nan, without wall times."""
    kept = {
        group: {name: value for name, value in numbers.items() if name not in TIMED}
        for group, numbers in results.items()
    }
    return json.dumps(kept, sort_keys=True)


def gates_of(folder):
    """Every array of the gates file but the wall times."""
    (path,) = (folder / "inference").glob("gates_*.npz")
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored if name != "milliseconds"}


def check(config, tmp_path, *, count, prediction):
    """One process and ``count``: the same results, gates and predictions."""
    found, gates, predictions = [], [], []
    for processes in (1, count):
        folder = tmp_path / str(processes)
        cfg = config("OUTPUT_DIR", str(folder))
        results = in_processes(processes, evaluated, cfg, folder=folder)
        assert not any(results[1:])
        found.append(without_times(results[0]))
        gates.append(gates_of(folder))
        predictions.append((folder / "inference" / prediction).read_bytes())
    assert found[0] == found[1] and predictions[0] == predictions[1]
    assert len(gates[0]["file_names"]) == IMAGES and gates[0].keys() == gates[1].keys()
    assert all(np.array_equal(gates[0][name], gates[1][name]) for name in gates[0])


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_segmentation_does_not_depend_on_the_processes(tmp_path, count):
    def config(*overrides):
        return small_config(*SEGMENTATION, *overrides)

    check(config, tmp_path, count=count, prediction="sem_seg_predictions.json")


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_detection_does_not_depend_on_the_processes(tmp_path, count):
    def config(*overrides):
        return small_detector_config(*DETECTION, *overrides)

    check(config, tmp_path, count=count, prediction="coco_instances_results.json")


def other_statistics(cfg):
    """Processes whose norms saw other images, as batch norms that are not synchronised do."""
    from detectron2.utils import comm

    torch.manual_seed(comm.get_rank())
    model = build_model(cfg)
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(generator=torch.Generator().manual_seed(comm.get_rank()))
    Trainer.test(cfg, model)
    return {n: b.clone() for n, b in model.named_buffers() if n.endswith("running_mean")}


@pytest.mark.slow
def test_every_process_evaluates_with_the_statistics_of_the_main_one(tmp_path):
    cfg = small_config(*SEGMENTATION, "OUTPUT_DIR", str(tmp_path / "run"))
    first, second = in_processes(2, other_statistics, cfg, folder=tmp_path)
    assert first and all(torch.equal(first[name], second[name]) for name in first)
