"""The picture of a sweep: metrics and cost against the swept value (as DivDR, Fig. 7)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dynamic_routing.analysis.curves import LINE_COLOURS, LINE_STYLES
from dynamic_routing.analysis.sweep import Axis, short_key
from dynamic_routing.analysis.sweep_table import Row, SweepTable

MAX_PANELS = 4
"""Metrics that are drawn at most, the first ones of the table."""

LOG_SPAN = 20.0
"""From this ratio of the largest to the least value on, the axis is logarithmic."""

MARKERS = "osD^vP"


def sweep_figure(table: SweepTable) -> Figure:
    """A column for each swept key, a row for each metric, a line for each value of the other keys.

    Bars are the sample standard deviation over seeds. Values that are no numbers stand side by
    side.

    Args:
        table: its first :data:`MAX_PANELS` columns are drawn.

    Raises:
        ValueError: no swept key or no metric.
    """
    axes = table.axes
    metrics = table.columns[:MAX_PANELS]
    if not axes or not metrics:
        raise ValueError(f"nothing to draw: {len(axes)} swept keys and {len(metrics)} metrics")
    size = (1.0 + 4.6 * len(axes), 0.6 + 2.2 * len(metrics))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(metrics), len(axes), sharex="col", sharey="row", squeeze=False)
    for column, axis in enumerate(axes):
        lines = _lines(table, axis)
        for line, metric in enumerate(metrics):
            _draw(grid[line, column], axis, lines, metric)
            if column == 0:
                grid[line, 0].set_ylabel(metric.replace("/", "/\n"))
        grid[-1, column].set_xlabel(short_key(axis.key))
        if len(lines) > 1:
            grid[0, column].legend(fontsize=8, frameon=False)
    return figure


def _lines(table: SweepTable, axis: Axis) -> dict[str, dict[str, Row]]:
    """Label of a line -> value on the axis -> row.

    Settings with which the key was not swept (one key at a time) are no line.
    """
    others = [other.key for other in table.axes if other != axis]
    lines: dict[str, dict[str, Row]] = {}
    for row in table.rows():
        label = ", ".join(f"{short_key(key)} = {row.settings[key]}" for key in others)
        lines.setdefault(label, {})[row.settings[axis.key]] = row
    longest = max(len(rows) for rows in lines.values())
    return {label: rows for label, rows in lines.items() if len(rows) > 1 or longest == 1}


def positions(values: Sequence[str]) -> list[float] | None:
    """The values as numbers, or None if they are not all finite numbers."""
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        return None
    return numbers if all(math.isfinite(number) for number in numbers) else None


def _draw(panel: Axes, axis: Axis, lines: dict[str, dict[str, Row]], metric: str) -> None:
    """One metric against one key."""
    # One key at a time also runs the config's own value.
    values_here = list(dict.fromkeys([*axis.values, *(v for rows in lines.values() for v in rows)]))
    numbers = positions(values_here)
    places = dict(zip(values_here, numbers or [float(i) for i in range(len(values_here))]))
    looks = zip(
        itertools.cycle(LINE_COLOURS), itertools.cycle(LINE_STYLES), itertools.cycle(MARKERS)
    )
    for (label, rows), (colour, style, marker) in zip(lines.items(), looks):
        values = [v for v in rows if metric in rows[v].means]
        values.sort(key=places.__getitem__)
        panel.errorbar(
            [places[v] for v in values],
            [rows[v].means[metric] for v in values],
            yerr=[rows[v].spreads.get(metric, 0.0) for v in values],
            label=label,
            color=colour,
            linestyle=style,  # type: ignore[arg-type]
            marker=marker,
            markersize=5,
            linewidth=1.6,
            capsize=3,
        )
    _scale(panel, values_here, numbers)
    panel.grid(color="#e4e4e4", linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)


def _scale(panel: Axes, values: Sequence[str], numbers: Sequence[float] | None) -> None:
    """A tick at each value; logarithmic over a wide span of positive numbers."""
    if numbers and min(numbers) > 0 and max(numbers) / min(numbers) >= LOG_SPAN:
        panel.set_xscale("log")
    panel.set_xticks(numbers or list(range(len(values))), labels=list(values))
    panel.minorticks_off()
