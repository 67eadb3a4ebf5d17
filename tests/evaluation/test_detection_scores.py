"""F1 of each image and the confusion of classes equal counting by hand, box by box."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dynamic_routing.evaluation.detection_scores import Hits
from dynamic_routing.evaluation.image_scores import NOTHING, load_scores
from tests.evaluation.scored import score
from tests.evaluation.tiny_coco import IDS, coco_dataset, instances, noisy_predictions, registered
from tests.evaluation.tiny_coco import rectangle as drawn


def box_iou(a, b):
    """Of [x, y, width, height]."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    return both / (a[2] * a[3] + b[2] * b[3] - both)


def mask_iou(a, b):
    one, other = drawn(a), drawn(b)
    return (one & other).sum() / (one | other).sum()


def detections(output):
    """(score, box, class) of the confident ones, best first."""
    found = output["instances"]
    boxes = found.pred_boxes.tensor.double().numpy().copy()
    boxes[:, 2:] -= boxes[:, :2]
    rows = zip(found.scores.tolist(), boxes.tolist(), found.pred_classes.tolist())
    return sorted((row for row in rows if row[0] >= 0.5), key=lambda row: -row[0])


def matched(objects, found, overlap, *, same_class):
    """Greedy: a detection takes the free object that it overlaps most."""
    free, pairs = list(objects), []
    for _, box, index in found:
        near = [
            (overlap(box, a["bbox"]), a)
            for a in free
            if not same_class or IDS.index(a["category_id"]) == index
        ]
        best = max(near, key=lambda pair: pair[0], default=(0, None))
        if best[0] >= 0.5:
            free.remove(best[1])
            pairs.append((best[1], index))
        else:
            pairs.append((None, index))
    return pairs + [(a, None) for a in free]


def without_crowds(images):
    dataset = coco_dataset(images=images, objects=5)
    for a in dataset["annotations"]:
        a["iscrowd"] = 0
    dataset["annotations"] = [
        a for a in dataset["annotations"] if isinstance(a["segmentation"], list)
    ]
    return dataset


def test_scores_equal_counting_by_hand(tmp_path):
    dataset = without_crowds(8)
    pairs = noisy_predictions(dataset, seed=3)
    with registered(dataset, tmp_path) as name:
        scores = load_scores(score(name, pairs, tmp_path / "out"))
    confusion = np.zeros((5, 5), dtype=int)
    for one_input, output in pairs:
        objects = [a for a in dataset["annotations"] if a["image_id"] == one_input["image_id"]]
        for metric, overlap in (("box_f1", box_iou), ("mask_f1", mask_iou)):
            hits = matched(objects, detections(output), overlap, same_class=True)
            found = sum(a is not None and index is not None for a, index in hits)
            expected = 2 * found / (len(objects) + len(detections(output)))
            (value,) = scores.of(metric, (one_input["file_name"],))
            assert value == pytest.approx(expected), (metric, one_input)
        for truth, index in matched(objects, detections(output), box_iou, same_class=False):
            row = 4 if truth is None else IDS.index(truth["category_id"])
            confusion[row, 4 if index is None else index] += 1
    np.testing.assert_array_equal(scores.confusion, confusion)
    assert scores.classes == ("car", "dog", "bottle", "brush", NOTHING)
    assert 0 < np.nanmean(scores.metrics["mask_f1"]) < 1


def test_crowds_do_not_count(tmp_path):
    dataset = coco_dataset(images=1, objects=1)
    (crowd,) = dataset["annotations"]
    on_crowd = (crowd["bbox"], IDS.index(crowd["category_id"]), 0.9)
    pairs = [({"image_id": 100, "file_name": "0.jpg"}, {"instances": instances([on_crowd])})]
    with registered(dataset, tmp_path) as name:
        scores = load_scores(score(name, pairs, tmp_path / "out"))
    assert math.isnan(scores.metrics["box_f1"][0]) and math.isnan(scores.metrics["mask_f1"][0])
    assert scores.confusion.sum() == 0


@pytest.mark.filterwarnings("ignore:The 'warn' method is deprecated")
def test_model_that_finds_nothing_misses_every_object(tmp_path):
    dataset = coco_dataset(images=3)
    pairs = [
        ({"image_id": i["id"], "file_name": i["file_name"]}, {"instances": instances([])})
        for i in dataset["images"]
    ]
    with registered(dataset, tmp_path) as name:
        scores = load_scores(score(name, pairs, tmp_path / "out"))
    assert scores.metrics["box_f1"].tolist() == [0.0, 0.0, 0.0]
    assert scores.confusion[:, -1].sum() == scores.confusion.sum() == 11  # 12, one a crowd


def test_weak_detections_do_not_count(tmp_path):
    dataset = without_crowds(2)
    pairs = noisy_predictions(dataset)
    for _, output in pairs:
        output["instances"].scores[:] = 0.4
    with registered(dataset, tmp_path) as name:
        scores = load_scores(score(name, pairs, tmp_path / "out"))
    assert scores.metrics["mask_f1"].tolist() == [0.0, 0.0]
    assert scores.confusion[-1].sum() == 0


def test_older_scores_do_not_stay_beside_newer_gates(tmp_path):
    dataset = coco_dataset(images=1)
    with registered(dataset, tmp_path) as name:
        path = score(name, noisy_predictions(dataset), tmp_path / "out")
        assert path.is_file()
        nameless = [({"image_id": 100}, output) for _, output in noisy_predictions(dataset)]
        score(name, nameless, tmp_path / "out")
    assert not path.exists()


def test_nothing_to_find_and_nothing_found_has_no_f1():
    assert math.isnan(Hits().f1) and Hits(found=2, false=1, missed=1).f1 == pytest.approx(2 / 3)
