"""Detectron2's detectors with routes: R-CNN (boxes, masks, keypoints), RetinaNet, Panoptic FPN."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN, PanopticFPN, RetinaNet

from dynamic_routing.modeling.losses import with_routing_losses
from dynamic_routing.modeling.meta_arch import RoutingMixin
from dynamic_routing.randomness import kept_random_state


@META_ARCH_REGISTRY.register()
class DynamicRoutingRCNN(RoutingMixin, GeneralizedRCNN):
    """Faster, Mask and Keypoint R-CNN with routes (``MODEL.META_ARCHITECTURE``)."""

    @configurable
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Read what GeneralizedRCNN reads, and the losses on routes."""
        return with_routing_losses(cfg, GeneralizedRCNN.from_config(cfg))

    def visualize_training(self, *arguments: Any) -> None:
        """Detectron2's pictures of VIS_PERIOD, whose random colours cost no random number."""
        with kept_random_state():
            super().visualize_training(*arguments)


@META_ARCH_REGISTRY.register()
class DynamicRoutingRetinaNet(RoutingMixin, RetinaNet):
    """RetinaNet with routes (``MODEL.META_ARCHITECTURE``)."""

    @configurable
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Read what RetinaNet reads, and the losses on routes."""
        return with_routing_losses(cfg, RetinaNet.from_config(cfg))


@META_ARCH_REGISTRY.register()
class DynamicRoutingPanopticFPN(RoutingMixin, PanopticFPN):
    """Panoptic FPN with routes (``MODEL.META_ARCHITECTURE``)."""

    @configurable
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Read what PanopticFPN reads, and the losses on routes."""
        return with_routing_losses(cfg, PanopticFPN.from_config(cfg))
