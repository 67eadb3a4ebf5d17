"""Multi-scale and flipped testing, of semantic segmentation as for the papers' test-set results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN, PanopticFPN, SemanticSegmentor
from torch import Tensor, nn

from dynamic_routing.modeling.detection_tta import RCNNWithTTA


def with_test_time_augmentation(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """The model on several views of each image (``TEST.AUG``), with the model's own interface.

    Args:
        cfg: the model's config. Semantic segmentation reads SCALES and FLIP, an R-CNN Detectron2's
            MIN_SIZES, MAX_SIZE and FLIP.
        model: without DistributedDataParallel around it.

    Raises:
        ValueError: a meta-architecture that has no test-time augmentation, or keys without a view.
    """
    if isinstance(model, SemanticSegmentor):
        return SemanticSegmentorWithTTA(model, scales=cfg.TEST.AUG.SCALES, flip=cfg.TEST.AUG.FLIP)
    if isinstance(model, GeneralizedRCNN) and not isinstance(model, PanopticFPN):
        return RCNNWithTTA(cfg, model)
    raise ValueError(
        f"{type(model).__name__} has no test-time augmentation (only semantic segmentation and "
        "R-CNNs have): set TEST.AUG.ENABLED False"
    )


class SemanticSegmentorWithTTA(nn.Module):
    """Averages class probabilities over scaled and mirrored views of each image.

    Args:
        model: a semantic segmentor in evaluation mode.
        scales: sizes of the views relative to the image that the mapper delivered.
        flip: whether every view is also mirrored.

    Raises:
        ValueError: no scale, or one that is not positive.
    """

    def __init__(self, model: nn.Module, *, scales: Sequence[float], flip: bool) -> None:
        super().__init__()
        if not scales or min(scales) <= 0:
            raise ValueError(f"TEST.AUG.SCALES must be positive numbers, got {list(scales)}")
        self.model = model
        self.scales = tuple(scales)
        self.flip = flip

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Detectron2's interface: one output an image, with averaged ``sem_seg`` probabilities.

        Other entries, such as ``routes``, are those of the view of scale 1 (else the first view),
        while ``milliseconds`` adds up all views.
        """
        return [self._one(inputs) for inputs in batched_inputs]

    def _one(self, inputs: dict[str, Any]) -> dict[str, Any]:
        image = inputs["image"]
        size = {
            "height": inputs.get("height", image.shape[-2]),
            "width": inputs.get("width", image.shape[-1]),
        }
        views = [
            (scale, mirrored)
            for scale in self.scales
            for mirrored in (False, True)[: 1 + self.flip]
        ]
        chosen = min(range(len(views)), key=lambda i: (abs(views[i][0] - 1), i))
        outputs = [self._view(image, scale, mirrored, size) for scale, mirrored in views]
        result = dict(outputs[chosen])
        result["sem_seg"] = torch.stack([o["sem_seg"] for o in outputs]).mean(dim=0)
        if "milliseconds" in result:
            result["milliseconds"] = sum(o["milliseconds"] for o in outputs)
        return result

    def _view(
        self, image: Tensor, scale: float, mirrored: bool, size: dict[str, int]
    ) -> dict[str, Any]:
        """Probabilities of one view, turned back."""
        shape = [max(1, round(side * scale)) for side in image.shape[-2:]]
        view = F.interpolate(image[None].float(), size=shape, mode="bilinear", align_corners=False)
        view = view[0].flip(-1) if mirrored else view[0]
        output = self.model([{"image": view, **size}])[0]
        scores = output["sem_seg"].softmax(dim=0)
        return {**output, "sem_seg": scores.flip(-1) if mirrored else scores}
