"""From what a training run left in its folder to its part of the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dynamic_routing.analysis.clusters import ClusteredRoutes
from dynamic_routing.analysis.curves import TrainingLog, read_training_log
from dynamic_routing.analysis.report import NotAvailable, Picture, RunReport
from dynamic_routing.analysis.run_folder import Results, flat_settings, summarise
from dynamic_routing.analysis.statistics import route_statistics
from dynamic_routing.evaluation.gates_file import GatesFile, GatesFileError, load_gates

CLASS_METRICS = (("sem_seg", "IoU-", "IoU"), ("segm", "AP-", "mask AP"), ("bbox", "AP-", "box AP"))
"""Group of results, prefix of its entries by class, and what they are called."""


def run_report(
    run: Path,
    *,
    title: str,
    results: Mapping[str, Results],
    dataset_name: str,
    pictures: Sequence[Picture],
    settings: Mapping[str, Any],
) -> RunReport:
    """The report of one run.

    Args:
        run: its OUTPUT_DIR.
        title: heading.
        results: network -> results of its evaluation; the first is the run's own.
        dataset_name: the data set of the gates file.
        pictures: of single images.
        settings: the run's config.
    """
    own = next(iter(results.values()))
    group, metric = class_metric(own)
    gates = _gates(run / "inference" / f"gates_{dataset_name}.npz")
    return RunReport(
        title=title,
        summary=summarise(own),
        training=_training_log(run),
        evaluation={name: _numbers(summarise(found)) for name, found in results.items()},
        per_class={name: by_class(found, group) for name, found in results.items()},
        statistics=gates if isinstance(gates, NotAvailable) else route_statistics(gates.routes),
        pictures=tuple(pictures),
        settings=flat_settings(settings),
        clusters=None if isinstance(gates, NotAvailable) else _clusters(gates),
        class_metric=metric,
    )


def class_metric(results: Results) -> tuple[str, str]:
    """Group of the results that has numbers by class, and what these are called."""
    for group, prefix, metric in CLASS_METRICS:
        if any(name.startswith(prefix) for name in results.get(group, {})):
            return group, metric
    return "", "Metric"


def by_class(results: Results, group: str) -> dict[str, float]:
    """Numbers in % by class; classes that do not occur (NaN) are left out."""
    prefix = next((p for g, p, _ in CLASS_METRICS if g == group), "")
    found = {k: v for k, v in results.get(group, {}).items() if k.startswith(prefix)}
    return {k.removeprefix(prefix): v for k, v in found.items() if prefix and math.isfinite(v)}


def _numbers(summary: Mapping[str, float | int | str]) -> dict[str, float]:
    return {name: value for name, value in summary.items() if not isinstance(value, str)}


def _training_log(run: Path) -> TrainingLog | NotAvailable:
    try:
        return read_training_log(run / "metrics.json")
    except (OSError, ValueError) as error:
        return NotAvailable(f"metrics.json: {error}")


def _gates(path: Path) -> GatesFile | NotAvailable:
    try:
        return load_gates(path)
    except (OSError, GatesFileError) as error:
        return NotAvailable(str(error))


def _clusters(gates: GatesFile) -> ClusteredRoutes | None:
    """The clusters of a gates file, if its network has any."""
    found = gates.clusters
    if found is None:
        return None
    return ClusteredRoutes(
        gates.routes, found.labels, found.distances, found.centres, dict(gates.costs)
    )
