"""What a run of the toy study may vary; everything else is fixed."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from dynamic_routing.divdr.loss import NORM_POWERS, check_clusters
from dynamic_routing.divdr.schedule import ClusteringSchedule
from dynamic_routing.divdr.sources import SOURCES
from dynamic_routing.routing.budget import BudgetSchedule
from dynamic_routing.studies.toy import SUBSETS

METHODS = ("static", "oracle", "dr", "divdr")
"""No gates; gates that know the subset; gates that learn; gates that learn with DivDR's loss."""


@dataclass(frozen=True)
class Setting:
    """One setting, run with several seeds. ``divdr`` alone reads what is DivDR's.

    Attributes:
        method: one of :data:`METHODS`.
        clusters: K; also how many clusters are looked for in the held-out gates.
        margin: alpha of the loss.
        weight: lambda_2 of the loss.
        norm_power: 1 as DivDR prints the loss, 2 as in Magnet loss.
        start: first iteration that clusters; before it the loss is 0.
        period: iterations between two clusterings.
        final_period: the same at the end of training, reached in a straight line; 0: ``period``.
        source: where the clustered activations come from.
        reseed: whether clusters that became empty or equal start anew.
        samples: size of the training set.
        budget_weight: lambda_1 of the budget loss (mean gate - mu)^2; 0 for none.
        budget_mu: mu, the wished mean of the gates.
        budget_start: fraction of the training at which the budget loss begins.

    Raises:
        ValueError: a value outside its bounds.
    """

    method: str = "divdr"
    clusters: int = SUBSETS
    margin: float = 1.0
    weight: float = 0.3
    norm_power: int = 1
    start: int = 300
    period: int = 50
    final_period: int = 0
    source: str = "bank"
    reseed: bool = True
    samples: int = 4096
    budget_weight: float = 0.0
    budget_mu: float = 0.0
    budget_start: float = 0.4

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {METHODS}, got {self.method!r}")
        if self.source not in SOURCES:
            raise ValueError(f"source must be one of {SOURCES}, got {self.source!r}")
        if self.norm_power not in NORM_POWERS:
            raise ValueError(f"norm_power must be one of {NORM_POWERS}, got {self.norm_power}")
        if min(self.margin, self.weight, self.budget_weight) < 0 or self.samples < 1:
            raise ValueError(f"margin, weights and samples must not be negative, got {self}")
        check_clusters(self.clusters)
        self.schedule  # noqa: B018 - both refuse what they cannot follow
        self.budget_schedule  # noqa: B018

    @property
    def schedule(self) -> ClusteringSchedule:
        """When to cluster."""
        return ClusteringSchedule(self.period, self.final_period, self.start)

    @property
    def budget_schedule(self) -> BudgetSchedule:
        """When the budget loss acts."""
        return BudgetSchedule(self.budget_start)

    def to_row(self) -> dict[str, str]:
        """Every field as text: the setting's columns of the table."""
        return {field.name: _text(getattr(self, field.name)) for field in fields(self)}


def _text(value: Any) -> str:
    """Numbers in their shortest exact form, truth values as 0 and 1."""
    return str(int(value)) if isinstance(value, bool) else f"{value}"
