"""AP is pycocotools' on the written file, and nothing that a model delivers stops it."""

import contextlib
import io
import json
import logging
import math

import pytest
import torch
from detectron2.evaluation import DatasetEvaluators
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dynamic_routing.evaluation.build import build_evaluator
from dynamic_routing.evaluation.coco import build_coco_evaluators
from dynamic_routing.routing import Routes, RoutingSpace
from tests.evaluation.tiny_coco import (
    annotation,
    coco_dataset,
    instances,
    noisy_predictions,
    registered,
)

METRICS = ["AP", "AP50", "AP75", "APs", "APm", "APl"]
empty_logger_call = pytest.mark.filterwarnings("ignore:The 'warn' method is deprecated")


def evaluate(name, pairs, folder=None, **options):
    evaluator = DatasetEvaluators(build_coco_evaluators(name, folder, **options))
    evaluator.reset()
    for one_input, output in pairs:
        evaluator.process([one_input], [output])
    with contextlib.redirect_stdout(io.StringIO()):
        return evaluator.evaluate()


def by_hand(annotations, results, task):
    """COCOeval as its demo runs it; for masks without the boxes, whose area would be taken."""
    truth = COCO(str(annotations))
    predictions = json.loads(results.read_text())
    if task == "segm":
        predictions = [{k: v for k, v in p.items() if k != "bbox"} for p in predictions]
    scores = COCOeval(truth, truth.loadRes(predictions), task)
    scores.evaluate()
    scores.accumulate()
    scores.summarize()
    return scores


def test_ap_equals_pycocotools_on_the_written_file(tmp_path):
    dataset = coco_dataset(images=12)
    with registered(dataset, tmp_path / "data") as name:
        results = evaluate(name, noisy_predictions(dataset), tmp_path / "out")
        for task in ("bbox", "segm"):
            with contextlib.redirect_stdout(io.StringIO()):
                scores = by_hand(
                    tmp_path / "data" / "instances.json",
                    tmp_path / "out" / "coco_instances_results.json",
                    task,
                )
            assert 5 < results[task]["AP"] < 95
            for i, metric in enumerate(METRICS):
                expected = 100 * scores.stats[i] if scores.stats[i] >= 0 else math.nan
                assert results[task][metric] == pytest.approx(expected, abs=1e-9, nan_ok=True)
            for i, category in enumerate(dataset["categories"]):
                precision = scores.eval["precision"][:, :, i, 0, -1]
                expected = 100 * precision.mean() if (precision > -1).all() else math.nan
                found = results[task][f"AP-{category['name']}"]
                assert found == pytest.approx(expected, abs=1e-9, nan_ok=True)
            assert math.isnan(results[task]["AP-brush"])


def test_perfect_predictions_have_ap_100(tmp_path):
    dataset = coco_dataset()
    pairs = []
    for image in dataset["images"]:
        truths = [a for a in dataset["annotations"] if a["image_id"] == image["id"]]
        ids = [category["id"] for category in dataset["categories"]]
        found = instances([(a["bbox"], ids.index(a["category_id"]), 0.9) for a in truths])
        pairs.append(({"image_id": image["id"]}, {"instances": found}))
    with registered(dataset, tmp_path) as name:
        results = evaluate(name, pairs)
    assert results["bbox"]["AP"] == pytest.approx(100)
    assert results["segm"]["AP"] == pytest.approx(100)


def test_boxes_alone_give_no_mask_ap(tmp_path):
    dataset = coco_dataset()
    with registered(dataset, tmp_path) as name:
        assert set(evaluate(name, noisy_predictions(dataset, masks=False))) == {"bbox"}


@empty_logger_call
def test_model_that_finds_nothing_is_told_so_and_has_nan(tmp_path, caplog):
    dataset = coco_dataset()
    pairs = [({"image_id": i["id"]}, {"instances": instances([])}) for i in dataset["images"]]
    with registered(dataset, tmp_path) as name, caplog.at_level(logging.WARNING):
        results = evaluate(name, pairs, tmp_path / "out")
    assert "the model predicted nothing" in caplog.text
    assert set(results) == {"bbox", "segm"} and math.isnan(results["segm"]["AP"])
    assert (tmp_path / "out" / "class_table.json").is_file()


