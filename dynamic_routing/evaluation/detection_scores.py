"""Per-image F1 of detectors, from the matches that COCO's own evaluation made."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

SCORE = 0.5
"""Least score of a detection that counts."""

IOU = 0.5
"""Least IoU of a detection with the object that it has found."""


@dataclass(frozen=True)
class Hits:
    """Detections of one image held against its objects.

    Attributes:
        found: objects with a detection of their class.
        false: detections without an object.
        missed: objects without a detection.
    """

    found: int = 0
    false: int = 0
    missed: int = 0

    def __add__(self, other: Hits) -> Hits:
        return Hits(self.found + other.found, self.false + other.false, self.missed + other.missed)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; NaN without objects and detections."""
        total = 2 * self.found + self.false + self.missed
        return 2 * self.found / total if total else float("nan")


def hits_by_image(evaluation: COCOeval) -> dict[Hashable, Hits]:
    """Count the matches of an evaluation at :data:`IOU` and :data:`SCORE`, over all classes.

    COCO matches a class's detections in the order of their scores, so those below the least score
    take no object from those above it. Crowds and what lies on them do not count.

    Args:
        evaluation: after ``evaluate()``; its ``evalImgs`` are read.
    """
    params = evaluation.params
    threshold = int(np.flatnonzero(np.isclose(params.iouThrs, IOU))[0])
    hits: dict[Hashable, Hits] = {image: Hits() for image in params.imgIds}
    for entry in evaluation.evalImgs:
        if entry is not None and list(entry["aRng"]) == list(params.areaRng[0]):
            hits[entry["image_id"]] += _hits(entry, threshold)
    return hits


def _hits(entry: Mapping[str, Any], threshold: int) -> Hits:
    """One image and class."""
    counted = np.array(entry["dtScores"]) >= SCORE
    counted &= ~entry["dtIgnore"][threshold].astype(bool)
    matched = entry["dtMatches"][threshold] > 0
    objects = int((np.array(entry["gtIgnore"]) == 0).sum())
    found = int((counted & matched).sum())
    return Hits(found, int((counted & ~matched).sum()), objects - found)


def hits_without_detections(truth: COCO) -> dict[Hashable, Hits]:
    """Every object missed; COCO's evaluation cannot be run without detections."""
    objects = Counter(a["image_id"] for a in truth.anns.values() if not a.get("iscrowd", 0))
    return {image: Hits(missed=objects[image]) for image in truth.imgs}


def box_confusion(truth: COCO, results: Iterable[Mapping[str, Any]]) -> np.ndarray:
    """Which class each object was taken for: boxes matched by IoU alone, whatever their class.

    Args:
        truth: the data set.
        results: in COCO's format, with the data set's category ids.

    Returns:
        (K + 1, K + 1) counts, row truth, column prediction, classes in the order of their ids;
        the last row holds false detections, the last column missed objects.
    """
    confident = [dict(result) for result in results if result["score"] >= SCORE]
    for result in confident:
        result.pop("segmentation", None)  # boxes are matched; masks would be decoded in vain
    categories = sorted(truth.cats)
    place = {category: row for row, category in enumerate(categories)}
    counts = np.zeros((len(categories) + 1, len(categories) + 1), dtype=np.int64)
    if not confident:
        for annotation in truth.anns.values():
            if not annotation.get("iscrowd", 0) and annotation["image_id"] in truth.imgs:
                counts[place[annotation["category_id"]], -1] += 1
        return counts
    with contextlib.redirect_stdout(io.StringIO()):
        found = truth.loadRes(confident)
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.params.useCats = 0
        evaluation.params.iouThrs = np.array([IOU])
        evaluation.params.areaRng = evaluation.params.areaRng[:1]
        evaluation.params.areaRngLbl = evaluation.params.areaRngLbl[:1]
        evaluation.evaluate()
    for entry in evaluation.evalImgs:
        for row, column in _pairs(entry, truth, found) if entry is not None else ():
            counts[place.get(row, -1), place.get(column, -1)] += 1
    return counts


def _pairs(entry: Mapping[str, Any], truth: COCO, found: COCO) -> Sequence[tuple[Any, Any]]:
    """(category of the object, of its detection) of one image, None for nothing."""
    matches = entry["dtMatches"][0]
    pairs: list[tuple[Any, Any]] = []
    for detection, match, ignored in zip(entry["dtIds"], matches, entry["dtIgnore"][0]):
        if not ignored:
            category = truth.anns[int(match)]["category_id"] if match else None
            pairs.append((category, found.anns[detection]["category_id"]))
    taken = {int(match) for match in matches if match}
    for target, ignored in zip(entry["gtIds"], entry["gtIgnore"]):
        if not ignored and target not in taken:
            pairs.append((truth.anns[target]["category_id"], None))
    return pairs
