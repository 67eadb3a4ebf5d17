"""The Detectron2 edge: importing it registers backbone, head and meta-architectures."""

from dynamic_routing.modeling.backbone import (
    DynamicRoutingBackbone,
    build_dynamic_routing_backbone,
)
from dynamic_routing.modeling.config import ConfigError, add_dynamic_routing_config, get_config
from dynamic_routing.modeling.meta_arch import DynamicRoutingSemanticSegmentor, RoutingMixin
from dynamic_routing.modeling.sem_seg_head import DynamicRoutingSemSegHead

__all__ = [
    "ConfigError",
    "DynamicRoutingBackbone",
    "DynamicRoutingSemSegHead",
    "DynamicRoutingSemanticSegmentor",
    "RoutingMixin",
    "add_dynamic_routing_config",
    "build_dynamic_routing_backbone",
    "get_config",
]
