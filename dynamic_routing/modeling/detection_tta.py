"""Multi-scale and flipped testing of R-CNNs: Detectron2's, with routes and times."""

from __future__ import annotations

import time
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.modeling import DatasetMapperTTA, GeneralizedRCNN, GeneralizedRCNNWithTTA

from dynamic_routing.modeling.meta_arch import RoutingMixin
from dynamic_routing.routing import record_routes


class RCNNWithTTA(GeneralizedRCNNWithTTA):
    """Detectron2's test-time augmentation, whose outputs also carry ``routes``.

    Detectron2 finds boxes in every view (``TEST.AUG.MIN_SIZES``, ``MAX_SIZE``, ``FLIP``), merges
    them by non-maximum suppression and, for masks, runs every view once more on the merged boxes.
    It makes the views from the image that the mapper delivers, which has the ordinary test size.
    Here each view is a batch of its own: together with others it would be padded to their size, and
    its route would depend on them.

    An output of a routed model gains the ``routes`` of the view that is not mirrored and whose
    shorter side is nearest to the delivered image's, and ``milliseconds``, the wall time of all
    views, resizing and merging included.

    Args:
        cfg: the model's config.
        model: Faster or Mask R-CNN, routed or not.

    Raises:
        ValueError: no view, keypoints, or proposals from a file.
    """

    tta_mapper: DatasetMapperTTA

    def __init__(self, cfg: CfgNode, model: GeneralizedRCNN) -> None:
        for problem, found in (
            ("MODEL.KEYPOINT_ON True", cfg.MODEL.KEYPOINT_ON),
            ("MODEL.LOAD_PROPOSALS True", cfg.MODEL.LOAD_PROPOSALS),
            ("TEST.AUG.MIN_SIZES ()", not cfg.TEST.AUG.MIN_SIZES),
        ):
            if found:
                raise ValueError(f"test-time augmentation does not work with {problem}")
        super().__init__(cfg, model, batch_size=1)

    @torch.no_grad()
    def _inference_one_image(self, input: dict[str, Any]) -> dict[str, Any]:
        """Detectron2's result for one image (with ``image``, ``height`` and ``width``)."""
        start = time.perf_counter()
        with record_routes(self.model.backbone) as records:
            output = super()._inference_one_image(input)
        if records:
            routes = records[self._chosen_view(input["image"])].detach()
            routed = isinstance(self.model, RoutingMixin)
            output["routes"] = self.model.clustered(routes) if routed else routes
            output["milliseconds"] = 1000 * (time.perf_counter() - start)
        return output

    def _chosen_view(self, image: torch.Tensor) -> int:
        """Position of the view that stands for the image: nearest in size, not mirrored."""
        mapper, (height, width) = self.tta_mapper, image.shape[-2:]
        sides = [
            min(ResizeShortestEdge.get_output_shape(height, width, size, mapper.max_size))
            for size in mapper.min_sizes
        ]
        nearest = min(range(len(sides)), key=lambda i: abs(sides[i] - min(height, width)))
        return nearest * (2 if mapper.flip else 1)  # each size is followed by its mirror image
