"""What a run of the visual study may vary; everything else is fixed."""

from __future__ import annotations

from dataclasses import dataclass, fields

from dynamic_routing.divdr.loss import NORM_POWERS, check_clusters
from dynamic_routing.divdr.schedule import ClusteringSchedule
from dynamic_routing.routing.budget import BudgetSchedule
from dynamic_routing.studies.settings import METHODS
from dynamic_routing.studies.visual_data import LABELS, SUBSETS


@dataclass(frozen=True)
class VisualSetting:
    """One setting, run with several seeds. ``divdr`` alone reads what is DivDR's.

    Attributes:
        method: one of :data:`~dynamic_routing.studies.settings.METHODS`.
        labels: one of :data:`~dynamic_routing.studies.visual_data.LABELS`.
        clusters: K; also how many clusters are looked for in the held-out activations.
        margin: alpha of the loss.
        weight: lambda_2 of the loss.
        norm_power: 1 as DivDR prints the loss, 2 as in Magnet loss.
        start: first iteration that clusters; before it the loss is 0.
        period: iterations between two clusterings.
        budget_weight: lambda_1 of the budget loss; 0 for none.
        budget_mu: mu, the wished share of the full expected cost.
        budget_start: fraction of the training at which the budget loss begins.
        layers: of the routing space.
        iterations: of the training.

    Raises:
        ValueError: a value outside its bounds.
    """

    method: str = "divdr"
    labels: str = "shifted"
    clusters: int = len(SUBSETS)
    margin: float = 1.0
    weight: float = 0.3
    norm_power: int = 1
    start: int = 450
    period: int = 25
    budget_weight: float = 0.0
    budget_mu: float = 0.1
    budget_start: float = 0.4
    layers: int = 4
    iterations: int = 600

    def __post_init__(self) -> None:
        for name, allowed in (("method", METHODS), ("labels", LABELS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        if self.norm_power not in NORM_POWERS:
            raise ValueError(f"norm_power must be one of {NORM_POWERS}, got {self.norm_power}")
        if min(self.margin, self.weight, self.budget_weight) < 0 or self.iterations < 1:
            raise ValueError(f"margin, weights and iterations must not be negative, got {self}")
        check_clusters(self.clusters)
        self.schedule  # noqa: B018 - both refuse what they cannot follow
        self.budget_schedule  # noqa: B018

    @property
    def schedule(self) -> ClusteringSchedule:
        """When to cluster."""
        return ClusteringSchedule(self.period, 0, self.start)

    @property
    def budget_schedule(self) -> BudgetSchedule:
        """When the budget loss acts."""
        return BudgetSchedule(self.budget_start)

    def to_row(self) -> dict[str, str]:
        """Every field as text: the setting's columns of the table."""
        return {field.name: str(getattr(self, field.name)) for field in fields(self)}
