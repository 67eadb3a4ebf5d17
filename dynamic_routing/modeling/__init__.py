"""The Detectron2 edge: importing it registers backbones, heads and meta-architectures."""

from dynamic_routing.modeling.backbone import (
    DynamicRoutingBackbone,
    DynamicRoutingFPN,
    build_dynamic_routing_backbone,
    build_dynamic_routing_fpn_backbone,
)
from dynamic_routing.modeling.config import ConfigError, add_dynamic_routing_config, get_config
from dynamic_routing.modeling.detection import (
    DynamicRoutingPanopticFPN,
    DynamicRoutingRCNN,
    DynamicRoutingRetinaNet,
)
from dynamic_routing.modeling.image_classifier import ImageClassifier
from dynamic_routing.modeling.meta_arch import DynamicRoutingSemanticSegmentor, RoutingMixin
from dynamic_routing.modeling.prepared import prepare_model
from dynamic_routing.modeling.sem_seg_head import DynamicRoutingSemSegHead

__all__ = [
    "ConfigError",
    "DynamicRoutingBackbone",
    "DynamicRoutingFPN",
    "DynamicRoutingPanopticFPN",
    "DynamicRoutingRCNN",
    "DynamicRoutingRetinaNet",
    "DynamicRoutingSemSegHead",
    "DynamicRoutingSemanticSegmentor",
    "ImageClassifier",
    "RoutingMixin",
    "add_dynamic_routing_config",
    "build_dynamic_routing_backbone",
    "build_dynamic_routing_fpn_backbone",
    "get_config",
    "prepare_model",
]
