"""When to cluster: every so many iterations, from a warm-up on, less often later if wished."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ClusteringSchedule:
    """Clusterings at ``start`` and then every period.

    The authors cluster every 50 iterations, report collapse for periods above 100, and suggest
    longer ones late in training (Csaba et al. 2022, Sec. 7.1). A late ``start`` is ours: routes
    clustered from the first iteration on lock on to any early difference.

    Attributes:
        period: iterations between two clusterings at ``start``, at least 1.
        final_period: those at the end of training, reached in a straight line; 0: ``period``.
        start: the first iteration at which to cluster.

    Raises:
        ValueError: a number outside these bounds, or a final period below the first.
    """

    period: int = 50
    final_period: int = 0
    start: int = 0

    def __post_init__(self) -> None:
        if self.period < 1 or self.start < 0:
            raise ValueError(
                f"period must be >= 1 and start >= 0, got {self.period} and {self.start}"
            )
        if self.final_period and self.final_period < self.period:
            raise ValueError(
                f"the final period must be 0 or at least the period {self.period}, "
                f"got {self.final_period}"
            )

    def period_at(self, iteration: int, max_iter: int) -> int:
        """The period that holds at ``iteration`` of ``max_iter``."""
        if not self.final_period:
            return self.period
        way = (iteration - self.start) / max(max_iter - self.start, 1)
        return round(self.period + min(max(way, 0.0), 1.0) * (self.final_period - self.period))

    def due(self, iteration: int, last: int | None, max_iter: int) -> bool:
        """Whether to cluster now.

        Args:
            iteration: the present one.
            last: the iteration of the last clustering, None before the first.
            max_iter: length of the training.
        """
        if iteration < self.start:
            return False
        return last is None or iteration - last >= self.period_at(iteration, max_iter)
