"""A study's tables: what is read back, whose rows are whose, what is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest

from dynamic_routing.studies import summary, visual_table
from dynamic_routing.studies.rows import (
    decimal,
    missing_parts,
    missing_seeds,
    outcome_row,
    read_rows,
    rows_of,
    write_rows,
)
from dynamic_routing.studies.settings import Setting
from dynamic_routing.studies.visual_settings import VisualSetting


@dataclass(frozen=True)
class Outcome:
    seed: int
    diverged: bool
    accuracy: float


def test_rows_are_read_as_they_were_written(tmp_path):
    path = tmp_path / "folder" / "runs.csv"
    rows = [{"seed": "3", "note": 'two, "words"'}, {"seed": "4", "note": ""}]
    write_rows(path, rows, ["seed", "note"])
    assert read_rows(path, ("seed", "note")) == rows
    assert [p.name for p in path.parent.iterdir()] == ["runs.csv"]


def test_table_without_rows_has_its_columns(tmp_path):
    write_rows(tmp_path / "runs.csv", [], ["seed", "note"])
    assert (tmp_path / "runs.csv").read_text().splitlines() == ["seed,note"]
    assert read_rows(tmp_path / "runs.csv", ["seed", "note"]) == []


def test_no_table_has_no_rows(tmp_path):
    assert read_rows(tmp_path / "none.csv", ["seed"]) == []


@pytest.mark.parametrize("columns", [summary.COLUMNS, visual_table.COLUMNS])
def test_table_of_another_version_is_refused(tmp_path, columns):
    write_rows(tmp_path / "runs.csv", [{"seed": "1", "accuracy": "0.9"}], ["seed", "accuracy"])
    with pytest.raises(ValueError, match=r"runs\.csv has other columns"):
        read_rows(tmp_path / "runs.csv", columns)


def test_row_with_another_column_is_refused(tmp_path):
    with pytest.raises(ValueError, match="other"):
        write_rows(tmp_path / "runs.csv", [{"seed": "1", "other": "2"}], ["seed"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("setting", [Setting(), VisualSetting()])
def test_rows_belong_to_a_setting_with_all_its_fields(setting):
    other, third = replace(setting, method="dr"), replace(setting, margin=setting.margin + 1)
    rows = [{**s.to_row(), "seed": n} for s, n in ((setting, "2"), (setting, "1"), (other, "1"))]
    assert [row["seed"] for row in rows_of(rows, setting, [1, 2, 3])] == ["1", "2"]
    assert missing_seeds(rows, setting, [3, 2]) == [3]
    assert missing_seeds(rows, third, [1, 2]) == [1, 2]


def test_missing_seeds_train_in_parts_in_their_order():
    rows = [{**Setting().to_row(), "seed": "4"}]
    assert missing_parts(rows, Setting(), [5, 4, 3, 2], at_once=2) == [[5, 3], [2]]
    assert missing_parts(rows, Setting(), [4], at_once=2) == []


def test_outcomes_are_numbers_as_text():
    row = outcome_row(
        Outcome(7, diverged=True, accuracy=math.nan), ("seed", "diverged", "accuracy")
    )
    assert row == {"seed": "7", "diverged": "1", "accuracy": ""}
    assert (decimal(0.98), decimal(2 / 3), decimal(-0.00004)) == ("0.9800", "0.6667", "-0.0000")
