"""Curves of several trainings over one another, and the same numbers as a table."""

from __future__ import annotations

import csv
import difflib
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dynamic_routing.analysis.curves import (
    LINE_COLOURS,
    LINE_STYLES,
    TrainingLog,
    read_training_log,
)
from dynamic_routing.analysis.plain_text import plain_legend

METRICS = "metrics.json"
MARKERS = "osD^vP"
MARKED_POINTS = 30
"""Curves of at most so many points show each of them."""


def read_logs(runs: Sequence[str | Path]) -> dict[str, TrainingLog]:
    """The training logs of runs, by a name for each.

    Args:
        runs: folders of runs, or their ``metrics.json``.

    Returns:
        Name -> log, in the order given: the folder's name, or its path where names would be equal.

    Raises:
        ValueError: a run without a log, a log without a number, a run given twice.
    """
    folders = [Path(run).parent if Path(run).name == METRICS else Path(run) for run in runs]
    found: dict[str, TrainingLog] = {}
    for name, folder in zip(run_names(folders), folders, strict=True):
        path = folder / METRICS
        if not path.is_file():
            raise ValueError(f"{folder} holds no {METRICS}; give the OUTPUT_DIR of a training")
        found[name] = read_training_log(path)
    return found


def run_names(folders: Sequence[Path]) -> list[str]:
    """A short name for each run.

    Raises:
        ValueError: a folder that is given twice.
    """
    names = [folder.resolve().name for folder in folders]
    long = [str(folder) for folder in folders]
    doubled = [name for name in long if long.count(name) > 1]
    if doubled:
        raise ValueError(f"run {doubled[0]} is given twice")
    return [full if names.count(name) > 1 else name for name, full in zip(names, long)]


def check_keys(logs: Mapping[str, TrainingLog], keys: Sequence[str]) -> list[str]:
    """What to tell the user: which run lacks which key.

    Raises:
        ValueError: a key that no run has, with one that is near.
    """
    known = list(dict.fromkeys(name for log in logs.values() for name in log.names))
    notes = []
    for key in keys:
        lacking = [run for run, log in logs.items() if not log.series(key).values]
        if len(lacking) == len(logs):
            near = difflib.get_close_matches(key, known, n=3, cutoff=0.4) or known[:3]
            raise ValueError(f"no run has {key}; they have {', '.join(near)}, ...")
        if lacking:
            notes.append(f"{key} is not in {', '.join(lacking)}")
    return notes


def curves_figure(logs: Mapping[str, TrainingLog], keys: Sequence[str]) -> Figure:
    """One panel a key, one line a run, over iterations.

    Args:
        logs: name of the run -> its log.
        keys: quantities.

    Raises:
        ValueError: no key, or one that no run has.
    """
    if not keys:
        raise ValueError("give at least one key to draw")
    check_keys(logs, keys)
    figure = Figure(figsize=(12, 0.8 + 2.8 * len(keys)), layout="constrained")
    grid = figure.subplots(len(keys), 1, sharex=True, squeeze=False)[:, 0]
    for axes, key in zip(grid, keys):
        _draw(axes, logs, key)
    grid[-1].set_xlabel("iteration")
    handles = {line.get_label(): line for axes in grid for line in axes.lines}
    ordered = [handles[name] for name in logs if name in handles]
    columns = min(4, len(ordered))
    plain_legend(
        figure.legend(handles=ordered, loc="outside upper center", frameon=False, ncols=columns,
                      fontsize=9)
    )  # fmt: skip
    return figure


def _draw(axes: Axes, logs: Mapping[str, TrainingLog], key: str) -> None:
    """One panel; lines differ in colour and in style."""
    for number, (name, log) in enumerate(logs.items()):
        series = log.series(key)
        if not series.values:
            continue
        few = len(series.values) <= MARKED_POINTS
        line = {
            "color": LINE_COLOURS[number % len(LINE_COLOURS)],
            "linestyle": LINE_STYLES[number // len(LINE_COLOURS) % len(LINE_STYLES)],
            "marker": MARKERS[number % len(MARKERS)] if few else "",
            "markersize": 5,
        }
        axes.plot(series.iterations, series.values, label=name, linewidth=1.6, **line)  # type: ignore[arg-type]
    axes.set_ylabel(key, parse_math=False)
    axes.grid(color="#e4e4e4", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def curves_csv(logs: Mapping[str, TrainingLog], keys: Sequence[str]) -> str:
    """The drawn points: run, key, iteration, value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", "key", "iteration", "value"])
    for key in keys:
        for run, log in logs.items():
            series = log.series(key)
            for iteration, value in zip(series.iterations, series.values):
                shown = repr(value) if math.isfinite(value) else ""
                writer.writerow([run, key, iteration, shown])
    return text.getvalue()
