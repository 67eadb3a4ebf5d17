"""Panoptic ground truth of a generated picture: COCO's PNG and entry, Detectron2's stuff PNG."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .coco_backdrop import NAMES
from .coco_masks import mask_box
from .coco_scenes import CocoScene

UNLABELLED = 255
"""Label in the stuff PNG of what belongs to no segment; in the panoptic PNG it is black."""

_SPREAD = 0x9E3779  # odd: its multiples run through all 24-bit colours before one repeats


@dataclass(frozen=True)
class PanopticTruth:
    """The segments of one picture.

    Attributes:
        colours: (H, W, 3) uint8: segment id as R + 256 G + 65536 B, 0 where there is none.
        segments: entries of "segments_info": id, category_id, iscrowd, bbox and area.
    """

    colours: np.ndarray
    segments: list[dict[str, Any]]


def panoptic_truth(scene: CocoScene, ids: Mapping[str, int]) -> PanopticTruth:
    """One segment for each object and for each kind of stuff.

    Args:
        scene: the picture.
        ids: official id of each category.

    Returns:
        Segments that do not overlap. Poles belong to none.
    """
    numbers = np.where(scene.owner > 0, scene.owner, 0).astype(np.int64)
    names = [item.name for item in scene.objects]
    crowds = [item.is_crowd for item in scene.objects]
    for index, name in enumerate(NAMES, start=1):
        region = scene.surfaces == index
        if region.any():
            names.append(name)
            crowds.append(False)
            numbers[region] = len(names)
    segments = []
    for number, (name, is_crowd) in enumerate(zip(names, crowds, strict=True), start=1):
        mask = numbers == number
        segments.append(
            {
                "id": number * _SPREAD % 2**24,
                "category_id": ids[name],
                "iscrowd": int(is_crowd),
                "bbox": mask_box(mask),
                "area": int(mask.sum()),
            }
        )
    table = np.array([0, *(segment["id"] for segment in segments)])
    return PanopticTruth(_as_colours(table[numbers]), segments)


def _as_colours(ids: np.ndarray) -> np.ndarray:
    """(H, W) 24-bit ids as (H, W, 3) uint8."""
    return np.stack([ids >> shift & 255 for shift in (0, 8, 16)], axis=-1).astype(np.uint8)


def stuff_map(scene: CocoScene, labels: Mapping[str, int]) -> np.ndarray:
    """What Detectron2's prepare_panoptic_fpn.py makes of the panoptic PNG.

    Args:
        scene: the picture.
        labels: 1 to 53 for each kind of stuff.

    Returns:
        (H, W) uint8: 0 on things, the label on stuff, 255 on what has no label.
    """
    table = np.array([UNLABELLED, *(labels[name] for name in NAMES)], dtype=np.uint8)
    return np.where(scene.owner > 0, 0, table[scene.surfaces]).astype(np.uint8)
