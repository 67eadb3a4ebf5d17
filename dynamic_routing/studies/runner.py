"""Runs what is missing of a question, keeps every finished row, and writes its table."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from dynamic_routing.studies.questions import Question
from dynamic_routing.studies.rows import (
    Row,
    missing_parts,
    missing_seeds,
    read_rows,
    rows_of,
    write_rows,
)
from dynamic_routing.studies.settings import Setting
from dynamic_routing.studies.summary import COLUMNS, summary_row, to_row
from dynamic_routing.studies.training import Outcome, train

SEEDS_AT_ONCE = 16
"""Seeds that share a batch of matrices; more gain little and lose more if the run is stopped."""

Train = Callable[[Setting, Sequence[int]], list[Outcome]]


def answer(
    question: Question,
    runs: Path,
    *,
    seeds: Sequence[int] | None = None,
    run: Train = train,
    report: Callable[[str], None] = print,
) -> list[Row]:
    """Train what has no row yet and sum up the question.

    Args:
        question: what to compare.
        runs: the table of all runs; rows are added as they are finished.
        seeds: instead of the question's own.
        run: trains a setting with some seeds.
        report: takes a line of progress.

    Returns:
        One line a variant (:func:`summary_row`).

    Raises:
        ValueError: ``runs`` is a table of another version.
    """
    wanted = tuple(question.seeds if seeds is None else seeds)
    rows = read_rows(runs, COLUMNS)
    jobs = [
        (variant, part)
        for variant in question.variants
        for part in missing_parts(rows, variant.setting, wanted, at_once=SEEDS_AT_ONCE)
    ]
    began = time.perf_counter()
    for done, (variant, part) in enumerate(jobs):
        part = missing_seeds(rows, variant.setting, part)  # two labels may mean one setting
        if part:
            rows += [to_row(variant.setting, outcome) for outcome in run(variant.setting, part)]
            write_rows(runs, rows, COLUMNS)
        left = (time.perf_counter() - began) / (done + 1) * (len(jobs) - done - 1)
        report(f"[{done + 1}/{len(jobs)}] {variant.label}: {len(part)} seeds; {left:.0f} s left")
    return summarise(question, rows, wanted)


def summarise(question: Question, rows: Sequence[Row], seeds: Sequence[int]) -> list[Row]:
    """One line a variant from finished rows."""
    settings = {variant.label: variant.setting for variant in question.variants}
    reference = rows_of(rows, settings[question.reference], seeds)
    return [
        summary_row(label, rows_of(rows, setting, seeds), reference)
        for label, setting in settings.items()
    ]
