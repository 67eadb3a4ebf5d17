"""What another prediction changed, against counts by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from dynamic_routing.evaluation.changes import changed_instances, changed_shares
from dynamic_routing.evaluation.predictions import PanopticMap, Prediction


def instances(*boxes, classes=None, scores=None):
    count = len(boxes)
    return Instances(
        (100, 100),
        pred_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
        pred_classes=torch.tensor(classes or [0] * count),
        scores=torch.tensor(scores or [0.9] * count),
    )


A, NEAR_A, B = (0, 0, 10, 10), (0, 0, 10, 9), (50, 50, 80, 80)


def test_instances_without_a_partner_have_changed():
    both = instances(A, B)
    assert changed_instances(both, both) == 0
    assert changed_instances(both, instances(NEAR_A)) == pytest.approx(1 / 3)
    assert changed_instances(both, instances(NEAR_A, B, classes=[1, 0])) == pytest.approx(2 / 4)
    assert changed_instances(both, instances()) == 1 and changed_instances(instances(), both) == 1
    assert changed_instances(instances(), instances()) == 0


def test_one_instance_is_the_partner_of_one_only():
    assert changed_instances(instances(A, NEAR_A), instances(A)) == pytest.approx(1 / 3)


def test_maps_are_compared_by_class():
    own = PanopticMap(np.array([[1, 1, 2, 0]]), [
        {"id": 1, "isthing": True, "category_id": 3},
        {"id": 2, "isthing": False, "category_id": 3},
    ])  # fmt: skip
    other = PanopticMap(np.array([[7, 8, 7, 0]]), [
        {"id": 7, "isthing": True, "category_id": 3},
        {"id": 8, "isthing": True, "category_id": 3},
    ])  # fmt: skip
    labels = np.array([[1, 1], [2, 2]]), np.array([[1, 0], [2, 2]])
    found = changed_shares(Prediction(labels=labels[0], panoptic=own),
                           Prediction(labels=labels[1], panoptic=other))  # fmt: skip
    assert found == {"pixels": 0.25, "panoptic_pixels": 0.25}
    assert changed_shares(Prediction(), Prediction(labels=labels[0])) == {}
