"""Panoptic quality of segment maps (Kirillov et al. 2019, Sec. 4), as pure functions.

A predicted and a true segment of one class match if their IoU is above 0.5; then PQ is the sum of
the matches' IoU / (TP + FP/2 + FN/2) = SQ * RQ. What panopticapi does beyond the paper's formula is
done here too: pixels without ground truth (void) count in no union; a predicted segment that lies
by more than half on void or on a crowd of its class is no false positive; a crowd is neither found
nor missed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

VOID = 0
"""Id of pixels that belong to no segment."""

MAX_ID = 256**3 - 1
"""Largest segment id that a PNG of the COCO panoptic format can hold."""

MATCH_IOU = 0.5
IGNORED_SHARE = 0.5


@dataclass(frozen=True)
class Segment:
    """One segment of a map.

    Attributes:
        id: its pixels' value, in 1..:data:`MAX_ID`.
        category: of what.
        crowd: a region of several objects (ground truth only).
    """

    id: int
    category: int
    crowd: bool = False


@dataclass(frozen=True)
class Counts:
    """Matches of one class: summed IoU of the true positives and the three numbers."""

    iou: float = 0.0
    tp: int = 0
    fp: int = 0
    fn: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.iou + other.iou, self.tp + other.tp, self.fp + other.fp, self.fn + other.fn
        )


@dataclass(frozen=True)
class Quality:
    """PQ, SQ and RQ in [0, 1]; NaN where no class occurs.

    Attributes:
        pq: panoptic quality, of a class sq * rq; of several the mean.
        sq: segmentation quality, mean IoU of the matches, 0 without any.
        rq: recognition quality, the F1 score of the matches.
        classes: number of classes that occur, over which the mean was taken.
    """

    pq: float
    sq: float
    rq: float
    classes: int


ABSENT = Quality(float("nan"), float("nan"), float("nan"), 0)


def match_segments(
    truth: np.ndarray,
    truth_segments: Iterable[Segment],
    prediction: np.ndarray,
    predicted_segments: Iterable[Segment],
) -> dict[int, Counts]:
    """Match the segments of one image.

    Args:
        truth: (H, W) integer segment ids, :data:`VOID` where nothing is annotated.
        truth_segments: what the ids mean.
        prediction: (H, W) integer segment ids, :data:`VOID` where nothing was predicted.
        predicted_segments: what the ids mean; each has pixels.

    Returns:
        category -> counts, for the categories that occur.

    Raises:
        ValueError: maps of different sizes, ids outside 0..:data:`MAX_ID`, or predicted ids and
            segments that do not belong together.
    """
    truths = {segment.id: segment for segment in truth_segments}
    predictions = {segment.id: segment for segment in predicted_segments}
    overlaps = _overlaps(truth, prediction)
    areas = _areas(overlaps)
    _check_predictions(areas.prediction, predictions)
    ious = _ious(overlaps, areas, truths, predictions)
    matches = {pair: iou for pair, iou in ious.items() if iou > MATCH_IOU}
    found = {truth_id for truth_id, _ in matches}
    right = {predicted_id for _, predicted_id in matches}
    positives = [{truths[t].category: Counts(iou=iou, tp=1)} for (t, _), iou in matches.items()]
    missed = [
        {segment.category: Counts(fn=1)}
        for segment in truths.values()
        if segment.id not in found and not segment.crowd
    ]
    wrong = [
        {segment.category: Counts(fp=1)}
        for segment in predictions.values()
        if segment.id not in right and not _is_ignored(segment, overlaps, areas, truths)
    ]
    return add_counts([*positives, *missed, *wrong])


Overlaps = dict[tuple[int, int], int]
"""(true id, predicted id) -> number of common pixels, above 0."""


@dataclass(frozen=True)
class _Areas:
    """Pixels of every id of the two maps, void included."""

    truth: dict[int, int]
    prediction: dict[int, int]


def _overlaps(truth: np.ndarray, prediction: np.ndarray) -> Overlaps:
    """Count the pixels of every pair of ids in two maps of one size."""
    if truth.shape != prediction.shape:
        raise ValueError(
            f"ground truth is {truth.shape}, prediction {prediction.shape} (height, width)"
        )
    for name, ids in (("true", truth), ("predicted", prediction)):
        if ids.size and not 0 <= ids.min() <= ids.max() <= MAX_ID:
            raise ValueError(f"{name} ids must be in 0..{MAX_ID}, got {ids.min()}..{ids.max()}")
    both = truth.astype(np.int64) * (MAX_ID + 1) + prediction.astype(np.int64)
    pairs, pixels = np.unique(both, return_counts=True)
    return {divmod(int(p), MAX_ID + 1): int(n) for p, n in zip(pairs, pixels)}


def _areas(overlaps: Overlaps) -> _Areas:
    areas = _Areas({}, {})
    for (truth_id, predicted_id), pixels in overlaps.items():
        areas.truth[truth_id] = areas.truth.get(truth_id, 0) + pixels
        areas.prediction[predicted_id] = areas.prediction.get(predicted_id, 0) + pixels
    return areas


def _check_predictions(areas: Mapping[int, int], segments: Mapping[int, Segment]) -> None:
    """Predicted ids and segments must be the same."""
    unlisted = sorted(set(areas) - set(segments) - {VOID})
    empty = sorted(set(segments) - set(areas))
    if unlisted or empty or VOID in segments:
        raise ValueError(
            f"predicted ids without a segment: {unlisted}; segments without pixels: {empty}; "
            f"{VOID} is void, got segments {sorted(segments)}"
        )


def _ious(
    overlaps: Overlaps,
    areas: _Areas,
    truths: Mapping[int, Segment],
    predictions: Mapping[int, Segment],
) -> dict[tuple[int, int], float]:
    """IoU of every overlapping pair of one class, crowds left out, void outside the union."""
    ious = {}
    for (truth_id, predicted_id), common in overlaps.items():
        if truth_id not in truths or predicted_id not in predictions:
            continue
        true, predicted = truths[truth_id], predictions[predicted_id]
        if true.crowd or true.category != predicted.category:
            continue
        void = overlaps.get((VOID, predicted_id), 0)
        union = areas.truth[truth_id] + areas.prediction[predicted_id] - common - void
        ious[truth_id, predicted_id] = common / union
    return ious


def _is_ignored(
    segment: Segment, overlaps: Overlaps, areas: _Areas, truths: Mapping[int, Segment]
) -> bool:
    """Whether a predicted segment lies by more than half on void and on crowds of its class."""
    ids = [VOID] + [t.id for t in truths.values() if t.crowd and t.category == segment.category]
    pixels = sum(overlaps.get((truth_id, segment.id), 0) for truth_id in ids)
    return pixels / areas.prediction[segment.id] > IGNORED_SHARE


def add_counts(images: Iterable[Mapping[int, Counts]]) -> dict[int, Counts]:
    """Category -> counts of all images together."""
    total: dict[int, Counts] = {}
    for image in images:
        for category, counts in image.items():
            total[category] = total.get(category, Counts()) + counts
    return total


def class_quality(counts: Counts) -> Quality:
    """The quality of one class."""
    segments = counts.tp + counts.fp / 2 + counts.fn / 2
    if not segments:
        return ABSENT
    return Quality(
        pq=counts.iou / segments,
        sq=counts.iou / counts.tp if counts.tp else 0.0,
        rq=counts.tp / segments,
        classes=1,
    )


def mean_quality(qualities: Sequence[Quality]) -> Quality:
    """The mean over those classes that occur (in the ground truth or as a false positive)."""
    present = [quality for quality in qualities if quality.classes]
    if not present:
        return ABSENT
    return Quality(
        pq=float(np.mean([quality.pq for quality in present])),
        sq=float(np.mean([quality.sq for quality in present])),
        rq=float(np.mean([quality.rq for quality in present])),
        classes=len(present),
    )
