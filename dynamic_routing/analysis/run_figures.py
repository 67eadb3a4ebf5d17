"""Figures of one run: its course, what images cost, which classes it takes for which.

Only matplotlib's objects are used, never pyplot, so nothing outlives a call. Texts that come from a
run are never read as formulas.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dynamic_routing.analysis.curves import LINE_COLOURS, MAX_LINES, TrainingLog, line_look
from dynamic_routing.analysis.html import picture
from dynamic_routing.analysis.panel import encode_png
from dynamic_routing.analysis.plain_text import plain_legend

HALF = (5.8, 3.3)
"""Inches, of a figure of half the page's width."""

HALF_WIDTH = 6.0
"""Inches up to which a figure takes half of the page."""

DPI = 120
CSS_DPI = 96
"""Pixels that a browser takes for an inch."""

MAX_BYTES = 120_000
"""Wished size of a figure, so that a page stays below 8 MB."""

BINS = 20
MAX_CLASSES = 40
"""So many classes are drawn in a confusion matrix at most; more could not be read."""

LETTER = 0.08
"""Inches of a letter of a class name, roughly."""

CELL = 0.27
"""Inches of a cell of the confusion matrix."""

NUMBERED = 20
"""Up to so many classes have their percentages written into the cells."""

NAME_LENGTH = 26


def shown(figure: Figure, caption: str, *, dpi: int = DPI, max_bytes: int = MAX_BYTES) -> str:
    """A figure as HTML: of half the page's width if it is narrow enough, else wide.

    Args:
        figure: to be drawn.
        caption: what it shows.
        dpi: dots an inch, at most.
        max_bytes: wished size.
    """
    width = figure.get_figwidth()
    kind = "half" if width <= HALF_WIDTH else "wide"
    content = encode_figure(figure, dpi=dpi, max_bytes=max_bytes)
    return picture(content, caption, kind, width=round(CSS_DPI * width))


