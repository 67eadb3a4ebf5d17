"""Costs of routes through a whole Detectron2 model: routed backbone plus what always runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import (
    Backbone,
    GeneralizedRCNN,
    PanopticFPN,
    RetinaNet,
    SemanticSegmentor,
)
from detectron2.modeling.proposal_generator import RPN
from torch import Tensor, nn

from dynamic_routing.modeling.backbone import DynamicRoutingBackbone, DynamicRoutingFPN
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


def backbone_cost(model: nn.Module, *, convention: str) -> CostModel:
    """The cost model of the routed backbone alone, which the papers print for detectors.

    Raises:
        ValueError: a backbone without one routing network, or an unknown convention.
    """
    return CostModel(routed_network(_backbone(model)), convention=convention)


def model_cost(model: nn.Module, *, convention: str) -> CostModel:
    """The cost model of a Detectron2 model with a routed backbone.

    What runs in full for every image is counted: the neck, a semantic-segmentation head, a region
    proposal head, the dense head of RetinaNet. Heads whose work depends on proposals are not.

    Raises:
        ValueError: a backbone without one routing network, or an unknown convention.
    """
    backbone = _backbone(model)
    fixed: dict[str, WorkAtSize] = {}
    if isinstance(backbone, DynamicRoutingFPN):
        fixed["neck"] = _work_on_maps(backbone.neck, DynamicRoutingBackbone.output_shape(backbone))
    for name, head in _dense_heads(model).items():
        fixed[name] = _work_on_maps(head, backbone.output_shape())
    return CostModel(routed_network(backbone), convention=convention, fixed=fixed)


def _backbone(model: nn.Module) -> Backbone:
    backbone = model.backbone
    assert isinstance(backbone, Backbone), f"not a backbone: {type(backbone).__name__}"
    return backbone


class _OnLevels(nn.Module):
    """A head that takes a list of maps, as one that takes named maps."""

    def __init__(self, head: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.head = head
        self.names = list(names)

    def forward(self, features: Mapping[str, Tensor]) -> object:
        """Name -> (N, C, H, W)."""
        return self.head([features[name] for name in self.names])


def _dense_heads(model: nn.Module) -> dict[str, nn.Module]:
    """Heads whose work depends on the image size alone, as modules that take named maps."""
    heads: dict[str, nn.Module] = {}
    if isinstance(model, SemanticSegmentor | PanopticFPN):
        heads["head"] = model.sem_seg_head
    if isinstance(model, GeneralizedRCNN) and isinstance(model.proposal_generator, RPN):
        rpn = model.proposal_generator
        heads["rpn"] = _OnLevels(rpn.rpn_head, rpn.in_features)
    classifier = getattr(model, "classifier", None)
    if isinstance(classifier, nn.Module):
        heads["classifier"] = classifier
    if isinstance(model, RetinaNet):
        heads["head"] = _OnLevels(model.head, model.head_in_features)
    return heads


def _work_on_maps(module: nn.Module, shapes: Mapping[str, ShapeSpec]) -> WorkAtSize:
    """Work of a module that maps named features to something."""
    coarsest = max(shape.stride or 1 for shape in shapes.values())

    def work(height: int, width: int) -> Work:
        """Count one call for one image, padded to the coarsest stride."""
        height, width = (-(-side // coarsest) * coarsest for side in (height, width))
        dtype = next((p.dtype for p in module.parameters()), torch.get_default_dtype())
        features = {
            name: meta_image(s.channels or 0, height // (s.stride or 1), width // (s.stride or 1))
            for name, s in shapes.items()
        }
        return count_work(module, {name: x.to(dtype) for name, x in features.items()})

    return work


class RouteCosts:
    """Named executed costs of routes, in units of 1e9, for the :class:`RoutingEvaluator`.

    ``gmacs`` are multiply-adds that ran. ``paper_gflops`` is what the papers print as FLOPs: of the
    whole network in segmentation, of the backbone in detection, whose multiply-adds are then also
    given by themselves as ``backbone_gmacs``.
    """

    def __init__(self, model: nn.Module) -> None:
        self._costs = {"gmacs": model_cost(model, convention="macs")}
        if isinstance(model, SemanticSegmentor):
            self._costs["paper_gflops"] = model_cost(model, convention="paper")
        else:
            self._costs["paper_gflops"] = backbone_cost(model, convention="paper")
            self._costs["backbone_gmacs"] = backbone_cost(model, convention="macs")

    def __call__(self, routes: Routes) -> dict[str, Tensor]:
        """(N,) numbers for the routes of N images."""
        return {name: cost.executed(routes) / GIGA for name, cost in self._costs.items()}
