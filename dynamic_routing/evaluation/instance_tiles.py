"""Boxes and masks drawn into an image: what a detector found, beside the truth."""

from __future__ import annotations

from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode, Instances
from detectron2.utils.visualizer import Visualizer

SHOWN_SCORE = 0.5
"""Detections with a lower score are not drawn."""

DRAWN_WIDTH = 1024
"""Width in pixels to which smaller images are enlarged, so that labels are legible."""


def instance_tiles(
    image: np.ndarray, record: dict[str, Any], found: Instances, dataset_name: str
) -> dict[str, np.ndarray]:
    """Prediction and truth of one image, as pictures of one size.

    Args:
        image: (H, W, 3) uint8, RGB.
        record: the image in Detectron2's data set format, with ``annotations``.
        found: the detector's output for it, at the size of the image.
        dataset_name: a registered data set with ``thing_classes``.

    Returns:
        "prediction" and "truth", (H', W', 3) uint8 RGB, at least :data:`DRAWN_WIDTH` wide.
    """
    metadata = MetadataCatalog.get(dataset_name)
    scale = max(1.0, DRAWN_WIDTH / image.shape[1])
    kept = found[found.scores >= SHOWN_SCORE].to("cpu")
    predicted = Visualizer(image, metadata, scale=scale).draw_instance_predictions(kept)
    # Crowds have no class of their own to draw; Detectron2's visualiser wants absolute boxes.
    annotations = [
        {**a, "bbox": BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS),
         "bbox_mode": BoxMode.XYXY_ABS}
        for a in record.get("annotations", [])
    ]  # fmt: skip
    truth = Visualizer(image, metadata, scale=scale).draw_dataset_dict(
        {**record, "annotations": annotations}
    )
    return {"prediction": predicted.get_image(), "truth": truth.get_image()}
