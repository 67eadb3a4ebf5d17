"""How much of a prediction another prediction of the same image changes."""

from __future__ import annotations

import numpy as np
from detectron2.structures import Boxes, Instances, pairwise_iou

from dynamic_routing.evaluation.predictions import PanopticMap, Prediction

MATCHING_IOU = 0.5
"""Overlap of boxes from which on two instances of one class are the same."""


def changed_shares(own: Prediction, other: Prediction) -> dict[str, float]:
    """Shares in [0, 1] of what the model predicts, by kind.

    Returns:
        ``pixels``: of the label map; ``instances``: of both predictions' instances those without a
        partner in the other (class equal, IoU of boxes at least :data:`MATCHING_IOU`), 0 if neither
        has any; ``panoptic_pixels``: of the panoptic map, by class. Whatever both have.
    """
    shares = {}
    if own.labels is not None and other.labels is not None:
        shares["pixels"] = float((own.labels != other.labels).mean())
    if own.instances is not None and other.instances is not None:
        shares["instances"] = changed_instances(own.instances, other.instances)
    if own.panoptic is not None and other.panoptic is not None:
        maps = panoptic_classes(own.panoptic), panoptic_classes(other.panoptic)
        shares["panoptic_pixels"] = float((maps[0] != maps[1]).mean())
    return shares


def changed_instances(own: Instances, other: Instances) -> float:
    """The share of instances without a partner; confident ones choose first."""
    total = len(own) + len(other)
    if not total:
        return 0.0
    overlaps = pairwise_iou(Boxes(own.pred_boxes.tensor), Boxes(other.pred_boxes.tensor))
    same = own.pred_classes[:, None] == other.pred_classes[None, :]
    overlaps = overlaps * same
    pairs = 0
    for row in own.scores.argsort(descending=True, stable=True).tolist():
        if overlaps.shape[1] and float(overlaps[row].max()) >= MATCHING_IOU:
            overlaps[:, int(overlaps[row].argmax())] = 0
            pairs += 1
    return (total - 2 * pairs) / total


def panoptic_classes(panoptic: PanopticMap) -> np.ndarray:
    """(H, W): things as 2 c + 1 and stuff as 2 c for class c, -1 where there is no segment."""
    classes = np.full(panoptic.segments.shape, -1, dtype=np.int64)
    for info in panoptic.infos:
        value = 2 * info["category_id"] + bool(info["isthing"])
        classes[panoptic.segments == info["id"]] = value
    return classes
