"""Losses on routes that a config asks for."""

from __future__ import annotations

from detectron2.config import CfgNode
from torch import nn

from dynamic_routing.routing import RoutingNetwork
from dynamic_routing.routing.budget import BudgetLoss, BudgetSchedule
from dynamic_routing.routing.cost import CostModel


def build_routing_losses(cfg: CfgNode, network: RoutingNetwork) -> list[nn.Module]:
    """Every loss on routes with a weight above 0."""
    budget = cfg.MODEL.DYNAMIC_ROUTING.BUDGET
    losses: list[nn.Module] = []
    if budget.LAMBDA > 0:
        losses.append(
            BudgetLoss(
                CostModel(network, convention="paper"),
                weight=budget.LAMBDA,
                mu=budget.MU,
                schedule=BudgetSchedule(budget.START, budget.RAMP),
            )
        )
    return losses
