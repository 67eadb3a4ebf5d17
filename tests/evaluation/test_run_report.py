"""A run's part of the report, from the files that it left."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from dynamic_routing.analysis.report import NotAvailable
from dynamic_routing.evaluation.gates_file import GatesFile, save_gates
from dynamic_routing.evaluation.run_report import by_class, class_metric, run_report
from dynamic_routing.routing import RoutingSpace

SPACE = RoutingSpace.grid(3)
INSTANCES = {
    "bbox": {"AP": 30.0, "AP50": 50.0, "AP-car": 30.0, "AP-cat": float("nan")},
    "segm": {"AP": 20.0, "AP50": 40.0, "AP-car": 20.0, "AP-cat": float("nan")},
    "routing": {"gmacs_avg": 0.5, "images": 2.0},
}
SEGMENTATION = {"sem_seg": {"mIoU": 80.0, "IoU-road": 90.0, "IoU-sky": float("nan")}}


def report(run, results):
    return run_report(
        run,
        title="a run",
        results={"trained": results, "untrained": {}},
        dataset_name="val",
        pictures=(),
        settings={"A": {"B": 1}},
    )


@pytest.fixture
def run(tmp_path):
    gates = GatesFile(
        space=SPACE,
        gates=torch.rand(2, len(SPACE.edges)),
        rule="absent",
        file_names=("a", "b"),
        image_sizes=np.array([[32, 32], [32, 32]]),
        milliseconds=np.ones(2),
        image_ids=(1, 2),
    )
    (tmp_path / "inference").mkdir()
    save_gates(tmp_path / "inference" / "gates_val.npz", gates)
    (tmp_path / "metrics.json").write_text(json.dumps({"iteration": 1, "total_loss": 2.0}))
    return tmp_path


@pytest.mark.parametrize(
    ("results", "metric", "classes"),
    [(INSTANCES, "mask AP", {"car": 20.0}), (SEGMENTATION, "IoU", {"road": 90.0})],
    ids=["instances", "segmentation"],
)
def test_report_shows_the_numbers_of_its_task(run, results, metric, classes):
    found = report(run, results)
    assert found.class_metric == metric and found.per_class["trained"] == classes
    assert found.per_class["untrained"] == {} and found.settings == {"A.B": "1"}
    assert found.statistics.images == 2
    assert found.training.series("total_loss").values == (2.0,)


def test_boxes_count_where_there_are_no_masks():
    assert class_metric({"bbox": INSTANCES["bbox"]}) == ("bbox", "box AP")
    assert class_metric({"routing": {"IoU-road": 1.0}}) == ("", "Metric")
    assert by_class({"routing": {"IoU-road": 1.0}}, "") == {}


def test_what_a_run_did_not_leave_is_named(tmp_path):
    found = report(tmp_path, INSTANCES)
    assert isinstance(found.training, NotAvailable) and "metrics.json" in found.training.reason
    assert isinstance(found.statistics, NotAvailable) and "gates_val" in found.statistics.reason
