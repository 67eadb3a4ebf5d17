"""The table counts what it says, and each usual cause of AP 0 is named in one line."""

import copy
import json
import logging

import pytest

from dynamic_routing.evaluation.class_table import (
    count_classes,
    find_problems,
    format_table,
    report,
)
from tests.evaluation.tiny_coco import annotation, coco_dataset

CAR, DOG, BOTTLE = 3, 18, 44


@pytest.fixture
def dataset():
    """Two cars and a dog in image 100, a car in 101, a crowd of bottles."""
    content = coco_dataset(images=3, objects=1)
    crowd = {**annotation(9, 102, BOTTLE, [1, 1, 9, 9]), "iscrowd": 1}
    content["annotations"] = [
        annotation(0, 100, CAR, [0, 0, 20, 20]),
        annotation(1, 100, CAR, [30, 30, 20, 20]),
        annotation(2, 100, DOG, [50, 10, 10, 10]),
        annotation(3, 101, CAR, [5, 5, 30, 30]),
        crowd,
    ]
    return content


def prediction(image_id=100, category_id=CAR, score=0.9, box=(1, 1, 20, 20)):
    return {"image_id": image_id, "category_id": category_id, "score": score, "bbox": list(box)}


GOOD = [prediction(), prediction(101, DOG, 0.3), prediction(102, CAR, 0.5)]


def test_counts_are_those_of_the_lists(dataset):
    car, dog, bottle, brush = count_classes(dataset, [*GOOD, prediction(image_id=7)])
    assert (car.name, car.truths, car.truth_images, car.predictions) == ("car", 3, 2, 2)
    assert (car.confident, car.best_score) == (1, 0.9)  # 0.5 is not above 0.5
    assert (dog.truths, dog.truth_images, dog.predictions, dog.confident) == (1, 1, 1, 0)
    assert (bottle.truths, bottle.best_score) == (0, None), "a crowd is no object"
    assert (brush.truths, brush.predictions) == (0, 0)


def test_table_shows_the_classes_that_occur(dataset):
    table = format_table(count_classes(dataset, GOOD))
    lines = table.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:4]] == ["car", "dog"]
    assert lines[4] == "2 more classes: neither in truth nor predicted"
    assert "more classes" not in format_table(count_classes(dataset, GOOD)[:2])


def test_good_predictions_have_no_problem(dataset):
    assert find_problems(dataset, GOOD) == []


def no_truth(dataset, results):
    dataset["annotations"] = [dict(a, iscrowd=1) for a in dataset["annotations"]]


def strange_truth(dataset, results):
    dataset["annotations"][0]["image_id"] = 7


def nothing(dataset, results):
    results.clear()


def other_images(dataset, results):
    for result in results:
        result["image_id"] += 1000


def some_other_images(dataset, results):
    results[1]["image_id"] = 7


def other_categories(dataset, results):
    results[0]["category_id"] = "class index 80"


def one_class(dataset, results):
    results[1]["category_id"] = CAR


def wrong_class(dataset, results):
    dataset["annotations"] = dataset["annotations"][:2]
    for result in results:
        result["category_id"] = BOTTLE


def relative(dataset, results):
    for result in results:
        result["bbox"] = [0.1, 0.2, 0.5, 0.5]


def relative_truth(dataset, results):
    for truth in dataset["annotations"]:
        truth["bbox"] = [0.1, 0.2, 0.5, 0.5]


def outside(dataset, results):
    for result in results:
        result["bbox"] = [90.0, 5.0, 20.0, 20.0]


def outside_truth(dataset, results):
    for image in dataset["images"]:
        image.update(width=0, height=0)


CASES = {
    no_truth: "no ground truth in 3 images (5 crowds), so AP is undefined",
    strange_truth: "1 of 4 annotations belong to no listed image",
    nothing: "the model predicted nothing",
    other_images: "all 3 predictions are left out, their image_id is not in the annotation file "
    "(1100, 1101, 1102)",
    some_other_images: "1 of 3 predictions are left out, their image_id",
    other_categories: "1 of 3 predictions are left out, their category_id is not in the annotation "
    "file (class index 80): set MODEL.ROI_HEADS.NUM_CLASSES",
    one_class: "all predictions are of class car, of 2 in the ground truth",
    wrong_class: "no predicted class is in the ground truth",
    relative: "all predicted boxes end within 1.5 pixels of the origin",
    relative_truth: "all ground-truth boxes end within 1.5 pixels",
    outside: "all predicted boxes are outside their images",
    outside_truth: "all ground-truth boxes are outside their images",
}


@pytest.mark.parametrize("spoil", CASES, ids=lambda spoil: spoil.__name__)
def test_cause_is_named_in_one_line(dataset, spoil):
    results = copy.deepcopy(GOOD)
    spoil(dataset, results)
    problems = find_problems(dataset, results)
    assert any(CASES[spoil] in problem for problem in problems), problems
    assert all("\n" not in problem for problem in problems)
    assert len(problems) == (2 if spoil is outside_truth else 1)


def test_report_is_logged_and_kept(dataset, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        problems = report(dataset, GOOD[:1], dataset_name="toy", output_dir=tmp_path)
    levels = [record.levelno for record in caplog.records]
    assert levels == [logging.INFO, logging.WARNING] and len(problems) == 1
    assert problems[0] in caplog.text and "| car " in caplog.text
    stored = json.loads((tmp_path / "class_table.json").read_text())
    assert stored["dataset"] == "toy" and stored["problems"] == problems
    assert [entry["name"] for entry in stored["classes"]] == ["car", "dog"]
    assert stored["classes"][1]["best_score"] is None and stored["absent_classes"] == 2


def test_results_without_boxes_are_counted_too(dataset):
    results = [{k: v for k, v in result.items() if k != "bbox"} for result in GOOD]
    assert find_problems(dataset, results) == []
    assert count_classes(dataset, results) == count_classes(dataset, GOOD)


def test_scores_that_are_no_numbers_do_not_stop_the_report(dataset, tmp_path):
    report(dataset, [prediction(score=float("nan"))], dataset_name="toy", output_dir=tmp_path)
    (car, _) = json.loads((tmp_path / "class_table.json").read_text())["classes"]
    assert (car["predictions"], car["confident"], car["best_score"]) == (1, 0, None)
