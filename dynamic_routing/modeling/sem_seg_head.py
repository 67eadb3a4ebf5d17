"""The decoder head of the papers for Detectron2's segmentation meta-architectures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from dynamic_routing.modeling.features import FeatureMaps
from dynamic_routing.routing import SegmentationDecoder


@SEM_SEG_HEADS_REGISTRY.register()
class DynamicRoutingSemSegHead(nn.Module):
    """:class:`SegmentationDecoder` with its loss (``MODEL.SEM_SEG_HEAD.NAME``).

    Args:
        input_shape: shapes of the features that it reads, strides 4, 8, ... without a gap.
        num_classes: classes to score.
        norm: name of the norm, or a factory from channels.
        loss_weight: factor of the cross entropy.
        ignore_value: label of pixels that do not count.
        pyramid_pooling: whether PSPNet's module stands on the coarsest feature.

    Raises:
        ValueError: features that do not start at stride 4 or skip a scale.
    """

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        num_classes: int,
        norm: str | Callable[[int], nn.Module] = "SyncBN",
        loss_weight: float = 1.0,
        ignore_value: int = 255,
        pyramid_pooling: bool = False,
    ) -> None:
        super().__init__()
        ordered = sorted(input_shape.items(), key=lambda item: item[1].stride or 0)
        strides = [shape.stride for _, shape in ordered]
        if not strides or strides != [4 << i for i in range(len(strides))]:
            raise ValueError(
                "DynamicRoutingSemSegHead needs features of strides 4, 8, 16, ... without a gap, "
                f"got {strides}; check MODEL.SEM_SEG_HEAD.IN_FEATURES"
            )
        self.in_features = [name for name, _ in ordered]
        self.ignore_value = ignore_value
        self.loss_weight = loss_weight
        self.decoder = SegmentationDecoder(
            [shape.channels or 0 for _, shape in ordered],
            num_classes,
            norm=lambda channels: get_norm(norm, channels),
            pyramid_pooling=pyramid_pooling,
        )

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Read ``MODEL.SEM_SEG_HEAD`` and ``MODEL.DYNAMIC_ROUTING.PYRAMID_POOLING``."""
        node = cfg.MODEL.SEM_SEG_HEAD
        return {
            "input_shape": {n: input_shape[n] for n in _known(node.IN_FEATURES, input_shape)},
            "num_classes": node.NUM_CLASSES,
            "norm": node.NORM,
            "loss_weight": node.LOSS_WEIGHT,
            "ignore_value": node.IGNORE_VALUE,
            "pyramid_pooling": cfg.MODEL.DYNAMIC_ROUTING.PYRAMID_POOLING,
        }

    def forward(
        self, features: dict[str, Tensor], targets: Tensor | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Detectron2's head interface.

        Args:
            features: name -> (N, C, H / stride, W / stride).
            targets: (N, H, W) labels, needed in training.

        Returns:
            In training (None, {"loss_sem_seg"}); in evaluation (scores (N, K, H, W), {}).
        """
        maps = {scale: features[name] for scale, name in enumerate(self.in_features)}
        reached = None
        if isinstance(features, FeatureMaps):
            reached = {s: features.reached[name] for s, name in enumerate(self.in_features)}
        scores = self.decoder(maps, reached)
        if not self.training:
            return scores, {}
        if targets is None:
            raise ValueError('training needs labels: the batch has no "sem_seg"')
        return None, {"loss_sem_seg": self.loss(scores, targets)}

    def loss(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Cross entropy averaged over labelled pixels; 0 when every pixel is ignored."""
        total = F.cross_entropy(
            scores.float(), targets, reduction="sum", ignore_index=self.ignore_value
        )
        labelled = (targets != self.ignore_value).sum().clamp(min=1)
        return self.loss_weight * total / labelled


def _known(names: Sequence[str], shapes: dict[str, ShapeSpec]) -> Sequence[str]:
    """The names, if the backbone delivers them all."""
    missing = [name for name in names if name not in shapes]
    if missing:
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.IN_FEATURES asks for {', '.join(missing)}, but the backbone "
            f"delivers {', '.join(shapes)}"
        )
    return names
