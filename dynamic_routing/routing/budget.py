"""The budget loss: keep the expected cost of a route near a share of the full cost.

Li et al. 2020, Eq. 10: L_C = (C(Space) / C - mu) ** 2, weighted by lambda. C, the cost of the
space with every gate open, is computed from the network and the size of the batch, never typed in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dynamic_routing.routing.cost import CostModel
from dynamic_routing.routing.routes import Routes


@dataclass(frozen=True)
class BudgetSchedule:
    """When the loss acts, as fractions of the training (released code: 0.4, then 0.02).

    Attributes:
        start: the loss is off before this fraction of the iterations.
        ramp: its weight grows linearly over this fraction after ``start``.

    Raises:
        ValueError: a fraction outside [0, 1].
    """

    start: float = 0.4
    ramp: float = 0.02

    def __post_init__(self) -> None:
        if not (0 <= self.start <= 1 and 0 <= self.ramp <= 1):
            raise ValueError(
                f"budget start and ramp must be in [0, 1], got {self.start} and {self.ramp}"
            )

    def strength(self, progress: float) -> float:
        """Share of the full weight at ``progress`` in [0, 1] of the training."""
        if progress < self.start:
            return 0.0
        return 1.0 if self.ramp == 0 else min(1.0, (progress - self.start) / self.ramp)


class BudgetLoss(nn.Module):
    """lambda * mean over images of (expected cost / C - mu) ** 2.

    Args:
        cost: what a route costs; the ratio needs one convention for both its terms, the papers'
            uses ``paper``.
        weight: lambda, at least 0.
        mu: the wished share of the full expected cost, in [0, 1].
        schedule: when the loss acts.

    Raises:
        ValueError: weight or mu outside these bounds.
    """

    progress: Tensor

    def __init__(
        self,
        cost: CostModel,
        *,
        weight: float,
        mu: float,
        schedule: BudgetSchedule | None = None,
    ) -> None:
        super().__init__()
        if weight < 0 or not 0 <= mu <= 1:
            raise ValueError(f"budget weight must be >= 0 and mu in [0, 1], got {weight} and {mu}")
        self.cost = cost
        self.weight = weight
        self.mu = mu
        self.schedule = schedule or BudgetSchedule()
        self.register_buffer("progress", torch.zeros(()), persistent=False)

    def set_progress(self, fraction: float) -> None:
        """Tell the loss how much of the training is done, in [0, 1]."""
        self.progress.fill_(fraction)

    def forward(self, routes: Routes, image_ids: Sequence[str] = ()) -> dict[str, Tensor]:
        """The loss for the routes of one batch.

        Returns:
            ``{"loss_budget": scalar}``; 0 with a gradient of 0 while the schedule is off.
        """
        share = self.cost.expected(routes) / self.cost.full_expected(*routes.image_size)
        factor = self.weight * self.schedule.strength(float(self.progress))
        return {"loss_budget": factor * ((share - self.mu) ** 2).mean().float()}


class TargetBudgetLoss(nn.Module):
    """pressure * mean over images of (expected cost / C).

    Linear, so that its gradient is the pressure itself, whatever the route: a controller raises
    and lowers the pressure, also below 0, until the executed cost is where it should be.

    Args:
        cost: what a route costs.
    """

    pressure: Tensor

    def __init__(self, cost: CostModel) -> None:
        super().__init__()
        self.cost = cost
        self.register_buffer("pressure", torch.zeros(()), persistent=False)

    def forward(self, routes: Routes, image_ids: Sequence[str] = ()) -> dict[str, Tensor]:
        """The loss for the routes of one batch: ``{"loss_budget": scalar}``."""
        share = self.cost.expected(routes) / self.cost.full_expected(*routes.image_size)
        return {"loss_budget": self.pressure * share.mean().float()}


@dataclass
class BudgetController:
    """Sets the pressure from the executed cost that it sees (a PI controller).

    Before ``start`` of the training the pressure is 0. Then a reference falls in a straight line
    from the cost seen first to the target, which it reaches at ``arrive``, and stays there.
    The pressure follows the distance to the reference and its integral over the progress of the
    training. Descending slowly matters: a gate that is closed for every image gets no gradient
    from max(0, tanh), so that an overshoot would be hard to undo.

    Attributes:
        target: wished executed cost as a share of the ceiling (every gate open), in (0, 1].
        start: fraction of the training at which control begins.
        arrive: fraction of the training at which the reference has reached the target.
        proportional: pressure per unit of distance.
        integral: pressure per unit of distance and of training.
        limit: bound of the pressure on both sides.
        first: the share seen first under control, None before.
        accumulated: integral of the distance so far.
        last_progress: when the controller last looked.
    """

    target: float
    start: float = 0.1
    arrive: float = 0.7
    proportional: float = 20.0
    integral: float = 200.0
    limit: float = 20.0
    first: float | None = None
    accumulated: float = 0.0
    last_progress: float = 0.0

    def reference(self, progress: float) -> float:
        """Where the cost should be at ``progress`` in [0, 1]."""
        if self.first is None or progress <= self.start:
            return 1.0 if self.first is None else self.first
        way = min(1.0, (progress - self.start) / max(self.arrive - self.start, 1e-9))
        return self.first + way * (self.target - self.first)

    def update(self, progress: float, seen: float) -> float:
        """Look at the executed share ``seen`` and return the new pressure."""
        if progress < self.start:
            self.last_progress = progress
            return 0.0
        if self.first is None:
            self.first = seen
        distance = seen - self.reference(progress)
        step = max(progress - self.last_progress, 0.0)
        self.last_progress = progress
        bound = self.limit / self.integral
        self.accumulated = min(bound, max(-bound, self.accumulated + distance * step))
        pressure = self.proportional * distance + self.integral * self.accumulated
        return min(self.limit, max(-self.limit, pressure))
