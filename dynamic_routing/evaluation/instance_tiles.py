"""Boxes and masks drawn into an image: what a detector found, beside the truth."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils.visualizer import GenericMask

SHOWN_SCORE = 0.5
"""Detections with a lower score are not drawn."""


def instance_tiles(
    image: np.ndarray,
    record: dict[str, Any],
    found: Instances,
    dataset_name: str,
    *,
    side: int | None = None,
) -> dict[str, np.ndarray]:
    """Prediction and truth of one image, as pictures of one size, large enough to be read.

    Args:
        image: (H, W, 3) uint8, RGB.
        record: the image in Detectron2's data set format, with ``annotations``.
        found: the detector's output for it, at the size of the image.
        dataset_name: a registered data set with ``thing_classes``.
        side: pixels of the longer side; by default large enough for a page of its own.

    Returns:
        "prediction" and "truth", (H', W', 3) uint8 RGB.
    """
    names = list(MetadataCatalog.get(dataset_name).thing_classes)
    kept = found[found.scores >= SHOWN_SCORE].to("cpu")
    truth = true_instances(record.get("annotations", []), image.shape[0], image.shape[1])
    return {
        "prediction": drawn_instances(image, kept, names, dataset_name, side=side),
        "truth": drawn_instances(image, truth, names, dataset_name, side=side),
    }


def true_instances(annotations: list[dict[str, Any]], height: int, width: int) -> Instances:
    """Annotations of one image in the form of a prediction, with score 1."""
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
    instances = Instances(
        (height, width),
        pred_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
        scores=torch.ones(len(annotations)),
        pred_classes=torch.tensor([a["category_id"] for a in annotations], dtype=torch.long),
    )
    if annotations and all("segmentation" in a for a in annotations):
        masks = [GenericMask(a["segmentation"], height, width).mask for a in annotations]
        instances.pred_masks = torch.from_numpy(np.stack(masks)).bool()
    return instances


def drawn_instances(
    image: np.ndarray,
    instances: Instances,
    names: list[str],
    dataset_name: str,
    *,
    side: int | None = None,
) -> np.ndarray:
    """The enlarged image with boxes, masks, keypoints and class names.

    Args:
        image: (H, W, 3) uint8, RGB.
        instances: in the form of a prediction, at the size of the image.
        names: of the classes.
        dataset_name: whose metadata say how keypoints are joined.
        side: see :func:`instance_tiles`.
    """
    from dynamic_routing.evaluation.examples import spread_colour  # both import this module
    from dynamic_routing.evaluation.prediction_pictures import (
        LegibleVisualizer,
        display_size,
        resized_instances,
    )

    height, width = display_size(*image.shape[:2])
    if side is not None:
        scale = side / max(image.shape[:2])
        height, width = (max(1, round(scale * length)) for length in image.shape[:2])
    canvas = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
    large = resized_instances(instances, height, width)
    visualizer = LegibleVisualizer(canvas, MetadataCatalog.get(dataset_name))
    drawn = visualizer.overlay_instances(
        boxes=large.pred_boxes,
        labels=[names[i] for i in large.pred_classes.tolist()],
        masks=large.pred_masks.numpy() if large.has("pred_masks") and len(large) else None,
        assigned_colors=[np.array(spread_colour(i)) / 255 for i in range(len(large))],
        keypoints=large.pred_keypoints if large.has("pred_keypoints") and len(large) else None,
    )
    return drawn.get_image()
