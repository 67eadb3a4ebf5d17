"""The budget loss: keep the expected cost of a route near a share of the full cost.

Li et al. 2020, Eq. 10: L_C = (C(Space) / C - mu) ** 2, weighted by lambda. C, the cost of the
space with every gate open, is computed from the network and the size of the batch, never typed in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
    """pressure * mean over images of a stand-in for the executed share of the full cost.

    An edge counts with f(alpha) = (1 + t) * alpha / (alpha + t) instead of alpha: 0 where it is
    closed, 1 where it is fully open, and steep between 0 and t. Pushing alpha itself makes all
    gates weak before any closes, and then all close at once; f closes the weakest first and
    leaves strong ones strong, so that the executed cost follows step by step.
    max(0, tanh) gives a closed gate no gradient. Below 0 the pressure therefore also lifts the
    logits G of closed gates, by (1 + t) / t * exp(G), those that are nearest to opening first.

    Args:
        cost: what a route costs.
        threshold: t, the strength below which a gate is pushed hard, above 0.

    Raises:
        ValueError: a threshold that is not positive.
    """

    pressure: Tensor

    def __init__(self, cost: CostModel, *, threshold: float = 1.0) -> None:
        super().__init__()
        if threshold <= 0:
            raise ValueError(f"budget threshold must be positive, got {threshold}")
        self.cost = cost
        self.threshold = threshold
        self.register_buffer("pressure", torch.zeros(()), persistent=False)

    def forward(self, routes: Routes, image_ids: Sequence[str] = ()) -> dict[str, Tensor]:
        """The loss for the routes of one batch: ``{"loss_budget": scalar}``."""
        gates, threshold = routes.gates, self.threshold
        saturated = replace(routes, gates=(1 + threshold) * gates / (gates + threshold))
        full = self.cost.full_expected(*routes.image_size)
        share = self.cost.expected(saturated) / full
        loss = self.pressure * share.mean().float()
        if routes.logits is not None:
            loss = loss + self.pressure.clamp(max=0) * self._closed_share(routes) / full
        return {"loss_budget": loss}

    def _closed_share(self, routes: Routes) -> Tensor:
        """Cost of the closed edges of reached cells, weighted by how near they are to opening."""
        assert routes.logits is not None, "routes without logits"
        edges = self.cost.table(*routes.image_size).edges.to(routes.gates.device)
        lift = (1 + self.threshold) / self.threshold * routes.logits.clamp(max=0).exp()
        sources = [routes.space.node_index[e.source] for e in routes.space.edges]
        closed = ~routes.open & routes.reached[:, sources]
        # In float64, which autocast leaves alone: in float32 it would multiply in half precision.
        return ((lift * closed).double() @ edges).mean().float()


INTEGRAL_SHARE = 0.3
"""Share of the pressure's bound that the integral may make up."""


@dataclass
class BudgetController:
    """Sets the pressure from the executed cost that it sees (a PID controller).

    Before ``start`` of the training the pressure is 0. Then a reference falls in a straight line
    from the cost seen first to the target, which it reaches at ``arrive``, and stays there.
    The pressure follows the distance to the reference, its integral over the progress of the
    training and its rate of change, which brakes in time: a gate that is closed for every image
    gets no gradient from max(0, tanh), so that an overshoot is hard to undo. As the learning rate
    decays the pressure grows by as much, so that the gates keep answering it.

    Attributes:
        target: wished executed cost as a share of the ceiling (every gate open), in (0, 1].
        start: fraction of the training at which control begins.
        arrive: fraction of the training at which the reference has reached the target.
        proportional: pressure per unit of distance.
        integral: pressure per unit of distance and of training.
        derivative: pressure per unit of distance gained in the whole training.
        limit: bound of the pressure on both sides, before the learning rate is made up for.
        smoothing: share of the last value in what is taken as seen; probes are noisy.
        least_rate: the learning rate is made up for down to this share of its start.
        first: the share seen first under control, None before.
        accumulated: integral of the distance so far.
        last_progress: when the controller last looked.
        last_distance: what it then saw, None before.
    """

    target: float
    start: float = 0.1
    arrive: float = 0.6
    proportional: float = 80.0
    integral: float = 40.0
    derivative: float = 2.0
    limit: float = 10.0
    smoothing: float = 0.6
    least_rate: float = 0.05
    first: float | None = None
    accumulated: float = 0.0
    last_progress: float = 0.0
    last_distance: float | None = None

    def reference(self, progress: float) -> float:
        """Where the cost should be at ``progress`` in [0, 1]."""
        if self.first is None or progress <= self.start:
            return 1.0 if self.first is None else self.first
        way = min(1.0, (progress - self.start) / max(self.arrive - self.start, 1e-9))
        return self.first + way * (self.target - self.first)

    def update(self, progress: float, seen: float, *, rate: float = 1.0) -> float:
        """Return the new pressure.

        Args:
            progress: fraction of the training that is done.
            seen: executed cost now, as a share of the ceiling.
            rate: learning rate now, as a share of its start.
        """
        step = progress - self.last_progress
        self.last_progress = progress
        if progress < self.start:
            return 0.0
        if self.first is None:
            self.first = seen
        distance = seen - self.reference(progress)
        if self.last_distance is not None:
            distance += self.smoothing * (self.last_distance - distance)
        speed = 0.0
        if self.last_distance is not None and step > 0:
            speed = (distance - self.last_distance) / step
        self.last_distance = distance
        bound = INTEGRAL_SHARE * self.limit / self.integral
        self.accumulated = min(bound, max(-bound, self.accumulated + distance * max(step, 0.0)))
        if distance < 0:
            # What piled up on the way down must not push on below the reference.
            self.accumulated = min(self.accumulated, 0.0)
        pressure = (
            self.proportional * distance
            + self.integral * self.accumulated
            + self.derivative * speed
        )
        return min(self.limit, max(-self.limit, pressure)) / max(rate, self.least_rate)
