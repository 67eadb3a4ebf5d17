"""The Detectron2 backbone: a :class:`RoutingNetwork` behind Detectron2's interface."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor

from dynamic_routing.modeling.features import FeatureMaps, feature_name
from dynamic_routing.modeling.neck import NECKS, ProjectionNeck
from dynamic_routing.routing import GateSpec, RoutingNetwork, RoutingSpace, StemSpec
from dynamic_routing.routing.subnetworks import read_subgraph


class DynamicRoutingBackbone(Backbone):
    """Feature maps p2, p3, ... of a routing network.

    Args:
        network: the routed network; its routes are recorded by ``record_routes(backbone)``.
    """

    @configurable
    def __init__(self, *, network: RoutingNetwork) -> None:
        super().__init__()
        self.network = network

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Read ``MODEL.DYNAMIC_ROUTING``."""
        return {"network": build_routing_network(cfg, input_shape)}

    def forward(self, images: Tensor) -> FeatureMaps:
        """(N, 3, H, W) -> p2 (N, C, H/4, W/4), p3 (N, 2C, H/8, W/8), ..."""
        output = self.network(images)
        return FeatureMaps(
            {feature_name(s): x for s, x in output.features.items()},
            {feature_name(s): output.output_reached(s) for s in output.features},
        )

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each feature map."""
        return {
            feature_name(s): ShapeSpec(channels=self.network.channels(s), stride=4 << s)
            for s in self.network.space.scales
        }

    @property
    def size_divisibility(self) -> int:
        """Meta-architectures pad images to multiples of this, the coarsest stride."""
        return self.network.space.stride


class DynamicRoutingFPN(DynamicRoutingBackbone):
    """Feature maps p2 .. p6 of one width, for the heads of Detectron2's detectors.

    The network keeps its name (``backbone.network``), so weights move between segmentation,
    classification and detection. Outputs that nothing reached are zeros before the neck.

    Args:
        network: the routed network.
        neck: brings every output to one width.
    """

    @configurable
    def __init__(self, *, network: RoutingNetwork, neck: ProjectionNeck) -> None:
        super().__init__(network=network)
        self.neck = neck

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Read ``MODEL.DYNAMIC_ROUTING`` and ``MODEL.FPN.{OUT_CHANNELS,NORM}``."""
        network = build_routing_network(cfg, input_shape)
        channels = {feature_name(s): network.channels(s) for s in network.space.scales}
        neck = NECKS[cfg.MODEL.DYNAMIC_ROUTING.NECK]
        out_channels, norm = cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.FPN.NORM
        return {"network": network, "neck": neck(channels, out_channels=out_channels, norm=norm)}

    def forward(self, images: Tensor) -> FeatureMaps:
        """(N, 3, H, W) -> p2 (N, C, H/4, W/4), p3 (N, C, H/8, W/8), ..., C = OUT_CHANNELS."""
        features = super().forward(images)
        return FeatureMaps(self.neck(features), features.reached)

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each feature map."""
        return {
            name: ShapeSpec(channels=self.neck.out_channels, stride=shape.stride)
            for name, shape in super().output_shape().items()
        }


def build_space(cfg: CfgNode) -> RoutingSpace:
    """The routing space that ``MODEL.DYNAMIC_ROUTING.SPACE`` describes."""
    node = cfg.MODEL.DYNAMIC_ROUTING.SPACE
    if node.EDGES:
        return RoutingSpace.from_edges(node.EDGES, num_scales=node.NUM_SCALES)
    if node.SUBGRAPH:
        return read_subgraph(node.SUBGRAPH, num_scales=node.NUM_SCALES)
    return RoutingSpace.grid(
        node.NUM_LAYERS,
        num_scales=node.NUM_SCALES,
        num_output_scales=node.NUM_OUTPUT_SCALES or None,
    )


def build_routing_network(cfg: CfgNode, input_shape: ShapeSpec) -> RoutingNetwork:
    """The routing network that ``MODEL.DYNAMIC_ROUTING`` describes."""
    node = cfg.MODEL.DYNAMIC_ROUTING
    network = RoutingNetwork(
        build_space(cfg),
        width=node.WIDTH,
        operations=node.OPERATIONS,
        gate=GateSpec(node.GATE.ACTIVATION, node.GATE.BIAS_INIT, node.GATE.SMALL),
        norm=lambda channels: get_norm(node.NORM, channels),
        unreached=node.UNREACHED,
        drop_path=node.DROP_PATH,
        stem=StemSpec(in_channels=input_shape.channels or 3, padding=node.STEM_PADDING),
    )
    network.skip_closed = node.SKIP_CLOSED
    return network


@BACKBONE_REGISTRY.register()
def build_dynamic_routing_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> DynamicRoutingBackbone:
    """``MODEL.BACKBONE.NAME: build_dynamic_routing_backbone``."""
    return DynamicRoutingBackbone(cfg, input_shape)


@BACKBONE_REGISTRY.register()
def build_dynamic_routing_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> DynamicRoutingFPN:
    """``MODEL.BACKBONE.NAME: build_dynamic_routing_fpn_backbone``."""
    return DynamicRoutingFPN(cfg, input_shape)
