"""The visual study's table: one row a setting and seed, what the seeds have in common, verdicts."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from dynamic_routing.studies.rows import Row, decimal, outcome_row
from dynamic_routing.studies.visual_measures import VisualOutcome
from dynamic_routing.studies.visual_settings import VisualSetting

SETTING_COLUMNS = tuple(field.name for field in fields(VisualSetting))
OUTCOME_COLUMNS = (*(field.name for field in fields(VisualOutcome)), "ratio")
COLUMNS = ("part", "label", *SETTING_COLUMNS, *OUTCOME_COLUMNS)

SUMMARY_COLUMNS = (
    *("recovery", "miou", "pixel_accuracy", "object_accuracy", "kmacs_avg", "kmacs_min"),
    *("kmacs_max", "route_share", "inter", "intra_pair", "ratio", "distinct_routes"),
)

MARKDOWN = {
    "recovery": ("recovery", 3),
    "miou": ("mIoU", 3),
    "pixel_accuracy": ("pixel accuracy", 3),
    "kmacs_avg": ("MACs (thousands)", 0),
    "route_share": ("of cells and edges", 3),
    "inter": ("inter", 2),
    "intra_pair": ("intra_pair", 2),
    "ratio": ("ratio", 2),
}
"""Column -> its title and decimals in Markdown."""


def to_row(part: str, label: str, setting: VisualSetting, outcome: VisualOutcome) -> Row:
    """One line of the table; a number that does not exist is an empty text."""
    described = {"part": part, "label": label, **setting.to_row()}
    return {**described, **outcome_row(outcome, OUTCOME_COLUMNS)}


def numbers(rows: Iterable[Row], column: str) -> list[float]:
    """A column's numbers, without those that do not exist."""
    return [float(row[column]) for row in rows if row[column]]


@dataclass(frozen=True)
class Difference:
    """A setting against a reference, seed by seed.

    Attributes:
        mean: mean difference; NaN without numbers.
        error: its standard error.
        spread: standard deviation of the differences.
        seeds: how many seeds both have.
    """

    mean: float
    error: float
    spread: float
    seeds: int

    @classmethod
    def of(cls, rows: Sequence[Row], reference: Sequence[Row], column: str) -> Difference:
        """Compare a column over the seeds that both have."""
        others = {row["seed"]: float(row[column]) for row in reference if row[column]}
        pairs = [
            float(row[column]) - others[row["seed"]]
            for row in rows
            if row[column] and row["seed"] in others
        ]
        if not pairs:
            return cls(math.nan, math.nan, math.nan, 0)
        spread = statistics.stdev(pairs) if len(pairs) > 1 else 0.0
        return cls(statistics.fmean(pairs), spread / math.sqrt(len(pairs)), spread, len(pairs))

    def __str__(self) -> str:
        return f"{self.mean:+.3f} ± {self.error:.3f} (standard error, {self.seeds} seeds)"


def summary(part: str, label: str, rows: Sequence[Row]) -> Row:
    """One line: mean, standard deviation, lowest and highest seed of every number."""
    line = {"part": part, "label": label, "seeds": str(len(rows))}
    for column in SUMMARY_COLUMNS:
        found = numbers(rows, column)
        std = statistics.stdev(found) if len(found) > 1 else 0.0
        line[f"{column}_mean"] = decimal(statistics.fmean(found)) if found else ""
        line[f"{column}_std"] = decimal(std) if found else ""
        line[f"{column}_lowest"] = decimal(min(found)) if found else ""
        line[f"{column}_highest"] = decimal(max(found)) if found else ""
    return line


def to_markdown(lines: Sequence[Row]) -> str:
    """Summaries for people: mean ± standard deviation over seeds."""
    header = ["setting", "seeds", *(title for title, _ in MARKDOWN.values()), "MACs min..max"]
    table = [header, ["---"] * len(header)]
    for line in lines:
        cells = [line["label"], line["seeds"]]
        for column, (_, decimals) in MARKDOWN.items():
            mean, std = line[f"{column}_mean"], line[f"{column}_std"]
            text = f"{float(mean):.{decimals}f} ± {float(std):.{decimals}f}" if mean else "-"
            cells.append(text)
        low, high = line["kmacs_min_mean"], line["kmacs_max_mean"]
        table.append([*cells, f"{float(low):.0f}..{float(high):.0f}"])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in table)
