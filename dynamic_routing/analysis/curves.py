"""The course of a training: read from Detectron2's ``metrics.json`` and drawn."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dynamic_routing.analysis.plain_text import plain_legend

TOTAL_LOSS = "total_loss"
LEARNING_RATE = "lr"
HUGE = 10**300
LINE_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's colours, which the colour-blind can tell apart."""

LINE_STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))
MAX_LINES = len(LINE_COLOURS) * len(LINE_STYLES)
"""More lines in one figure could not be told apart."""


@dataclass(frozen=True)
class Series:
    """One quantity over a training.

    Attributes:
        iterations: ascending.
        values: one an iteration.
    """

    iterations: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class TrainingLog:
    """The scalars of a training.

    Attributes:
        rows: iteration -> name -> value, iterations ascending.
        skipped_lines: lines that were no JSON object with an iteration.
    """

    rows: dict[int, dict[str, float]]
    skipped_lines: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """Every quantity, in order of appearance."""
        return tuple(dict.fromkeys(name for row in self.rows.values() for name in row))

    def series(self, name: str) -> Series:
        """One quantity at the iterations that have it; empty if none has."""
        found = {i: row[name] for i, row in self.rows.items() if name in row}
        return Series(tuple(found), tuple(found.values()))


def read_training_log(path: str | Path) -> TrainingLog:
    """Read ``metrics.json``: one JSON object a line, as Detectron2's JSONWriter appends them.

    A line that was cut short is skipped, wherever it stands (a resumed run appends to it). Lines of
    the same iteration are merged, the last one wins. Quantities that are logged rarely come in
    lines of their own, behind those of later iterations. Where the iterations of the total loss go
    back, a run was resumed, and what the earlier run wrote from there on is dropped.

    Raises:
        OSError: there is no such file.
        ValueError: it has no line with an iteration.
    """
    rows: dict[int, dict[str, float]] = {}
    skipped, newest = 0, -1
    for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
        scalars = _scalars(line)
        if scalars is None:
            skipped += bool(line.strip())
            continue
        iteration = int(scalars.pop("iteration"))
        if TOTAL_LOSS in scalars:
            if iteration < newest:
                rows = {i: row for i, row in rows.items() if i <= iteration}
            newest = iteration
        rows.setdefault(iteration, {}).update(scalars)
    if not rows:
        raise ValueError(f"{path} has no line with an iteration ({skipped} lines skipped)")
    return TrainingLog(dict(sorted(rows.items())), skipped)


def _scalars(line: str) -> dict[str, float] | None:
    """The numbers of one line, or None if it is no JSON object with an iteration."""
    try:
        parsed = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(parsed, dict):
        return None
    numbers = {k: v for k, v in parsed.items() if isinstance(v, int | float)}
    # An integer without end, which JSON may hold, is no measurement and no float.
    scalars = {k: float(v) for k, v in numbers.items() if isinstance(v, float) or abs(v) < HUGE}
    return scalars if math.isfinite(scalars.get("iteration", math.nan)) else None


def line_look(number: int) -> dict[str, Any]:
    """Colour and style of a figure's line; those of the first :data:`MAX_LINES` all differ.

    The first lines differ in both, so that they can be told apart in print too.
    """
    turn = number // len(LINE_COLOURS)
    return {
        "color": LINE_COLOURS[number % len(LINE_COLOURS)],
        "linestyle": LINE_STYLES[(number + turn) % len(LINE_STYLES)],
    }


def training_figure(log: TrainingLog) -> Figure:
    """Losses above the learning rate, over iterations.

    Raises:
        ValueError: the log has neither a loss nor a learning rate.
    """
    losses = [name for name in log.names if name == TOTAL_LOSS or name.startswith("loss_")]
    losses = sorted(losses, key=lambda name: name != TOTAL_LOSS)[:MAX_LINES]
    panels = {"loss": losses, "learning rate": [n for n in log.names if n == LEARNING_RATE]}
    panels = {label: names for label, names in panels.items() if names}
    if not panels:
        raise ValueError(f"the training log has no loss and no learning rate, only {log.names}")
    figure = Figure(figsize=(12, 0.4 + 2.6 * len(panels)), layout="constrained")
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)
    for axes, (label, names) in zip(grid[:, 0], panels.items()):
        _plot(axes, log, names, label)
    grid[-1, 0].set_xlabel("iteration")
    return figure


def _plot(axes: Axes, log: TrainingLog, names: list[str], label: str) -> None:
    """One panel; lines differ in colour and in style."""
    for number, name in enumerate(names):
        series = log.series(name)
        line = {**line_look(number), "linewidth": 1.6}
        line["marker"] = "o" if len(series.values) == 1 else ""
        axes.plot(series.iterations, series.values, label=name, **line)
    axes.set_ylabel(label, parse_math=False)
    axes.grid(color="#e4e4e4", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if len(names) > 1:
        plain_legend(axes.legend(frameon=False, fontsize=9))
