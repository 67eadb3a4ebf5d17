"""The visual study's table: one row a setting and seed, what the seeds have in common, verdicts."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from dynamic_routing.files import write_atomically
from dynamic_routing.studies.visual_settings import VisualSetting
from dynamic_routing.studies.visual_training import VisualOutcome

DECIMALS = 4
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

Row = dict[str, str]
"""One line of the table, all columns as text."""


def to_row(part: str, label: str, setting: VisualSetting, outcome: VisualOutcome) -> Row:
    """One line of the table; a number that does not exist is an empty text."""
    row = {"part": part, "label": label, **setting.to_row()}
    for name in OUTCOME_COLUMNS:
        value = getattr(outcome, name)
        row[name] = decimal(value) if isinstance(value, float) else str(value)
    return row


def read_rows(path: Path) -> list[Row]:
    """All rows of a table; none if there is no file.

    Raises:
        ValueError: the file has other columns.
    """
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(f"{path} has other columns than this version writes: move it away")
        return list(reader)


def write_rows(path: Path, rows: Sequence[Mapping[str, str]], columns: Sequence[str]) -> None:
    """Replace a table in one step."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(columns))
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode("utf-8"))


def rows_of(rows: Iterable[Row], setting: VisualSetting, seeds: Collection[int]) -> list[Row]:
    """The rows of a setting with one of these seeds, in the order of seeds."""
    wanted = setting.to_row()
    found = [
        row
        for row in rows
        if int(row["seed"]) in seeds and all(row[name] == wanted[name] for name in wanted)
    ]
    return sorted(found, key=lambda row: int(row["seed"]))


def missing_seeds(rows: Iterable[Row], setting: VisualSetting, seeds: Sequence[int]) -> list[int]:
    """Those of the seeds that a setting has no row for."""
    done = {int(row["seed"]) for row in rows_of(rows, setting, seeds)}
    return [seed for seed in seeds if seed not in done]


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


def decimal(value: float) -> str:
    """Four decimals; nothing for NaN."""
    return "" if math.isnan(value) else f"{value:.{DECIMALS}f}"
