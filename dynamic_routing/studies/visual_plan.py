"""What the visual study runs, and running it: a finished row is not run again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dynamic_routing.studies.rows import Row, missing_parts, read_rows, rows_of, write_rows
from dynamic_routing.studies.visual_settings import VisualSetting
from dynamic_routing.studies.visual_table import COLUMNS, to_row
from dynamic_routing.studies.visual_training import train

TUNING_SEEDS = (1, 2, 3, 4)
"""Every choice was made on these."""
EVALUATION_SEEDS = tuple(range(101, 109))
"""No choice was made on these."""
CHUNK = 8
"""Seeds that train in one pass."""

ROWS_FILE = "visual_rows.csv"


def budgeted(setting: VisualSetting) -> VisualSetting:
    """The same with a budget loss: set once, not tuned (DivDR-A of the paper: 0.8 and 0.1).

    It starts late, for before the subsets show in the routes it would close gates that are not
    yet of use.
    """
    return replace(setting, budget_weight=0.3, budget_mu=0.1, budget_start=0.6)


@dataclass(frozen=True)
class Item:
    """One setting of the study.

    Attributes:
        part: the table that it belongs to.
        label: its name there.
        setting: what to run.
    """

    part: str
    label: str
    setting: VisualSetting


METHOD_LABELS = {"static": "static", "oracle": "oracle", "dr": "DR", "divdr": "DivDR"}

MAIN = tuple(Item("main", label, VisualSetting(m)) for m, label in METHOD_LABELS.items())

BUDGETED = tuple(
    Item("budget", f"{label}-A", budgeted(VisualSetting(m)))
    for m, label in METHOD_LABELS.items()
    if m != "static"
)

QUESTIONS = (
    Item(
        "question",
        "DivDR-A, squared norms",
        budgeted(VisualSetting("divdr", norm_power=2)),
    ),
)
"""Run with the first :data:`QUESTION_SEEDS` seeds only."""

QUESTION_SEEDS = 4

PLAN = MAIN + BUDGETED


def run_plan(
    path: Path,
    seeds: Sequence[int],
    *,
    plan: Sequence[Item] = PLAN,
    say: Callable[[str], None] = print,
    training: int | None = None,
    held_out: int | None = None,
) -> list[Row]:
    """Run what the table at ``path`` lacks, and return the rows of the plan.

    The table is replaced after each pass of at most :data:`CHUNK` seeds, so that a run that was
    cut off goes on from there.

    Args:
        path: the table.
        seeds: seeds of every setting.
        plan: what to run.
        say: gets one line a pass, with the time that is left.
        training: scenes to train on, None for the study's own number.
        held_out: scenes to measure on, likewise.
    """
    rows = read_rows(path, COLUMNS)
    jobs = [
        (item, part)
        for item in plan
        for part in missing_parts(rows, item.setting, seeds, at_once=CHUNK)
    ]
    sizes = {k: v for k, v in (("training", training), ("held_out", held_out)) if v is not None}
    total, done, start = sum(len(part) for _, part in jobs), 0, time.perf_counter()
    say(f"{total} runs to do, {len(rows)} rows in {path}")
    for item, part in jobs:
        for outcome in train(item.setting, part, **sizes).outcomes:
            rows.append(to_row(item.part, item.label, item.setting, outcome))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_rows(path, rows, COLUMNS)
        done += len(part)
        left = (time.perf_counter() - start) / done * (total - done) / 60
        say(f"{item.part} {item.label}: {done} of {total} runs done, about {left:.0f} minutes left")
    return [row for item in plan for row in rows_of(rows, item.setting, seeds)]
