"""What a config asks for and its model would silently ignore."""

from __future__ import annotations

from detectron2.config import CfgNode
from torch import nn

from dynamic_routing.modeling.meta_arch import RoutingMixin
from dynamic_routing.modeling.test_time_augmentation import with_test_time_augmentation


def check_budget_applies(cfg: CfgNode, model: nn.Module) -> None:
    """Refuse a budget that the model would silently ignore.

    Raises:
        ValueError: a budget on a model without losses on routes.
    """
    budget = cfg.MODEL.DYNAMIC_ROUTING.BUDGET
    if (budget.LAMBDA or budget.TARGET_GMACS) and not isinstance(model, RoutingMixin):
        raise ValueError(
            f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE} has no budget: set "
            "BUDGET.LAMBDA and BUDGET.TARGET_GMACS to 0 or take a DynamicRouting one"
        )


def check_augmentation_applies(cfg: CfgNode, model: nn.Module) -> None:
    """Refuse test-time augmentation that the model does not have before anything is trained.

    Raises:
        ValueError: see :func:`with_test_time_augmentation`.
    """
    if cfg.TEST.AUG.ENABLED and cfg.DATASETS.TEST:
        with_test_time_augmentation(cfg, model)
