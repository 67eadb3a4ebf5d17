"""From the visual study's rows to its summary, its verdicts and its picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from dynamic_routing.studies.rows import Row, read_rows, rows_of, write_rows
from dynamic_routing.studies.visual_picture import draw_study
from dynamic_routing.studies.visual_plan import (
    BUDGETED,
    EVALUATION_SEEDS,
    PLAN,
    QUESTION_SEEDS,
    QUESTIONS,
    ROWS_FILE,
    Item,
    run_plan,
)
from dynamic_routing.studies.visual_table import COLUMNS, Difference, summary, to_markdown

SUMMARY_FILE = "visual_summary.csv"
PICTURE_FILE = "visual.png"

PICTURED = BUDGETED[-1]
"""Under a budget routes differ in their edges, not in the strength of their gates alone."""

COMPARED = ("recovery", "miou", "kmacs_avg", "route_share", "ratio")
PAIRS = (
    ("DivDR", "DR"),
    ("DivDR", "oracle"),
    ("DivDR-A", "DR-A"),
    ("DivDR-A", "DivDR"),
    ("DivDR-A", "oracle-A"),
    ("DivDR-A", "oracle"),
    ("DivDR", "static"),
    ("DivDR-A", "static"),
    ("DivDR-A, squared norms", "DivDR-A"),
)
"""What is held against what, seed by seed."""


def run_visual(
    output: Path,
    seeds: Sequence[int] = EVALUATION_SEEDS,
    *,
    plan: Sequence[Item] = PLAN,
    say: Callable[[str], None] = print,
) -> str:
    """Run what is missing, write rows, summary and picture, and return tables as Markdown.

    Args:
        output: a folder.
        seeds: of every setting.
        plan: what to run.
        say: gets the progress.
    """
    run_plan(output / ROWS_FILE, seeds, plan=plan, say=say)
    run_plan(output / ROWS_FILE, seeds[:QUESTION_SEEDS], plan=QUESTIONS, say=say)
    text = report(output, seeds, plan=[*plan, *QUESTIONS])
    if not (output / PICTURE_FILE).exists():
        say("drawing the picture")
        draw_study(PICTURED.setting, seeds[0], output / PICTURE_FILE)
    return text


def report(output: Path, seeds: Sequence[int], *, plan: Sequence[Item] = PLAN) -> str:
    """Sum up the rows that exist: writes the summary and returns it, with the verdicts.

    Args:
        output: a folder with the rows.
        seeds: those that count.
        plan: what to sum up.
    """
    rows = read_rows(output / ROWS_FILE, COLUMNS)
    found = {item.label: rows_of(rows, item.setting, seeds) for item in plan}
    lines = [
        summary(item.part, item.label, found[item.label]) for item in plan if found[item.label]
    ]
    if lines:
        write_rows(output / SUMMARY_FILE, lines, list(lines[0]))
    return to_markdown(lines) + "\n\n" + "\n".join(verdicts(found))


def verdicts(found: dict[str, list[Row]]) -> list[str]:
    """One line for each pair of settings that both have rows."""
    lines = []
    for label, reference in PAIRS:
        if not found.get(label) or not found.get(reference):
            continue
        parts = []
        for column in COMPARED:
            difference = Difference.of(found[label], found[reference], column)
            if difference.seeds:
                parts.append(f"{column} {difference}")
        lines.append(f"- {label} minus {reference}: " + "; ".join(parts))
    return lines
