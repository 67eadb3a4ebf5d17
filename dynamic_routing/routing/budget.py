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
