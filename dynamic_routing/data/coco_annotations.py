"""Entries of COCO's instances and person_keypoints files for a generated picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .coco_masks import mask_box, mask_polygons, mask_runs
from .coco_person import KEYPOINT_NAMES
from .coco_scenes import CocoObject, CocoScene

LEAST_HEIGHT = 20.0
"""On people of fewer rows nobody could tell the keypoints apart: they get none, as in COCO."""

IDS_PER_IMAGE = 1000
"""Annotation ids of an image are its own id times this, and what follows."""


def instance_annotations(
    scene: CocoScene, *, image_id: int, ids: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Entries of instances_*.json, and of person_keypoints_*.json where they have keypoints.

    Area, box and segmentation are those of the visible pixels, exactly. A crowd has run lengths,
    everything else polygons (as in COCO; Detectron2 takes no run lengths among polygons).

    Args:
        scene: the picture.
        image_id: its id.
        ids: official id of each category.

    Returns:
        One entry for each object, with ids that depend on the image id alone. Those of people have
        "keypoints" and "num_keypoints" as well.
    """
    entries = []
    for number, item in enumerate(scene.objects, start=1):
        assert number < IDS_PER_IMAGE, f"image {image_id} has more than {number - 1} objects"
        mask = scene.owner == number
        entry: dict[str, Any] = {
            "segmentation": mask_runs(mask) if item.is_crowd else mask_polygons(mask),
            "area": int(mask.sum()),
            "iscrowd": int(item.is_crowd),
            "image_id": image_id,
            "bbox": mask_box(mask),
            "category_id": ids[item.name],
            "id": image_id * IDS_PER_IMAGE + number,
        }
        if item.name == "person":
            entry.update(_keypoint_fields(item, mask))
        entries.append(entry)
    return entries


def without_keypoints(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry as instances_*.json has it."""
    return {key: value for key, value in entry.items() if "keypoints" not in key}


def _keypoint_fields(item: CocoObject, mask: np.ndarray) -> dict[str, Any]:
    """ "keypoints" and "num_keypoints" of a person.

    Each keypoint is (column, row, visibility): 2 on the person's visible pixels, 1 hidden behind
    something, 0 (and no place) outside the picture. Crowds and tiny people have none.
    """
    values = np.zeros((len(KEYPOINT_NAMES), 3), dtype=int)
    if not item.is_crowd and item.height >= LEAST_HEIGHT:
        values[:, :2] = np.floor(item.keypoints)
        columns, rows = values[:, 0], values[:, 1]
        height, width = mask.shape
        inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
        values[~inside] = 0
        values[inside, 2] = 1 + mask[rows[inside], columns[inside]]
    return {
        "keypoints": values.ravel().tolist(),
        "num_keypoints": int((values[:, 2] > 0).sum()),
    }
