"""The toy study's table: one row a setting and seed, what the seeds have in common, verdicts."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from dynamic_routing.studies.rows import Row, decimal, outcome_row
from dynamic_routing.studies.settings import Setting
from dynamic_routing.studies.training import Outcome

RECOVERED = 0.98
"""A seed counts as recovered from here on; the figure of Csaba et al. 2022 is 98.2 %."""

SEEN = 2.0
"""Differences below so many standard errors are not told from chance."""

SETTING_COLUMNS = tuple(field.name for field in fields(Setting))
OUTCOME_COLUMNS = (*(field.name for field in fields(Outcome)), "ratio")
COLUMNS = (*SETTING_COLUMNS, *OUTCOME_COLUMNS)


def to_row(setting: Setting, outcome: Outcome) -> Row:
    """One line of the table; a number that does not exist is an empty text."""
    return {**setting.to_row(), **outcome_row(outcome, OUTCOME_COLUMNS)}


def values(rows: Iterable[Row], column: str) -> list[float]:
    """A column's numbers; NaN where there is none."""
    return [float(row[column] or math.nan) for row in rows]


@dataclass(frozen=True)
class Spread:
    """Numbers of several seeds; NaN if one of them does not exist.

    Attributes:
        mean: their mean.
        std: their standard deviation (N - 1); 0 for a single one.
        median: their median.
        lowest: the smallest.
    """

    mean: float
    std: float
    median: float
    lowest: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Spread:
        """Sum up at least one number."""
        if not numbers or any(math.isnan(number) for number in numbers):
            return cls(math.nan, math.nan, math.nan, math.nan)
        std = statistics.stdev(numbers) if len(numbers) > 1 else 0.0
        return cls(statistics.fmean(numbers), std, statistics.median(numbers), min(numbers))


@dataclass(frozen=True)
class Difference:
    """A setting against a reference, seed by seed.

    Attributes:
        mean: mean difference; NaN without numbers.
        error: its standard error.
    """

    mean: float
    error: float

    @classmethod
    def of(cls, rows: Sequence[Row], reference: Sequence[Row], column: str) -> Difference:
        """Compare a column over the seeds that both have."""
        others = {row["seed"]: value for row, value in zip(reference, values(reference, column))}
        pairs = zip(rows, values(rows, column))
        spread = Spread.of(
            [value - others[row["seed"]] for row, value in pairs if row["seed"] in others]
        )
        return cls(spread.mean, spread.std / math.sqrt(max(len(rows), 1)))

    @property
    def word(self) -> str:
        """higher, lower, or same (not told from chance); n/a without numbers."""
        if math.isnan(self.mean):
            return "n/a"
        if abs(self.mean) <= SEEN * self.error or self.mean == 0:
            return "same"
        return "higher" if self.mean > 0 else "lower"


def summary_row(label: str, rows: Sequence[Row], reference: Sequence[Row]) -> Row:
    """One line of a question's table: a setting's seeds, and the verdict against the reference.

    Args:
        label: names the setting.
        rows: of the setting.
        reference: of the setting that it is held against.
    """
    recovered = Spread.of(values(rows, "recovery"))
    accuracy = Spread.of(values(rows, "accuracy"))
    line = {"setting": label, "seeds": str(len(rows))}
    line |= {"recovery_mean": decimal(recovered.mean), "recovery_std": decimal(recovered.std)}
    line |= {"recovery_median": decimal(recovered.median)}
    line |= {"recovery_lowest": decimal(recovered.lowest)}
    line["recovered_seeds"] = str(sum(v >= RECOVERED for v in values(rows, "recovery")))
    line |= {"accuracy_mean": decimal(accuracy.mean), "accuracy_std": decimal(accuracy.std)}
    line["accuracy_lowest"] = decimal(accuracy.lowest)
    for column in ("open_share", "purity", "inter", "intra_pair", "ratio"):
        spread = Spread.of(values(rows, column))
        line[f"{column}_mean"] = decimal(spread.mean)
        if column in ("open_share", "ratio"):
            line[f"{column}_std"] = decimal(spread.std)
    for column in ("recovery", "accuracy", "ratio"):
        line[f"{column}_against_reference"] = Difference.of(rows, reference, column).word
    line["diverged_seeds"] = str(sum(int(row["diverged"]) for row in rows))
    return line


def to_markdown(lines: Sequence[Row]) -> str:
    """A question's table for people: the headline columns with mean and spread."""
    header = ["setting", "seeds", "recovery mean ± std", "median", "lowest", f">= {RECOVERED}"]
    header += ["accuracy mean ± std", "gates open", "inter / intra_pair", "against the reference"]
    rows = [header, ["---"] * len(header), *(_markdown_cells(line) for line in lines)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows)


def _markdown_cells(line: Row) -> list[str]:
    """One line of :func:`to_markdown`."""

    def pair(name: str, decimals: int = 3) -> str:
        mean, std = line[f"{name}_mean"], line[f"{name}_std"]
        return f"{float(mean):.{decimals}f} ± {float(std):.{decimals}f}" if mean else "-"

    def single(name: str) -> str:
        return f"{float(line[name]):.3f}" if line[name] else "-"

    verdicts = [
        f"{name} {line[f'{name}_against_reference']}"
        for name in ("recovery", "accuracy", "ratio")
        if line[f"{name}_against_reference"] in ("higher", "lower")
    ]
    return [
        line["setting"],
        line["seeds"],
        pair("recovery"),
        single("recovery_median"),
        single("recovery_lowest"),
        f"{line['recovered_seeds']} of {line['seeds']}" if line["recovery_mean"] else "-",
        pair("accuracy"),
        pair("open_share", 2),
        pair("ratio", 2),
        ", ".join(verdicts) or "no difference seen",
    ]