def test_strange_images_and_classes_are_named_and_left_out(tmp_path, caplog):
    dataset = coco_dataset()
    pairs = noisy_predictions(dataset)
    extra = instances([([1, 1, 9, 9], 0, 0.9), ([1, 1, 9, 9], 70, 0.9)])
    with registered(dataset, tmp_path) as name:
        plain = evaluate(name, pairs)
        strange = [({"image_id": 5}, {"instances": extra[:1]})]
        strange += [({"image_id": 101}, {"instances": extra[1:]})]
        with caplog.at_level(logging.WARNING):
            results = evaluate(name, pairs + strange)
    assert "their image_id is not in the annotation file (5)" in caplog.text
    assert "their category_id is not in the annotation file (class index 70)" in caplog.text
    for task in plain:
        assert results[task] == pytest.approx(plain[task], nan_ok=True)


@empty_logger_call
def test_predictions_of_another_split_give_nan_and_a_reason(tmp_path, caplog):
    dataset = coco_dataset()
    pairs = [({"image_id": e["image_id"] + 500}, out) for e, out in noisy_predictions(dataset)]
    with registered(dataset, tmp_path) as name, caplog.at_level(logging.WARNING):
        results = evaluate(name, pairs)
    assert "predictions are left out, their image_id" in caplog.text
    assert math.isnan(results["bbox"]["AP"])


def test_split_without_annotations_only_writes_results(tmp_path):
    dataset = coco_dataset()
    pairs = noisy_predictions(dataset)
    with registered(dataset, tmp_path) as name:
        content = json.loads((tmp_path / "instances.json").read_text())
        del content["annotations"]
        (tmp_path / "instances.json").write_text(json.dumps(content))
        assert evaluate(name, pairs, tmp_path / "out") == {}
    stored = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    assert len(stored) == sum(len(output["instances"]) for _, output in pairs)


def test_keypoints_are_scored_with_the_configs_sigmas(tmp_path):
    dataset = coco_dataset(images=2)
    dataset["annotations"] = []
    dataset["categories"] = [{"id": 1, "name": "person", "keypoints": ["a", "b"], "skeleton": []}]
    points = [[10.0, 10.0, 2], [40.0, 30.0, 2]]
    for number, image in enumerate(dataset["images"]):
        truth = annotation(number, image["id"], 1, [5, 5, 45, 40])
        truth |= {"keypoints": sum(points, []), "num_keypoints": 2}
        dataset["annotations"].append(truth)

    def ap(shift, sigma):
        pairs = []
        for image in dataset["images"]:
            found = instances([([5, 5, 45, 40], 0, 0.9)], masks=False)
            found.pred_keypoints = torch.tensor([points]) + torch.tensor([shift + 0.5, 0.5, 0.0])
            pairs.append(({"image_id": image["id"]}, {"instances": found}))
        return evaluate(name, pairs, keypoint_sigmas=[sigma] * 2)["keypoints"]["AP"]

    with registered(dataset, tmp_path) as name:
        assert ap(0.0, 0.05) == pytest.approx(100)
        assert ap(6.0, 0.05) < ap(6.0, 0.2)


def test_routing_figures_stand_beside_ap(tmp_path):
    dataset = coco_dataset(images=2)
    space = RoutingSpace.grid(3, num_scales=2)
    with registered(dataset, tmp_path) as name:
        evaluator = build_evaluator(name, tmp_path, routed=True)
        evaluator.reset()
        for i, (one_input, output) in enumerate(noisy_predictions(dataset)):
            gates = torch.full((1, len(space.edges)), 0.1 + i)
            routes = Routes(space, gates, "absent", (64, 64))
            evaluator.process([one_input], [{**output, "routes": routes, "milliseconds": 2.0}])
        with contextlib.redirect_stdout(io.StringIO()):
            results = evaluator.evaluate()
    assert set(results) == {"bbox", "segm", "routing"}
    assert results["routing"]["images"] == 2 and results["routing"]["ms_avg"] == 2
