"""Tables of a study on disk: one row a setting and seed, all columns as text."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from dynamic_routing.files import write_atomically

DECIMALS = 4

Row = dict[str, str]
"""One line of a table, all columns as text."""


class InTable(Protocol):
    """A setting that has columns in a study's table."""

    def to_row(self) -> Row:
        """Every field as text; equal settings, equal texts."""


def outcome_row(outcome: object, columns: Sequence[str]) -> Row:
    """These attributes of an outcome as text; a number that does not exist is an empty one."""
    found = {name: getattr(outcome, name) for name in columns}
    return {
        name: decimal(value) if isinstance(value, float) else str(int(value))
        for name, value in found.items()
    }


def read_rows(path: Path, columns: Sequence[str]) -> list[Row]:
    """All rows of a table; none if there is no file.

    Raises:
        ValueError: the file has other columns.
    """
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != tuple(columns):
            raise ValueError(f"{path} has other columns than this version writes: move it away")
        return list(reader)


def write_rows(path: Path, rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> None:
    """Replace a table in one step.

    Raises:
        ValueError: a row has a column that is not among them.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(columns))
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode("utf-8"))


def rows_of(rows: Iterable[Row], setting: InTable, seeds: Collection[int]) -> list[Row]:
    """The rows of a setting with one of these seeds, in the order of seeds."""
    wanted = setting.to_row()
    found = [
        row
        for row in rows
        if int(row["seed"]) in seeds and all(row[name] == wanted[name] for name in wanted)
    ]
    return sorted(found, key=lambda row: int(row["seed"]))


def missing_seeds(rows: Iterable[Row], setting: InTable, seeds: Sequence[int]) -> list[int]:
    """Those of the seeds that a setting has no row for."""
    done = {int(row["seed"]) for row in rows_of(rows, setting, seeds)}
    return [seed for seed in seeds if seed not in done]


def missing_parts(
    rows: Iterable[Row], setting: InTable, seeds: Sequence[int], *, at_once: int
) -> list[list[int]]:
    """The same, at most ``at_once`` seeds a part, in which they are to train together."""
    missing = missing_seeds(rows, setting, seeds)
    return [missing[first : first + at_once] for first in range(0, len(missing), at_once)]


def decimal(value: float) -> str:
    """Four decimals; nothing for NaN."""
    return "" if math.isnan(value) else f"{value:.{DECIMALS}f}"
