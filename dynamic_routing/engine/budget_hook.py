"""The hook that keeps the executed cost on its way to a target in GMACs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn

from dynamic_routing.engine.loaders import build_mapper
from dynamic_routing.modeling.cost import model_cost
from dynamic_routing.routing.budget import BudgetController, TargetBudgetLoss
from dynamic_routing.routing.cost import GIGA, CostModel

CLOSING = "max_tanh"
"""The gate activation that closes edges."""

logger = logging.getLogger(__name__)


class BudgetTargetHook(HookBase):
    """Every ``period`` iterations: probe the executed cost, set the loss's pressure.

    Args:
        loss: what exerts the pressure.
        controller: decides how much.
        probe: the executed cost at present, as a share of the ceiling.
        ceiling: executed cost with every gate open, in GMACs, for the log.
        period: iterations between two probes.
    """

    def __init__(
        self,
        loss: TargetBudgetLoss,
        controller: BudgetController,
        *,
        probe: Callable[[], float],
        ceiling: float,
        period: int,
    ) -> None:
        self._loss = loss
        self._controller = controller
        self._probe = probe
        self._ceiling = ceiling
        self._period = period

    def before_step(self) -> None:
        """Probe where it is time; the pressure of the first iterations is 0."""
        if self.trainer.iter % self._period:
            return
        progress = self.trainer.iter / max(self.trainer.max_iter, 1)
        seen = self._probe()
        pressure = self._controller.update(progress, seen, rate=self._learning_rate_share())
        self._loss.pressure.fill_(pressure)
        storage = self.trainer.storage
        storage.put_scalar("routing/probed_gmacs", seen * self._ceiling, smoothing_hint=False)
        storage.put_scalar("routing/budget_pressure", pressure, smoothing_hint=False)
        reference = self._controller.reference(progress) * self._ceiling
        storage.put_scalar("routing/reference_gmacs", reference, smoothing_hint=False)

    def _learning_rate_share(self) -> float:
        """The learning rate as a share of what the schedule starts from."""
        group = self.trainer.optimizer.param_groups[0]
        return group["lr"] / group["initial_lr"]

    def state_dict(self) -> dict[str, Any]:
        """The controller's memory and the pressure that is on."""
        return {**asdict(self._controller), "pressure": float(self._loss.pressure)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self._loss.pressure.fill_(state_dict["pressure"])
        for name in ("first", "accumulated", "last_progress", "last_distance"):
            setattr(self._controller, name, state_dict[name])


class CostProbe:
    """Executed cost of the model, as it is, on a few training images.

    Args:
        model: a routed meta-architecture.
        inputs: what the test-time mapper made of the images.
        cost: executed cost.
        size: (height, width) at which the routes are priced.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        inputs: Sequence[dict[str, Any]],
        cost: CostModel,
        size: tuple[int, int],
    ) -> None:
        self._model = model
        self._inputs = list(inputs)
        self._cost = cost
        self._size = size
        self._ceiling = cost.open_cost(*size)

    @torch.no_grad()
    def __call__(self) -> float:
        """Average over the images and processes, as a share of the ceiling."""
        training = self._model.training
        self._model.eval()
        try:
            routes = [self._model([x])[0]["routes"] for x in self._inputs]
        finally:
            self._model.train(training)
        costs = [float(self._cost.executed(replace(r, image_size=self._size))) for r in routes]
        shares = comm.all_gather(sum(costs) / len(costs) / self._ceiling)
        return float(sum(shares) / len(shares))


def build_budget_hook(cfg: CfgNode, model: nn.Module) -> BudgetTargetHook | None:
    """The hook that BUDGET.TARGET_GMACS asks for, or None.

    Raises:
        ValueError: the target lies outside what the network can cost; names both bounds.
    """
    budget = cfg.MODEL.DYNAMIC_ROUTING.BUDGET
    loss = next((m for m in model.modules() if isinstance(m, TargetBudgetLoss)), None)
    if loss is None:
        return None
    activation = cfg.MODEL.DYNAMIC_ROUTING.GATE.ACTIVATION
    if activation != CLOSING:
        raise ValueError(
            f"BUDGET.TARGET_GMACS needs gates that close ({CLOSING}); GATE.ACTIVATION is "
            f"{activation}"
        )
    size = (budget.TARGET_SIZE[0], budget.TARGET_SIZE[1])
    stride = loss.cost.space.stride
    if min(size) < stride:
        raise ValueError(f"BUDGET.TARGET_SIZE must be at least {stride}x{stride}, got {size}")
    cost = model_cost(model, convention="macs")
    floor, ceiling = cost.closed_cost(*size) / GIGA, cost.open_cost(*size) / GIGA
    if not floor < budget.TARGET_GMACS <= ceiling:
        raise ValueError(
            f"BUDGET.TARGET_GMACS {budget.TARGET_GMACS:g} cannot be met: at {size[0]}x{size[1]} "
            f"this network costs {floor:.4g} GMACs with every gate closed and {ceiling:.4g} with "
            "every gate open"
        )
    logger.info(
        "budget target %g GMACs, between %.4g and %.4g", budget.TARGET_GMACS, floor, ceiling
    )
    name = cfg.DATASETS.TRAIN[0]
    records = DatasetCatalog.get(name)
    step = max(1, len(records) // budget.PROBE_IMAGES)
    mapper = build_mapper(cfg, name, train=False)
    inputs = [mapper(record) for record in records[::step][: budget.PROBE_IMAGES]]
    return BudgetTargetHook(
        loss,
        BudgetController(budget.TARGET_GMACS / ceiling, start=budget.START, arrive=budget.ARRIVE),
        probe=CostProbe(model, inputs=inputs, cost=cost, size=size),
        ceiling=ceiling,
        period=budget.PROBE_PERIOD,
    )
