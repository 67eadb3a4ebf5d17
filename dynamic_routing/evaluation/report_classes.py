"""Sections of a run's report on edges and on classes."""

from __future__ import annotations

import numpy as np

from dynamic_routing.analysis.data_files import columns_csv, csv_bytes
from dynamic_routing.analysis.html import (
    columns_table,
    folded,
    format_percentage,
    paragraph,
    values_table,
)
from dynamic_routing.analysis.panel import compact_route
from dynamic_routing.analysis.report import Content, MissingPartError, need
from dynamic_routing.analysis.run_figures import (
    MAX_CLASSES,
    confusion_figure,
    confusion_rows,
    shown,
)
from dynamic_routing.analysis.run_folder import HUGE, Results
from dynamic_routing.analysis.statistics import RouteStatistics, route_statistics
from dynamic_routing.evaluation.image_scores import NOTHING
from dynamic_routing.evaluation.run_files import RunFiles
from dynamic_routing.routing.space import Edge

CLASS_METRICS = (
    ("sem_seg", "IoU-", "IoU (%)"),
    ("sem_seg", "ACC-", "accuracy (%)"),
    ("segm", "AP-", "mask AP (%)"),
    ("bbox", "AP-", "box AP (%)"),
    ("panoptic_seg", "PQ-", "PQ (%)"),
)
"""Group of results, prefix of its entries by class, and what they are called."""


def edge_frequency(run: RunFiles) -> Content:
    """Whether routes collapsed, and how often each edge was open."""
    found = route_statistics(need(run.gates).routes)
    verdict = "Routes have collapsed" if found.collapsed else "Routes have not collapsed"
    numbers: dict[str, float | int | str] = {
        "images": found.images,
        "distinct routes": found.distinct_routes,
        f"open edges, average of {found.grid_edges}": found.open_edges_avg,
        "open edges, fewest": found.open_edges_min,
        "open edges, most": found.open_edges_max,
        "share of edges open (%)": 100 * found.open_share,
        "mean entropy of a gate (bits)": found.entropy_mean,
        "gates never open": len(found.never_open),
        "gates always open": len(found.always_open),
    }
    figure = compact_route(found.space, found.open_rate, label="share of images")
    html = [
        paragraph(f"{verdict}: {found.collapse_reason}.", "warning" if found.collapsed else "note"),
        values_table(numbers),
        shown(figure, "How often each edge was open over the data set; grey edges never were."),
        _edge_list("Gates that never open", found.never_open),
        _edge_list("Gates that always open", found.always_open),
    ]  # fmt: skip
    return Content("\n".join(html), {"edge_frequency.csv": _edges_csv(found)})


def _edge_list(title: str, edges: tuple[Edge, ...]) -> str:
    """Names of edges, folded."""
    names = "; ".join(str(edge) for edge in edges) or "none"
    return folded(f"{title} ({len(edges)})", paragraph(names))


def _edges_csv(found: RouteStatistics) -> bytes:
    """A row an edge, in the column order of the gates file."""
    header = ["layer", "scale", "kind", "open_rate", "entropy_bits", "gate_mean", "gate_std"]
    numbers = (found.open_rate, found.entropy, found.gate_mean, found.gate_std)
    columns = [values.tolist() for values in numbers]
    edges = found.space.to_edges()
    return csv_bytes(header, ([*edge, *row] for edge, *row in zip(edges, *columns, strict=True)))


def per_class(run: RunFiles) -> Content:
    """Every metric by class, of every network; classes that do not occur are left out."""
    results = need(run.results)
    columns: dict[str, dict[str, float]] = {}
    for group, prefix, title in CLASS_METRICS:
        for network, found in results.items():
            values = by_class(found, group, prefix)
            if values:
                columns[title if len(results) == 1 else f"{title}, {network}"] = values
    if not columns:
        raise MissingPartError("results.json holds no metric by class")
    html = columns_table("class", columns, format_percentage)
    return Content(html, {"per_class.csv": columns_csv("class", columns)})


def by_class(results: Results, group: str, prefix: str) -> dict[str, float]:
    """Numbers in % by class; classes that do not occur (NaN) are left out."""
    found = {k: v for k, v in results.get(group, {}).items() if k.startswith(prefix)}
    return {
        name.removeprefix(prefix): float(value)
        for name, value in found.items()
        if isinstance(value, int | float) and abs(value) < HUGE  # not so for NaN
    }


def confusion(run: RunFiles) -> Content:
    """Which share of each class was taken for which."""
    scores = need(run.scores)
    counts, classes = scores.confusion, scores.classes
    if counts is None:
        raise MissingPartError("the scores file holds no confusion matrix")
    figure = confusion_figure(counts, classes)
    drawn, occurring = len(confusion_rows(counts)), int(_occurring(counts).sum())
    what = "objects" if NOTHING in classes else "pixels"
    text = (
        f"Rows: truth, columns: prediction, {int(counts.sum())} {what}. Each row is divided by its "
        f"sum; numbers are percentages. {drawn} of {len(classes)} classes"
    )
    text += f", the {MAX_CLASSES} most frequent." if drawn < occurring else " occur."
    if what == "objects":
        text += (
            f" Boxes with a score of at least 0.5 are matched at IoU 0.5; {NOTHING} stands for a "
            "missed object's prediction and for a false detection's truth."
        )
    html = shown(figure, text)
    data = csv_bytes(["truth", *classes], ([n, *row] for n, row in zip(classes, counts.tolist())))
    return Content(html, {"confusion.csv": data})


def _occurring(counts: np.ndarray) -> np.ndarray:
    """(K,) whether a class is in truth or prediction."""
    return (counts.sum(axis=0) + counts.sum(axis=1)) > 0
