"""Pictures of predictions on images that have no ground truth, drawn by Detectron2's Visualizer.

An image is drawn at a size at which labels can be read: at least :data:`MIN_SIDE` and at most
:data:`MAX_SIDE` pixels on its longer side. Colours follow from classes and order, never from
chance, so a picture is the same every time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from detectron2.data.catalog import Metadata
from detectron2.structures import Boxes, Instances
from detectron2.utils.visualizer import Visualizer
from matplotlib.colors import to_rgb
from matplotlib.transforms import Bbox

from dynamic_routing.evaluation.class_names import ClassNames, Colour, PredictedClasses
from dynamic_routing.evaluation.examples import spread_colour
from dynamic_routing.evaluation.predictions import Prediction

MIN_SIDE = 800
MAX_SIDE = 4096
LEAST_SIDE = 8
"""Pixels; an image of one row would have no outline."""

MIN_FONT = 8.5
"""Points at 100 dots an inch; smaller labels cannot be read."""

DARKEST_TEXT = 0.55
"""Least red, green and blue of a label, on its black ground."""

LABEL_MARGIN = 1.5
LABEL_SHIFTS = (0, -1, 1, -2, 2, -3, 3, 0)
"""Where a label tries to stand, in its heights from its place; in the end it stays there."""

LABELLED_STUFF = 0.002
LABELLED_THING = 0.0001
"""Shares of the picture from which on a region or an object of a panoptic map is labelled."""

STUFF_ALPHA = 0.6
THING_ALPHA = 0.5
EDGE = (1.0, 1.0, 240 / 255)


class LegibleVisualizer(Visualizer):
    """Detectron2's Visualizer with bright labels that stay inside the picture and apart.

    Args: see Visualizer; ``scale`` stays 1, at which a unit is a pixel.
    """

    def __init__(self, img_rgb: np.ndarray, metadata: Metadata) -> None:
        super().__init__(img_rgb, metadata)
        self._boxes: list[Bbox] = []

    def draw_text(
        self,
        text: str,
        position: Any,
        *,
        font_size: float | None = None,
        color: Any = "g",
        horizontal_alignment: str = "center",
        rotation: float = 0,
    ) -> Any:
        """As Visualizer's; a dollar sign is a dollar sign."""
        output = super().draw_text(
            text.replace("$", r"\$"),
            position,
            font_size=max(font_size or self._default_font_size, MIN_FONT),
            color=np.maximum(to_rgb(color), DARKEST_TEXT),
            horizontal_alignment=horizontal_alignment,
            rotation=rotation,
        )
        self._place(output.ax.texts[-1])
        return output

    def _place(self, label: Any) -> None:
        """Move a label inside, and up or down where another one is in the way."""
        extent = label.get_window_extent(self.output.canvas.get_renderer()).padded(LABEL_MARGIN)
        left, top = extent.x0, self.output.height - extent.y1  # rows count downwards
        new_left = _clamped(left, self.output.width - extent.width)
        for shift in LABEL_SHIFTS:
            new_top = _clamped(top + shift * extent.height, self.output.height - extent.height)
            box = Bbox.from_bounds(new_left, new_top, extent.width, extent.height)
            if not box.count_overlaps(self._boxes):
                break
        self._boxes.append(box)
        x, y = label.get_position()
        label.set_position((x + new_left - left, y + new_top - top))


def _clamped(value: float, highest: float) -> float:
    """``value`` in [0, highest]; 0 if there is no room."""
    return max(0.0, min(value, highest))


def display_size(height: int, width: int) -> tuple[int, int]:
    """Height and width in pixels at which an image is drawn."""
    longer = max(height, width)
    scale = min(max(longer, MIN_SIDE), MAX_SIDE) / longer
    return max(LEAST_SIDE, round(height * scale)), max(LEAST_SIDE, round(width * scale))


def draw_prediction(
    image: np.ndarray,
    prediction: Prediction,
    *,
    classes: PredictedClasses,
    colour_by_class: bool = False,
) -> np.ndarray:
    """Draw what a model found: its panoptic segmentation, or else label map and instances.

    Args:
        image: (H, W, 3) uint8, RGB.
        prediction: for this image.
        classes: of the model.
        colour_by_class: instances in the colour of their class, which is steady over a video,
            rather than each in one of its own.

    Returns:
        (H', W', 3) uint8, RGB, of :func:`display_size`.
    """
    height, width = display_size(*image.shape[:2])
    smooth = cv2.INTER_AREA if height < image.shape[0] else cv2.INTER_LINEAR
    resized = cv2.resize(image, (width, height), interpolation=smooth)
    visualizer = LegibleVisualizer(resized, Metadata().set(**classes.keypoints))
    things = classes.things if colour_by_class else None
    if prediction.panoptic is not None:
        segments = _nearest(prediction.panoptic.segments, height, width)
        _draw_panoptic(visualizer, segments, prediction.panoptic.infos, classes, things)
        return visualizer.output.get_image()
    if prediction.labels is not None:
        _draw_regions(visualizer, _nearest(prediction.labels, height, width), classes.stuff)
    if prediction.instances is not None:
        instances = resized_instances(prediction.instances, height, width)
        _draw_instances(visualizer, instances, classes, things)
    return visualizer.output.get_image()


def _nearest(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    """An (H, W) map of integers at another size."""
    small = labels.astype(np.int32)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


def resized_instances(instances: Instances, height: int, width: int) -> Instances:
    """Boxes, masks and keypoints at another size; the given ones are not changed."""
    old_height, old_width = instances.image_size
    x, y = width / old_width, height / old_height
    fields = {"scores": instances.scores, "pred_classes": instances.pred_classes}
    boxes = Boxes(instances.pred_boxes.tensor.clone())
    boxes.scale(x, y)
    result = Instances((height, width), pred_boxes=boxes, **fields)
    if instances.has("pred_masks"):
        masks = instances.pred_masks
        if len(masks):
            masks = F.interpolate(masks[None].float(), (height, width), mode="nearest")[0] > 0.5
        result.pred_masks = masks
    if instances.has("pred_keypoints"):
        result.pred_keypoints = instances.pred_keypoints * torch.tensor([x, y, 1.0])
    return result


def _unit(colour: Colour) -> tuple[float, float, float]:
    """A colour of 0 to 255 as matplotlib wants it, 0 to 1."""
    red, green, blue = colour
    return red / 255, green / 255, blue / 255


def _draw_regions(visualizer: LegibleVisualizer, labels: np.ndarray, names: ClassNames) -> None:
    """A label map, large classes first."""
    found, areas = np.unique(labels, return_counts=True)
    for index in found[np.argsort(-areas, kind="stable")].tolist():
        _draw_region(visualizer, labels == index, names, index)


def _draw_region(
    visualizer: LegibleVisualizer, mask: np.ndarray, names: ClassNames, index: int
) -> None:
    """One class of a label map; named if it is large enough."""
    labelled = mask.mean() >= LABELLED_STUFF
    visualizer.draw_binary_mask(
        mask,
        color=_unit(names.colour(index)),
        edge_color=EDGE,
        text=names.name(index) if labelled else None,
        alpha=STUFF_ALPHA,
        area_threshold=0,
    )


def _instance_colours(
    indices: list[int], things: ClassNames | None
) -> list[tuple[float, float, float]]:
    """A colour for each instance: that of its class, or one of its own."""
    if things is not None:
        return [_unit(things.colour(index)) for index in indices]
    return [_unit(spread_colour(i)) for i in range(len(indices))]


def _instance_labels(indices: list[int], scores: list[float], names: ClassNames) -> list[str]:
    return [f"{names.name(i)} {100 * score:.0f}%" for i, score in zip(indices, scores)]


def _draw_instances(
    visualizer: LegibleVisualizer,
    instances: Instances,
    classes: PredictedClasses,
    things: ClassNames | None,
) -> None:
    """Boxes with their labels, masks and keypoints."""
    indices = instances.pred_classes.tolist()
    visualizer.overlay_instances(
        boxes=instances.pred_boxes,
        labels=_instance_labels(indices, instances.scores.tolist(), classes.things),
        masks=instances.pred_masks.numpy() if instances.has("pred_masks") else None,
        keypoints=instances.pred_keypoints if instances.has("pred_keypoints") else None,
        assigned_colors=_instance_colours(indices, things),
        alpha=THING_ALPHA,
    )


def _draw_panoptic(
    visualizer: LegibleVisualizer,
    segments: np.ndarray,
    infos: list[dict[str, Any]],
    classes: PredictedClasses,
    things: ClassNames | None,
) -> None:
    """Stuff first, then the things on top of it."""
    for mask, info in _visible(segments, infos, isthing=False):
        _draw_region(visualizer, mask, classes.stuff, info["category_id"])
    found = list(_visible(segments, infos, isthing=True))
    indices = [info["category_id"] for _, info in found]
    labels = _instance_labels(indices, [info["score"] for _, info in found], classes.things)
    for (mask, _), text, colour in zip(found, labels, _instance_colours(indices, things)):
        label = text if mask.mean() >= LABELLED_THING else None
        visualizer.draw_binary_mask(
            mask, color=colour, text=label, alpha=THING_ALPHA, area_threshold=0
        )


def _visible(
    segments: np.ndarray, infos: list[dict[str, Any]], *, isthing: bool
) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
    """Mask and description of every segment of one kind that has a pixel."""
    for info in infos:
        mask = segments == info["id"]
        if info["isthing"] == isthing and mask.any():
            yield mask, info
