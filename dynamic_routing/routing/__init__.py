"""Dynamic routing in pure PyTorch: spaces, gates, cells, networks and routes.

Nothing in this package imports Detectron2.
"""

from dynamic_routing.routing.cell import RoutingCell
from dynamic_routing.routing.cells import OPERATIONS, PUBLISHED_CELL
from dynamic_routing.routing.decoder import SegmentationDecoder
from dynamic_routing.routing.editing import common_route, edited
from dynamic_routing.routing.execution import PreparedNetwork, prepare_for_inference
from dynamic_routing.routing.gates import ACTIVATIONS, FIXED, GateSpec
from dynamic_routing.routing.network import RoutingNetwork, StemSpec
from dynamic_routing.routing.replay import fixed_routes
from dynamic_routing.routing.routes import (
    UNREACHED_RULES,
    RoutedModule,
    Routes,
    RoutingOutput,
    record_routes,
)
from dynamic_routing.routing.space import EDGE_KINDS, INITIAL, Edge, Node, RoutingSpace

__all__ = [
    "ACTIVATIONS",
    "EDGE_KINDS",
    "FIXED",
    "INITIAL",
    "OPERATIONS",
    "PUBLISHED_CELL",
    "UNREACHED_RULES",
    "Edge",
    "GateSpec",
    "Node",
    "PreparedNetwork",
    "RoutedModule",
    "Routes",
    "RoutingCell",
    "RoutingNetwork",
    "RoutingOutput",
    "RoutingSpace",
    "SegmentationDecoder",
    "StemSpec",
    "common_route",
    "edited",
    "fixed_routes",
    "prepare_for_inference",
    "record_routes",
]
