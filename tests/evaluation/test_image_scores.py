"""The file of image scores: what is written is read, what is damaged is refused by one error."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from dynamic_routing.evaluation.image_scores import (
    ImageScores,
    ImageScoresError,
    load_scores,
    save_scores,
    scores_path,
)

NAN = math.nan


def scores(**changes):
    arguments = {
        "file_names": ("b.png", "<b>a</b>.png"),
        "metrics": {"iou": np.array([0.5, NAN]), "pixel_accuracy": np.array([1.0, 0.0])},
        "classes": ("road", "<i>sky</i>"),
        "confusion": np.array([[3, 1], [0, 2]]),
        **changes,
    }
    return ImageScores(**arguments)


def test_scores_are_read_back_in_the_order_of_names(tmp_path):
    path = save_scores(scores_path(tmp_path, "a/b"), scores())
    assert path.name == "scores_a_b.json"
    found = load_scores(path)
    assert found.file_names == ("<b>a</b>.png", "b.png")
    np.testing.assert_array_equal(found.metrics["iou"], [NAN, 0.5])
    np.testing.assert_array_equal(found.confusion, [[3, 1], [0, 2]])
    assert found.classes == scores().classes and found.confusion.dtype == np.int64
    assert save_scores(tmp_path / "again.json", found).read_bytes() == path.read_bytes()


def test_scores_are_looked_up_by_name():
    found = scores().of("pixel_accuracy", ("<b>a</b>.png", "unknown", "b.png"))
    np.testing.assert_array_equal(found, [0.0, NAN, 1.0])
    assert scores().ranking == "iou"
    assert scores(metrics={}).ranking == ""


def test_scores_of_two_evaluators_are_joined():
    boxes = ImageScores(("b.png", "c.png"), {"box_f1": np.array([0.25, 0.75])})
    for found in (scores().joined(boxes), boxes.joined(scores())):
        names = ("<b>a</b>.png", "b.png", "c.png")
        np.testing.assert_array_equal(found.of("box_f1", names), [NAN, 0.25, 0.75])
        np.testing.assert_array_equal(found.of("iou", names), [NAN, 0.5, NAN])
        assert found.classes == ("road", "<i>sky</i>") and found.confusion.sum() == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file_names": ("a", "a")}, "2 file names, 1 different"),
        ({"metrics": {"iou": np.zeros(3)}}, "shape"),
        ({"metrics": {"iou": np.array([0.5, 1.5])}}, "got 1.5"),
        ({"metrics": {"iou": np.array([0.5, -math.inf])}}, "got -inf"),
        ({"confusion": np.zeros((3, 3), dtype=np.int64)}, "confusion of 2 classes"),
        ({"confusion": np.array([[0, -1], [0, 0]])}, "confusion of 2 classes"),
    ],
)
def test_scores_that_contradict_themselves_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        scores(**changes)


def content(**changes):
    return json.dumps({
        "format": "dynamic_routing image scores", "version": 1, "file_names": ["a"],
        "metrics": {"iou": [0.5]}, "classes": [], "confusion": None, **changes,
    })  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "[" * 100_000,
        content()[:-9],
        content(format="other"),
        content(version=2),
        content(version=None),
        content(file_names="a"),
        content(file_names=[1]),
        content(metrics=[0.5]),
        content(metrics={"iou": ["0.5"]}),
        content(metrics={"iou": [True]}),
        content(metrics={"iou": [math.nan]}),
        content(metrics={"iou": [math.inf]}),
        content(metrics={"iou": [10**400]}),
        content(metrics={"iou": []}),
        content(classes=["road"], confusion=[[0.5]]),
        content(classes=["road"], confusion=[[1, 2]]),
        content(classes=["road"], confusion=[[10**30]]),
        content(classes=["road"], confusion={}),
    ],
)
def test_damaged_files_are_refused_by_one_error(tmp_path, text):
    (tmp_path / "scores.json").write_text(text)
    with pytest.raises(ImageScoresError, match="scores.json holds no image scores"):
        load_scores(tmp_path / "scores.json")


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "scores.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ImageScoresError):
        load_scores(tmp_path / "scores.json")


def test_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_scores(tmp_path / "none.json")
