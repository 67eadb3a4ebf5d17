"""Parameters and cost of a network by part, and over the images of a data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tabulate import tabulate

from dynamic_routing.evaluation.gates_file import GatesFile
from dynamic_routing.routing.cost import GIGA, CostModel

HISTOGRAM_BINS = 10


@dataclass(frozen=True)
class ImageCosts:
    """Executed cost over a data set, in GMACs at each image's own size, beside milliseconds."""

    images: int
    average: float
    maximum: float
    minimum: float
    milliseconds: float
    histogram: list[tuple[float, float, int]]


def image_costs(gates: GatesFile, *, cost: str = "gmacs") -> ImageCosts:
    """Sum up one cost column of a gates file; histogram rows are (from, to, images)."""
    values = np.asarray(gates.costs[cost])
    counts, bounds = np.histogram(values, bins=HISTOGRAM_BINS)
    bins = zip(bounds[:-1].tolist(), bounds[1:].tolist(), counts.tolist(), strict=True)
    return ImageCosts(
        images=len(values),
        average=float(values.mean()),
        maximum=float(values.max()),
        minimum=float(values.min()),
        milliseconds=float(np.nanmean(gates.milliseconds)),
        histogram=list(bins),
    )


def cost_report(
    models: Mapping[str, CostModel],
    backbones: Mapping[str, CostModel],
    *,
    parameters: dict[str, int],
    size: tuple[int, int],
) -> dict[str, Any]:
    """Everything that the network's shape decides, as plain numbers.

    Args:
        models: cost of all that runs for every image, by convention (``macs``, ``paper``).
        backbones: the same of the routed backbone alone, which the papers print for detectors.
        parameters: by part.
        size: (height, width) in pixels.

    Returns:
        ``input_size``, ``parameters`` (all), ``parameters_by_part``; per convention (``macs``,
        ``paper``) ``open``, ``closed`` and ``expected`` (multiply-adds or FLOPs with every gate
        open, every gate closed, and the expected cost of the space with every gate at 1) and
        ``backbone`` (the backbone alone with every gate open);
        ``parts``: name -> {"macs", "paper"} with every gate open.
    """
    report: dict[str, Any] = {
        "input_size": list(size),
        "parameters": sum(parameters.values()),
        "parameters_by_part": parameters,
    }
    for name, model in models.items():
        report[name] = {
            "open": model.open_cost(*size),
            "closed": model.closed_cost(*size),
            "expected": model.full_expected(*size),
            "backbone": backbones[name].open_cost(*size),
        }
    tables = {name: model.table(*size).parts() for name, model in models.items()}
    report["parts"] = {
        part: {name: table[part] for name, table in tables.items()} for part in tables["macs"]
    }
    return report


def format_report(report: dict[str, Any], images: ImageCosts | None = None) -> str:
    """The report as text tables."""
    height, width = report["input_size"]
    rows = [(part, _giga(c["macs"]), _giga(c["paper"])) for part, c in report["parts"].items()]
    for key, title in (
        ("open", "all gates open"),
        ("closed", "all gates closed"),
        ("backbone", "backbone alone, all gates open"),
        ("expected", "expected cost of the space, gates at 1"),
    ):
        rows.append((title, _giga(report["macs"][key]), _giga(report["paper"][key])))
    headers = (f"at {height} x {width}", "GMACs", "GFLOPs (papers)")
    text = tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)
    parts = report["parameters_by_part"].items()
    parameters = ", ".join(f"{name} {count / 1e6:.3f} M" for name, count in parts)
    text = f"parameters: {report['parameters'] / 1e6:.3f} M ({parameters})\n\n{text}"
    return text if images is None else f"{text}\n\n{format_images(images)}"


def format_images(images: ImageCosts) -> str:
    """Average, extremes and histogram over a data set."""
    lines = [
        f"{images.images} images: average {images.average:.4g}, maximum {images.maximum:.4g}, "
        f"minimum {images.minimum:.4g} GMACs; {images.milliseconds:.1f} ms an image"
    ]
    most = max(count for *_, count in images.histogram)
    for low, high, count in images.histogram:
        lines.append(f"  {low:9.4g} to {high:9.4g}  {count:6d}  {'#' * round(40 * count / most)}")
    return "\n".join(lines)


def _giga(value: float) -> str:
    return f"{value / GIGA:.4f}"