def encode_figure(figure: Figure, *, dpi: int = DPI, max_bytes: int | None = None) -> bytes:
    """A figure as PNG bytes, coarser if it would be too large.

    Args:
        figure: to be drawn.
        dpi: dots an inch, at most.
        max_bytes: wished size; the coarsest tried is half of ``dpi``.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # shown as a box
        for fraction in (1.0, 0.75, 0.5):
            content = encode_png(figure, dpi=round(dpi * fraction))
            if max_bytes is None or len(content) <= max_bytes:
                break
    return content


def curves_figure(log: TrainingLog, names: Mapping[str, str], label: str) -> Figure:
    """Quantities of a training over its iterations; those that it lacks are left out.

    Args:
        log: the training.
        names: quantity -> what it is called in the legend.
        label: of the vertical axis.

    Raises:
        ValueError: it has none of them.
    """
    known = set(log.names)
    found = [name for name in names if name in known][:MAX_LINES]
    if not found:
        raise ValueError(f"metrics.json has no {' and no '.join(names)}")
    figure = Figure(figsize=HALF, layout="constrained")
    axes = figure.subplots()
    for number, name in enumerate(found):
        series = log.series(name)
        marker = "o" if len(series.values) <= 8 else ""
        axes.plot(
            series.iterations, series.values, label=names[name], marker=marker,
            linewidth=1.6, markersize=4, **line_look(number),
        )  # fmt: skip
    _frame(axes, "iteration", label)
    last = max(*log.rows, 1)
    axes.set_xlim(-0.02 * last, 1.02 * last)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if len(found) > 1 or names[found[0]] != label:
        plain_legend(axes.legend(frameon=False, fontsize=9))
    return figure


def _frame(axes: Axes, x: str, y: str) -> None:
    """Labels, a faint grid, no box."""
    axes.set_xlabel(x, parse_math=False)
    axes.set_ylabel(y, parse_math=False)
    axes.grid(color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def histogram_figure(values: np.ndarray, label: str) -> Figure:
    """How many images cost how much, with the average.

    Raises:
        ValueError: a value that is not finite.
    """
    _check_finite(values, label)
    figure = Figure(figsize=HALF, layout="constrained")
    axes = figure.subplots()
    axes.hist(values, bins=BINS, color=LINE_COLOURS[0], edgecolor="white", linewidth=0.6)
    average = float(values.mean())
    axes.axvline(average, color=LINE_COLOURS[1], linestyle="--", label=f"average {average:.4g}")
    _frame(axes, label, "images")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside upper right", frameon=False, fontsize=9)
    return figure


def scatter_figure(costs: np.ndarray, milliseconds: np.ndarray, label: str) -> Figure:
    """Cost against wall time, image by image; those without a time are left out.

    Raises:
        ValueError: no image was timed, or a value that is not finite.
    """
    timed = ~np.isnan(milliseconds)
    if not timed.any():
        raise ValueError("no image was timed")
    _check_finite(costs, label)
    _check_finite(milliseconds[timed], "milliseconds")
    figure = Figure(figsize=HALF, layout="constrained")
    axes = figure.subplots()
    axes.scatter(costs[timed], milliseconds[timed], s=16, alpha=0.6, linewidths=0,
                 color=LINE_COLOURS[0])  # fmt: skip
    axes.set_ylim(bottom=0)
    _frame(axes, label, "milliseconds")
    return figure


def _check_finite(values: np.ndarray, label: str) -> None:
    """ValueError unless every value is a number."""
    if not np.isfinite(values).all():
        raise ValueError(f"{label} of {int((~np.isfinite(values)).sum())} images is no number")


def confusion_rows(confusion: np.ndarray) -> np.ndarray:
    """Numbers of the classes that a confusion matrix is drawn for, ascending.

    Those that occur in truth or prediction; of more than :data:`MAX_CLASSES` the most frequent.
    """
    occurrences = confusion.sum(axis=0) + confusion.sum(axis=1)
    present = np.flatnonzero(occurrences)
    order = np.argsort(-confusion.sum(axis=1)[present], kind="stable")
    return np.sort(present[order[:MAX_CLASSES]])


def confusion_figure(confusion: np.ndarray, classes: Sequence[str]) -> Figure:
    """Which share of each class was taken for which.

    Args:
        confusion: (K, K) counts, row truth, column prediction.
        classes: K names.

    Raises:
        ValueError: nothing was counted.
    """
    rows = confusion_rows(confusion)
    if not len(rows):
        raise ValueError("the confusion matrix is empty")
    totals = confusion[rows].sum(axis=1, keepdims=True)  # of all classes, also those not drawn
    shares = confusion[np.ix_(rows, rows)] / np.maximum(totals, 1)
    names = [_short(classes[row]) for row in rows]
    cell = 1.6 * CELL if len(rows) <= NUMBERED else CELL
    side = max(2.4, cell * len(rows))
    margin = 0.6 + LETTER * max(map(len, names))
    figure = Figure(figsize=(side + margin + 0.8, side + margin), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(rows)), names, rotation=90, fontsize=9, parse_math=False)
    axes.set_yticks(range(len(rows)), names, fontsize=9, parse_math=False)
    axes.set_xlabel("prediction")
    axes.set_ylabel("truth")
    axes.tick_params(length=2)
    if len(rows) <= NUMBERED:
        _write_shares(axes, shares)
    bar = figure.colorbar(image, ax=axes, fraction=0.03, pad=0.02)
    bar.set_label("share of the truth", fontsize=9)
    bar.ax.tick_params(labelsize=9)
    return figure


def _write_shares(axes: Axes, shares: np.ndarray) -> None:
    """Percentages in the cells; those that round to 0 stay empty."""
    for row, column in np.argwhere(shares >= 0.005):
        share = shares[row, column]
        colour = "white" if share > 0.5 else "black"
        axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=8,
                  color=colour)  # fmt: skip


def _short(name: str) -> str:
    """A class name that fits beside a matrix."""
    one_line = " ".join(name.encode("utf-8", "replace").decode("utf-8").split())
    return one_line if len(one_line) <= NAME_LENGTH else one_line[: NAME_LENGTH - 1] + "\u2026"
