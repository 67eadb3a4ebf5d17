"""Reading what a training run left in its OUTPUT_DIR, for reports."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from dynamic_routing.analysis.report import NotAvailable

RESULTS_FILE = "results.json"
"""Group -> metric -> value; a run that has it is complete."""

PACKAGES = ("torch", "torchvision", "detectron2", "numpy", "scikit-learn", "pycocotools")

SUMMARY = {
    "sem_seg/mIoU": "mIoU (%)",
    "sem_seg/pACC": "pixel accuracy (%)",
    "bbox/AP": "box AP (%)",
    "bbox/AP50": "box AP50 (%)",
    "segm/AP": "mask AP (%)",
    "segm/AP50": "mask AP50 (%)",
    "keypoints/AP": "keypoint AP (%)",
    "panoptic_seg/PQ": "panoptic quality (%)",
    "routing/gmacs_avg": "GMACs an image, average",
    "routing/gmacs_min": "GMACs an image, least",
    "routing/gmacs_max": "GMACs an image, most",
    "routing/backbone_gmacs_avg": "GMACs of the backbone alone, average",
    "routing/paper_gflops_avg": "FLOPs as the papers count, average (G)",
    "routing/ms_avg": "milliseconds an image",
    "routing/divdr_inter": "inter: mean distance of the clusters' centres",
    "routing/divdr_intra_pair": "intra: mean distance of two images of a cluster",
    "routing/divdr_intra_center": "intra: mean distance to the centre",
    "routing/divdr_silhouette": "silhouette of the clusters",
    "routing/distinct_routes": "distinct routes",
    "routing/images": "images",
}
"""Metrics of a summary table and how they are called there."""

HUGE = 1e300
"""Integers beyond this, which JSON may hold, are no measurements."""

Results = Mapping[str, Mapping[str, float]]


def read_results(run: Path) -> dict[str, dict[str, float]] | NotAvailable:
    """``results.json`` of a run: group -> metric -> value.

    Null, as for absent classes, is NaN; what is no group of metrics is left out.
    """
    path = run / RESULTS_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        return NotAvailable(f"{path.name}: {error.strerror or error}")
    except (ValueError, RecursionError) as error:
        return NotAvailable(f"{path.name}: {error}")
    if not isinstance(content, dict):
        return NotAvailable(f"{path.name}: holds {type(content).__name__}, not results by group")
    return {
        group: {name: math.nan if value is None else value for name, value in values.items()}
        for group, values in content.items()
        if isinstance(values, dict)
    }


def results_of(run: Path, *keys: str) -> dict[str, float]:
    """Metrics that a study cannot do without.

    Args:
        run: folder of a complete run.
        keys: ``group/metric``.

    Raises:
        ValueError: one is missing, or null since it has no value; names it and the run.
    """
    found = read_results(run)
    if isinstance(found, NotAvailable):
        raise ValueError(f"{run}: {found.reason}")
    numbers = flatten(found)
    lacking = [key for key in keys if key not in numbers]
    if lacking:
        raise ValueError(f"{run / 'results.json'} has no value for {', '.join(lacking)}")
    return {key: numbers[key] for key in keys}


def flatten(results: Results) -> dict[str, float]:
    """``group/metric`` -> value, without what is no finite number."""
    flat = {f"{g}/{name}": value for g, values in results.items() for name, value in values.items()}
    numbers = {k: v for k, v in flat.items() if isinstance(v, int | float) and abs(v) < HUGE}
    return {k: float(v) for k, v in numbers.items() if math.isfinite(v)}


def summarise(results: Results) -> dict[str, float | int | str]:
    """The rows of a summary table that the results have."""
    flat = flatten(results)
    return {title: flat[key] for key, title in SUMMARY.items() if key in flat}


def flat_settings(node: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted keys of a config and their values as text."""
    flat: dict[str, str] = {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            flat.update(flat_settings(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = str(value)
    return flat


def installed_versions() -> dict[str, float | int | str]:
    """Versions of Python and of the packages that decide results."""
    versions: dict[str, float | int | str] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions
