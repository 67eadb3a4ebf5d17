"""Image classification, for pre-training a backbone on ImageNet.

The papers' best rows start from ImageNet weights; neither they nor the released code say how those
were made. Here every output of the backbone is pooled and all are concatenated, not the coarsest
alone: each output's last cells and gates then learn, and the heads that come later read them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import get_norm
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.structures import ImageList
from torch import Tensor, nn

from dynamic_routing.modeling.losses import with_routing_losses
from dynamic_routing.modeling.meta_arch import RoutingMixin
from dynamic_routing.routing.layers import NormFactory


class PooledClassifier(nn.Module):
    """From feature maps to class scores: pool each, concatenate, normalise, one linear layer.

    A cell adds to its input, so features grow with the depth, and what pooled features have in
    common is larger than what tells images apart; the norm evens both out.

    Args:
        channels: name of a feature map -> its channels.
        num_classes: classes to score.
        norm: maker of the norm of the pooled features.

    Raises:
        ValueError: no feature map, or fewer than two classes.
    """

    def __init__(
        self, channels: dict[str, int], num_classes: int, *, norm: NormFactory = nn.BatchNorm2d
    ) -> None:
        super().__init__()
        if not channels:
            raise ValueError("a classifier needs feature maps, got none")
        if num_classes < 2:
            raise ValueError(f"a classifier needs at least 2 classes, got {num_classes}")
        self.in_features = list(channels)
        self.pool = nn.AdaptiveAvgPool2d(1)
        total = sum(channels.values())
        self.norm = norm(total)
        self.linear = nn.Linear(total, num_classes)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Name -> (N, C, H, W); returns scores (N, num_classes)."""
        pooled = torch.cat([self.pool(features[name]) for name in self.in_features], dim=1)
        return self.linear(self.norm(pooled).flatten(1))


class PlainImageClassifier(nn.Module):
    """Backbone and classifier, with Detectron2's interface.

    Args:
        backbone: any Detectron2 backbone.
        num_classes: classes to score.
        norm: name of the norm of the pooled features; one that needs a batch (BN) needs two
            images a step at least.
        label_smoothing: share of the target that is spread over all classes, in [0, 1).
        pixel_mean: one value a channel.
        pixel_std: one value a channel.

    Raises:
        ValueError: label smoothing outside [0, 1).
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        norm: str,
        label_smoothing: float,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        super().__init__()
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"label smoothing must be in [0, 1), got {label_smoothing}")
        self.backbone = backbone
        self.label_smoothing = label_smoothing
        channels = {name: s.channels or 0 for name, s in backbone.output_shape().items()}
        self.classifier = PooledClassifier(
            channels, num_classes, norm=lambda total: get_norm(norm, total)
        )
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Detectron2's interface.

        Args:
            batched_inputs: one dict an image with "image" (C, H, W) and, in training, "class_id".

        Returns:
            In training {"loss_class"}; else one dict an image with "scores" (num_classes,).
        """
        images = [(x["image"].to(self.device) - self.pixel_mean) / self.pixel_std
                  for x in batched_inputs]  # fmt: skip
        batch = ImageList.from_tensors(
            images,
            self.backbone.size_divisibility,
            padding_constraints=self.backbone.padding_constraints,
        )
        scores = self.classifier(self.backbone(batch.tensor))
        if not self.training:
            return [{"scores": row} for row in scores]
        if "class_id" not in batched_inputs[0]:
            raise ValueError('training needs labels: the batch has no "class_id"')
        classes = torch.tensor([x["class_id"] for x in batched_inputs], device=self.device)
        loss = F.cross_entropy(scores.float(), classes, label_smoothing=self.label_smoothing)
        return {"loss_class": loss}


@META_ARCH_REGISTRY.register()
class ImageClassifier(RoutingMixin, PlainImageClassifier):
    """Classification with routes (``MODEL.META_ARCHITECTURE``)."""

    @configurable
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Read the backbone, ``MODEL.CLASSIFIER`` and the losses on routes."""
        arguments = {
            "backbone": build_backbone(cfg),
            "num_classes": cfg.MODEL.CLASSIFIER.NUM_CLASSES,
            "norm": cfg.MODEL.DYNAMIC_ROUTING.NORM,
            "label_smoothing": cfg.MODEL.CLASSIFIER.LABEL_SMOOTHING,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }
        return with_routing_losses(cfg, arguments)
