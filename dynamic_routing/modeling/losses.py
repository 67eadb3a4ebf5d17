"""Losses on routes that a config asks for."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from torch import nn

from dynamic_routing.divdr.loss import DivDRLoss
from dynamic_routing.modeling.cost import routed_network
from dynamic_routing.routing import FIXED, RoutingNetwork
from dynamic_routing.routing.budget import BudgetLoss, BudgetSchedule, TargetBudgetLoss
from dynamic_routing.routing.cost import CostModel


def build_routing_losses(cfg: CfgNode, network: RoutingNetwork) -> list[nn.Module]:
    """Every loss on routes with a weight above 0, and the DivDR loss if there are clusters.

    Raises:
        ValueError: keys that contradict each other.
    """
    budget = cfg.MODEL.DYNAMIC_ROUTING.BUDGET
    # First, so that its tensors have the same names in a checkpoint with and without a budget.
    losses: list[nn.Module] = _divdr_losses(cfg, network)
    if budget.TARGET_GMACS > 0 and budget.LAMBDA > 0:
        raise ValueError(
            f"BUDGET.TARGET_GMACS {budget.TARGET_GMACS:g} replaces BUDGET.LAMBDA "
            f"{budget.LAMBDA:g}: set one of them to 0"
        )
    if budget.TARGET_GMACS > 0:
        losses.append(TargetBudgetLoss(CostModel(network, convention="macs")))
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


def _divdr_losses(cfg: CfgNode, network: RoutingNetwork) -> list[nn.Module]:
    """The DivDR loss, if DIVDR.NUM_CLUSTERS is set."""
    divdr = cfg.MODEL.DYNAMIC_ROUTING.DIVDR
    if not divdr.NUM_CLUSTERS:
        return []
    if cfg.MODEL.DYNAMIC_ROUTING.GATE.ACTIVATION == FIXED:
        raise ValueError(
            f"DIVDR.NUM_CLUSTERS {divdr.NUM_CLUSTERS} needs gates that depend on the image; "
            f"GATE.ACTIVATION is {FIXED}"
        )
    return [
        DivDRLoss(
            divdr.NUM_CLUSTERS,
            network.space.activation_dim,
            weight=divdr.WEIGHT,
            margin=divdr.MARGIN,
            norm_power=divdr.NORM_POWER,
        )
    ]


def with_routing_losses(cfg: CfgNode, arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a meta-architecture (``from_config``), with the losses on routes.

    Raises:
        ValueError: ``arguments["backbone"]`` has no routing network.
    """
    network = routed_network(arguments["backbone"])
    return {**arguments, "routing_losses": build_routing_losses(cfg, network)}
