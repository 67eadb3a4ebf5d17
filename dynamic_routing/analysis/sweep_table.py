"""What a sweep came to: every run, and mean and spread over the seeds of equal settings."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from dynamic_routing.analysis.sweep import SEED, Axis, Point, short_key

DEFAULT_METRICS = (
    "sem_seg/mIoU",
    "bbox/AP",
    "segm/AP",
    "panoptic_seg/PQ",
    "routing/gmacs_avg",
    "routing/divdr_inter",
    "routing/divdr_intra_pair",
)
"""What a table holds unless asked otherwise: those of them that occur."""


@dataclass(frozen=True)
class Outcome:
    """What became of a point.

    Attributes:
        point: the run.
        results: ``group/metric`` -> value; empty if there is a problem.
        problem: one line on why there are no results, else empty.
    """

    point: Point
    results: Mapping[str, float]
    problem: str = ""


@dataclass(frozen=True)
class Row:
    """The seeds of equal settings together.

    Attributes:
        settings: key -> value.
        seeds: how many runs have results.
        means: metric -> mean, for those that occur.
        spreads: metric -> sample standard deviation; from two runs on.
    """

    settings: Mapping[str, str]
    seeds: int
    means: Mapping[str, float]
    spreads: Mapping[str, float]


@dataclass(frozen=True)
class SweepTable:
    """The runs of a sweep and what is asked of them.

    Attributes:
        outcomes: the runs, in the order of the rows.
        axes: what is swept; the first columns.
        metrics: the other columns; empty: those of :data:`DEFAULT_METRICS` that occur.
    """

    outcomes: tuple[Outcome, ...]
    axes: tuple[Axis, ...]
    metrics: tuple[str, ...] = ()

    @property
    def occurring(self) -> list[str]:
        """Every metric that a run has, sorted."""
        return sorted({name for outcome in self.outcomes for name in outcome.results})

    @property
    def columns(self) -> tuple[str, ...]:
        """The metrics that are shown."""
        found = self.occurring
        return self.metrics or tuple(name for name in DEFAULT_METRICS if name in found)

    def absent(self) -> list[str]:
        """The metrics that were asked for and that no run has."""
        return [name for name in self.metrics if name not in self.occurring]

    def updated(self, outcome: Outcome) -> SweepTable:
        """The table with another outcome of that point."""
        name = outcome.point.name
        outcomes = (outcome if o.point.name == name else o for o in self.outcomes)
        return replace(self, outcomes=tuple(outcomes))

    def told(self, outcome: Outcome) -> str:
        """One line on a run."""
        if outcome.problem:
            return f"FAILED, {outcome.problem}"
        found = [n for n in self.columns if n in outcome.results]
        return ", ".join(f"{name} {outcome.results[name]:.4g}" for name in found) or "no metric"

    def rows(self) -> list[Row]:
        """One for each settings; runs with a problem do not count."""
        groups: dict[str, list[Outcome]] = {}
        for outcome in self.outcomes:
            groups.setdefault(Point(outcome.point.settings, 0).name, []).append(outcome)
        return [self._row(group) for group in groups.values()]

    def _row(self, group: Sequence[Outcome]) -> Row:
        numbers = {
            name: [outcome.results[name] for outcome in group if name in outcome.results]
            for name in self.columns
        }
        return Row(
            settings=group[0].point.settings,
            seeds=sum(not outcome.problem for outcome in group),
            means={name: statistics.fmean(values) for name, values in numbers.items() if values},
            spreads={name: statistics.stdev(v) for name, v in numbers.items() if len(v) > 1},
        )

    def _settings(self, settings: Mapping[str, str]) -> list[str]:
        """The first cells of a line."""
        return [settings[axis.key] for axis in self.axes]

    def points_csv(self) -> str:
        """Every run with every metric that occurs."""
        names = self.occurring
        lines = [["run", *(axis.key for axis in self.axes), SEED, "problem", *names]]
        for outcome in self.outcomes:
            point, found = outcome.point, outcome.results
            numbers = [repr(found[name]) if name in found else "" for name in names]
            settings = self._settings(point.settings)
            lines.append([point.name, *settings, str(point.seed), outcome.problem, *numbers])
        return _csv(lines)

    def to_csv(self) -> str:
        """Settings, number of seeds, mean and standard deviation of each metric."""
        names = [text for name in self.columns for text in (name, f"{name} (std)")]
        lines = [[*(axis.key for axis in self.axes), "seeds", *names]]
        for row in self.rows():
            numbers = [
                f"{found[name]:.6g}" if name in found else ""
                for name in self.columns
                for found in (row.means, row.spreads)
            ]
            lines.append([*self._settings(row.settings), str(row.seeds), *numbers])
        return _csv(lines)

    def to_markdown(self) -> str:
        """The same for people: ``mean ± spread``, a dash where there is no result."""
        lines = [[*(short_key(axis.key) for axis in self.axes), "seeds", *self.columns]]
        lines.append(["---"] * len(self.axes) + ["---:"] * (1 + len(self.columns)))
        for row in self.rows():
            cells = [_cell(row, name) for name in self.columns]
            lines.append([*self._settings(row.settings), str(row.seeds), *cells])
        escaped = [[text.replace("|", "\\|") for text in line] for line in lines]
        return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


def _cell(row: Row, metric: str) -> str:
    if metric not in row.means:
        return "–"
    spread = f" ± {row.spreads[metric]:.2g}" if metric in row.spreads else ""
    return f"{row.means[metric]:.4g}{spread}"


def _csv(lines: Sequence[Sequence[str]]) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(lines)
    return file.getvalue()
