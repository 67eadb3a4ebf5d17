"""Costs of routes through a whole Detectron2 model: routed backbone plus what always runs."""

from __future__ import annotations

from collections.abc import Mapping

from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import Tensor, nn

from dynamic_routing.routing import RoutedModule, Routes, RoutingNetwork
from dynamic_routing.routing.cost import GIGA, CostModel, WorkAtSize
from dynamic_routing.routing.counting import Work, count_work, meta_image


def routed_network(backbone: nn.Module) -> RoutingNetwork:
    """The one routing network inside a backbone.

    Raises:
        ValueError: there is none, or more than one.
    """
    found = [m for m in backbone.modules() if isinstance(m, RoutedModule)]
    if len(found) != 1 or not isinstance(found[0], RoutingNetwork):
        raise ValueError(
            "MODEL.BACKBONE.NAME must build one routing network (such as "
            f"build_dynamic_routing_backbone); {type(backbone).__name__} has {len(found)}"
        )
    return found[0]


def model_cost(model: nn.Module, *, convention: str) -> CostModel:
    """The cost model of a Detectron2 model with a routed backbone.

    A semantic-segmentation head runs in full for every image and is counted; heads whose work
    depends on proposals are not.

    Raises:
        ValueError: a backbone without one routing network, or an unknown convention.
    """
    backbone = model.backbone
    assert isinstance(backbone, Backbone), f"not a backbone: {type(backbone).__name__}"
    fixed: dict[str, WorkAtSize] = {}
    head = getattr(model, "sem_seg_head", None)
    if head is not None:
        fixed["head"] = _head_work(head, backbone.output_shape())
    return CostModel(routed_network(backbone), convention=convention, fixed=fixed)


def _head_work(head: nn.Module, shapes: Mapping[str, ShapeSpec]) -> WorkAtSize:
    """Work of a head that maps named features to scores."""

    def work(height: int, width: int) -> Work:
        """Count one call of the head for one image."""
        features = {
            name: meta_image(s.channels or 0, height // (s.stride or 1), width // (s.stride or 1))
            for name, s in shapes.items()
        }
        return count_work(head, features)

    return work


class RouteCosts:
    """Named executed costs of routes, in units of 1e9, for the :class:`RoutingEvaluator`.

    ``gmacs`` are multiply-adds that ran; ``paper_gflops`` is what the papers print as FLOPs.
    """

    def __init__(self, model: nn.Module) -> None:
        self.macs = model_cost(model, convention="macs")
        self.paper = model_cost(model, convention="paper")

    def __call__(self, routes: Routes) -> dict[str, Tensor]:
        """(N,) numbers for the routes of N images."""
        return {
            "gmacs": self.macs.executed(routes) / GIGA,
            "paper_gflops": self.paper.executed(routes) / GIGA,
        }
