"""Sections of a run's report that need nothing but its files: numbers, curves, costs, A-space."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from dynamic_routing.analysis.data_files import csv_bytes, json_bytes
from dynamic_routing.analysis.html import (
    columns_table,
    folded,
    missing,
    paragraph,
    row_of,
    values_table,
)
from dynamic_routing.analysis.report import Content, MissingPartError, NotAvailable, need, reason_of
from dynamic_routing.analysis.run_figures import (
    curves_figure,
    histogram_figure,
    scatter_figure,
    shown,
)
from dynamic_routing.analysis.run_folder import SUMMARY, flat_settings, flatten
from dynamic_routing.analysis.space_map import pca_figure, tsne_figure
from dynamic_routing.evaluation.run_files import RunFiles, cost_title

METRIC_CURVES = {
    "sem_seg/mIoU": "mIoU",
    "segm/AP": "mask AP",
    "bbox/AP": "box AP",
    "keypoints/AP": "keypoint AP",
    "panoptic_seg/PQ": "PQ",
    "classification/top1": "top-1",
}
COST_CURVES = {
    "routing/expected_gmacs": "expected, batch",
    "routing/executed_gmacs": "executed, batch",
    "routing/gmacs_avg": "executed, test average",
}
CLUSTER_CURVES = {
    "divdr/inter": "inter",
    "divdr/intra_pair": "intra, pairs",
    "divdr/intra_center": "intra, to the centre",
}
"""Quantities in metrics.json and what the figures call them."""


def summary(run: RunFiles) -> Content:
    """The key metrics, a column a network."""
    flat = {network: flatten(results) for network, results in need(run.results).items()}
    keys = [key for key in SUMMARY if any(key in values for values in flat.values())]
    if not keys:
        raise MissingPartError("results.json holds no metric that is known here")
    columns = {
        network: {SUMMARY[key]: values[key] for key in keys if key in values}
        for network, values in flat.items()
    }
    heads = columns if len(columns) > 1 else {"value": next(iter(columns.values()))}
    rows = [[key, SUMMARY[key], *(values.get(key) for values in flat.values())] for key in keys]
    data = csv_bytes(["key", "metric", *flat], rows)
    return Content(columns_table("metric", heads), {"summary.csv": data})


# Over time --------------------------------------------------------------------------------------


def over_time(run: RunFiles) -> Content:
    """Losses, learning rate, metric, costs, and how far apart clusters are."""
    log = need(run.log)
    losses = sorted(n for n in log.names if n.startswith("loss_"))
    plots = [
        ("Losses", "loss", {n: n.removeprefix("loss_") for n in ("total_loss", *losses)}),
        ("Learning rate", "learning rate", {"lr": "learning rate"}),
        ("Metric on the test data", "%", METRIC_CURVES),
        ("Cost of training batches, expected and executed, and of the test images", "GMACs",
         COST_CURVES),
        ("Distances of clusters (inter) and within them (intra), training images",
         "distance in A-space", CLUSTER_CURVES),
    ]  # fmt: skip
    figures = [
        figure_or_reason(caption, partial(curves_figure, log, names, label))
        for caption, label, names in plots
    ]
    html = row_of(figures)
    if log.skipped_lines:
        html += paragraph(f"Damaged lines of metrics.json that were skipped: {log.skipped_lines}.")
    rows = [[i, *(row.get(name) for name in log.names)] for i, row in log.rows.items()]
    return Content(html, {"curves.csv": csv_bytes(["iteration", *log.names], rows)})


def figure_or_reason(caption: str, draw: Callable[[], Figure]) -> str:
    """A figure, or its caption and why there is none."""
    try:
        return shown(draw(), caption)
    except Exception as error:  # matplotlib raises what it likes for damaged numbers and names
        return f'<figure class="half">{paragraph(caption)}{missing(reason_of(error))}</figure>'


# Costs ------------------------------------------------------------------------------------------


def costs(run: RunFiles) -> Content:
    """How many images cost how much, and whether cost shows in milliseconds."""
    gates, values, label = need(run.gates), run.costs, cost_title(run.cost_name)
    times = gates.milliseconds
    timed = times[~np.isnan(times)]
    numbers: dict[str, float | int | str] = {
        "images": len(gates),
        f"{label} an image, average": float(values.mean()),
        f"{label} an image, least": float(values.min()),
        f"{label} an image, most": float(values.max()),
    }
    if timed.size:
        numbers["milliseconds an image, average"] = float(timed.mean())
        numbers["milliseconds an image, median"] = float(np.median(timed))
    figures = [
        figure_or_reason("Cost of the images.", lambda: histogram_figure(values, label)),
        figure_or_reason("Cost against wall time of the same images.",
                         lambda: scatter_figure(values, times, label)),
    ]  # fmt: skip
    html = values_table(numbers) + row_of(figures)
    return Content(html, {"costs.csv": _costs_csv(run)})


def _costs_csv(run: RunFiles) -> bytes:
    """Everything that is known of each image, a row an image."""
    gates = need(run.gates)
    columns: dict[str, Any] = {
        "file_name": gates.file_names,
        "height": gates.image_sizes[:, 0],
        "width": gates.image_sizes[:, 1],
        "milliseconds": gates.milliseconds,
        "open_edges": gates.routes.open.sum(dim=1).numpy(),
        **gates.costs,
    }
    if not isinstance(run.scores, NotAvailable):
        columns |= {name: run.scores.of(name, gates.file_names) for name in run.scores.metrics}
    if gates.clusters is not None:
        columns |= {"cluster": gates.clusters.labels, "distance": gates.clusters.distances}
    return csv_bytes(list(columns), zip(*columns.values(), strict=True))


# A-space ----------------------------------------------------------------------------------------


def a_space(run: RunFiles) -> Content:
    """PCA and t-SNE of the routes."""
    found, colours = run.space_map, _map_colours(run)
    how = "cluster" if found.labels is not None else "cost" if colours else "nothing"
    figures = space_figures(run)
    note = (
        f"Each point is the route A(x) of an image, coloured by {how}; {found.sample}. "
        "t-SNE keeps neighbours together; its axes and distances between groups mean nothing."
    )
    return Content(paragraph(note) + row_of(figures), {"a_space.csv": _space_csv(run)})


def space_figures(run: RunFiles, name: str = "") -> list[str]:
    """PCA and t-SNE as figures; ``name`` stands in front of the captions."""
    found, colours = run.space_map, _map_colours(run)
    return [
        figure_or_reason(f"{name}PCA of A-space.", lambda: pca_figure(found, **colours)),
        figure_or_reason(f"{name}t-SNE of A-space, {found.sample}.",
                         lambda: tsne_figure(found, **colours)),
    ]  # fmt: skip


def _map_colours(run: RunFiles) -> dict[str, Any]:
    """What colours the points of a network without clusters."""
    try:
        return {"costs": run.costs, "label": cost_title(run.cost_name)}
    except MissingPartError:
        return {}


def _space_csv(run: RunFiles) -> bytes:
    """The drawn points."""
    found, gates = run.space_map, need(run.gates)
    columns: dict[str, Any] = {
        "file_name": [gates.file_names[row] for row in found.rows],
        "pca_1": found.pca[:, 0],
        "pca_2": found.pca[:, 1],
    }
    if found.tsne is not None:
        columns |= {"tsne_1": found.tsne[:, 0], "tsne_2": found.tsne[:, 1]}
    if found.labels is not None:
        columns["cluster"] = found.labels
    return csv_bytes(list(columns), zip(*columns.values(), strict=True))


# Settings ---------------------------------------------------------------------------------------


def settings(run: RunFiles) -> Content:
    """The config, folded."""
    values = flat_settings(_mapping(need(run.settings)))
    html = folded(f"{len(values)} settings", values_table(values, str))
    return Content(html, {"settings.json": json_bytes(values)})


def _mapping(node: Any) -> Mapping[str, Any]:
    """A config as a mapping."""
    assert isinstance(node, Mapping), f"not a config: {type(node).__name__}"
    return node
