"""Sections of a run's report that show single images: clusters, and the extremes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import PurePath

import numpy as np

from dynamic_routing.analysis.clusters import (
    average_route_figure,
    cluster_table,
    nearest_images,
)
from dynamic_routing.analysis.data_files import csv_bytes
from dynamic_routing.analysis.html import (
    columns_table,
    heading,
    missing,
    paragraph,
    picture,
    row_of,
)
from dynamic_routing.analysis.panel import compact_route
from dynamic_routing.analysis.report import Content, MissingPartError, NotAvailable, need
from dynamic_routing.analysis.run_figures import shown
from dynamic_routing.evaluation.image_scores import METRICS
from dynamic_routing.evaluation.report_pictures import StoredImages, encode_thumb
from dynamic_routing.evaluation.run_files import RunFiles, cost_title
from dynamic_routing.routing.routes import Routes

NEAREST = 5
"""Images shown of each cluster."""

DRAWN_CLUSTERS = 8
"""Of more clusters the largest are drawn; the table has all."""

ORDINALS = ("", "second ", "third ")

ROUTE_BYTES = 80_000


# Clusters ---------------------------------------------------------------------------------------


def clusters(run: RunFiles, images: StoredImages | None) -> Content:
    """Numbers of each cluster, its average route, and the images nearest to its centre.

    Args:
        run: whose clusters.
        images: where thumbnails come from; None shows names only.
    """
    found = run.clusters
    scores = {f"{title} (0 to 1)": values for title, values in run.all_scores().items()}
    table = cluster_table(found, scores)
    by_cluster = {
        f"cluster {k}": {c: v[f"cluster {k}"] for c, v in table.items() if f"cluster {k}" in v}
        for k in range(len(found))
    }
    parts = [columns_table("", by_cluster)]
    if isinstance(run.scores, NotAvailable):
        parts.append(missing(f"accuracy of the clusters: {run.scores.reason}"))
    sizes = np.array([len(found.rows(k)) for k in range(len(found))])
    drawn = sorted(np.argsort(-sizes, kind="stable")[:DRAWN_CLUSTERS].tolist())
    if len(drawn) < len(found):
        parts.append(paragraph(f"The {len(drawn)} largest of {len(found)} clusters are drawn."))
    parts += [_cluster(run, images, k) for k in drawn]
    return Content("\n".join(parts), {"clusters.csv": _clusters_csv(run, table)})


def _cluster(run: RunFiles, images: StoredImages | None, k: int) -> str:
    """One cluster."""
    found = run.clusters
    count = len(found.rows(k))
    if not count:
        return heading(f"Cluster {k}") + paragraph("No image is in it.")
    caption = f"Cluster {k}: how often its {count} images open each edge."
    route = shown(average_route_figure(found, k), caption, max_bytes=ROUTE_BYTES)
    near = nearest_images(found, k, NEAREST)
    names = ", ".join(PurePath(need(run.gates).file_names[row]).name for row in near)
    parts = [heading(f"Cluster {k}"), route]
    if images is None:
        return "".join([*parts, paragraph(f"Nearest to its centre: {names}.")])
    thumbs = row_of(_thumb(run, images, row) for row in near)
    return "".join([*parts, paragraph("Nearest to its centre:"), thumbs])


def _thumb(run: RunFiles, images: StoredImages, row: int) -> str:
    """A small picture of an image and its numbers."""
    name = need(run.gates).file_names[row]
    numbers = [f"distance {run.clusters.distances[row]:.3g}", *_numbers(run, row)]
    caption = f"{PurePath(name).name}: {', '.join(numbers)}"
    try:
        return picture(encode_thumb(images.photo(name)), caption, "thumb")
    except MissingPartError as error:
        return f'<figure class="thumb">{missing(str(error))}{paragraph(caption)}</figure>'


def _numbers(run: RunFiles, row: int) -> list[str]:
    """Cost, time and score of an image, as far as they are known."""
    gates, texts = need(run.gates), []
    if gates.costs:
        texts.append(f"{run.costs[row]:.4g} {cost_title(run.cost_name)}")
    if not math.isnan(gates.milliseconds[row]):
        texts.append(f"{gates.milliseconds[row]:.1f} ms")
    score = _score(run, row)
    if not math.isnan(score):
        texts.append(f"{METRICS[run.score_name]} {score:.3f}")
    return texts


def _score(run: RunFiles, row: int) -> float:
    """What ranks an image, NaN if unknown."""
    try:
        return float(run.image_scores[row])
    except MissingPartError:
        return math.nan


def _clusters_csv(run: RunFiles, table: dict[str, dict[str, float]]) -> bytes:
    """A row a cluster, with the names of the nearest images."""
    found, names = run.clusters, need(run.gates).file_names
    header = ["cluster", *table, *(f"nearest_{i + 1}" for i in range(NEAREST))]
    rows = []
    for k in range(len(found)):
        near = [names[row] for row in nearest_images(found, k, NEAREST)]
        numbers = [column.get(f"cluster {k}") for column in table.values()]
        rows.append([k, *numbers, *near, *[None] * (NEAREST - len(near))])
    return csv_bytes(header, rows)


# Extremes ---------------------------------------------------------------------------------------


def extremes(run: RunFiles, images: StoredImages, *, count: int = 2) -> Content:
    """The cheapest, dearest, best and worst images: prediction and route.

    Args:
        run: whose images.
        images: where they come from.
        count: images of each kind.
    """
    roles = extreme_rows(run, count)
    parts = []
    if images.reason:
        parts.append(missing(f"predictions: {images.reason}"))
    if isinstance(run.scores, NotAvailable):
        parts.append(missing(f"best and worst images: {run.scores.reason}"))
    elif not any("best" in name for names in roles.values() for name in names):
        parts.append(missing("best and worst images: no two images have different scores"))
    parts += [_image(run, images, row, names) for row, names in roles.items()]
    gates = need(run.gates)
    labels = None if gates.clusters is None else gates.clusters.labels
    rows = [
        [role, gates.file_names[row], run.costs[row], gates.milliseconds[row], _score(run, row),
         None if labels is None else labels[row]]
        for row, names in roles.items() for role in names
    ]  # fmt: skip
    header = ["role", "file_name", run.cost_name, "milliseconds", "score", "cluster"]
    return Content("\n".join(parts), {"images.csv": csv_bytes(header, rows)})


def extreme_rows(run: RunFiles, count: int) -> dict[int, list[str]]:
    """Number of an image -> what it is: cheapest, dearest, best, worst.

    Images of equal rank keep the order of the gates file; where all scores are equal, none is best
    or worst.

    Raises:
        MissingPartError: no gates, or no costs.
    """
    kinds = {
        "cheapest": np.argsort(run.costs, kind="stable"),
        "dearest": np.argsort(-run.costs, kind="stable"),
    }
    try:
        scores = run.image_scores
    except MissingPartError:
        scores = np.full(len(run.costs), math.nan)
    known = np.flatnonzero(~np.isnan(scores))
    if len(np.unique(scores[known])) < 2:
        known = known[:0]  # none is better than another
    kinds["best"] = known[np.argsort(-scores[known], kind="stable")]
    kinds["worst"] = known[np.argsort(scores[known], kind="stable")]
    roles: dict[int, list[str]] = {}
    for kind, order in kinds.items():
        for place, row in enumerate(order[:count].tolist()):
            rank = ORDINALS[place] if place < len(ORDINALS) else f"{place + 1}th "
            roles.setdefault(row, []).append(rank + kind)
    return roles


def _image(run: RunFiles, images: StoredImages, row: int, roles: Sequence[str]) -> str:
    """One image: what it is, its pictures, its route."""
    gates = need(run.gates)
    name, routes = gates.file_names[row], gates[row]
    numbers = _numbers(run, row)
    if gates.clusters is not None:
        numbers.append(f"cluster {gates.clusters.labels[row]}")
    title = " and ".join(roles)
    parts = [heading(f"{title[0].upper()}{title[1:]}"),
             paragraph(f"{PurePath(name).name}: {', '.join(numbers)}")]  # fmt: skip
    try:
        tiles = images.tiles(name)
    except MissingPartError as error:
        parts.append(missing(str(error)))
    else:
        parts.append(tiles.to_html())
        parts += _difference(routes, tiles.routes)
    figure = compact_route(routes.space, routes.gates[0], rule=routes.rule)
    caption = f"Route of {PurePath(name).name}."
    return "\n".join([*parts, shown(figure, caption, max_bytes=ROUTE_BYTES)])


def _difference(stored: Routes, taken: Routes | None) -> list[str]:
    """A word where the weights take another route than the one that is kept and drawn."""
    if taken is None or taken.space.edges != stored.space.edges:
        return []
    other = int((taken.open != stored.open).sum())
    if not other:
        return []
    text = f"The weights now take another route than the one in the gates file: {other} edges."
    return [paragraph(text, "note")]
