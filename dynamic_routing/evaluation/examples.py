"""Pictures of single images: what was predicted and along which route."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog, detection_utils
from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES
from torch import nn

from dynamic_routing.analysis.panel import Palette, route_panel, tiles_panel
from dynamic_routing.compat import load_label_image
from dynamic_routing.evaluation.gates_file import GatesFile
from dynamic_routing.evaluation.instance_tiles import instance_tiles

GOLDEN_ANGLE = 0.381966

Mapper = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Example:
    """One image to show.

    Attributes:
        name: file name of the picture, without ending.
        caption: what is special about it.
        file_name: the image, as the data set gives it.
    """

    name: str
    caption: str
    file_name: str


def easy_and_hard(gates: GatesFile, *, cost: str = "gmacs") -> list[Example]:
    """The image on which the network spent least and the one on which it spent most."""
    spent, unit = gates.costs[cost], cost.replace("gmacs", "GMACs")
    cheapest, dearest = int(np.argmin(spent)), int(np.argmax(spent))
    return [
        Example("easy", f"Easy: the cheapest image, {spent[cheapest]:.4g} {unit}",
                gates.file_names[cheapest]),
        Example("hard", f"Hard: the dearest image, {spent[dearest]:.4g} {unit}",
                gates.file_names[dearest]),
    ]  # fmt: skip


def class_palette(dataset_name: str) -> Palette:
    """Names and colours of a data set's classes; Detectron2 keeps Cityscapes' colours apart."""
    metadata = MetadataCatalog.get(dataset_name)
    names = tuple(metadata.stuff_classes)
    colours = metadata.get("stuff_colors")
    if colours is None:
        known = {c["name"]: c["color"] for c in CITYSCAPES_CATEGORIES}
        colours = [known.get(n, spread_colour(i)) for i, n in enumerate(names)]
    return Palette(names, tuple((int(r), int(g), int(b)) for r, g, b in colours))


def spread_colour(index: int) -> tuple[int, int, int]:
    """A colour for class ``index``: hues a golden angle apart, alternately light and dark."""
    red, green, blue = colorsys.hsv_to_rgb(index * GOLDEN_ANGLE % 1, 0.65, (0.95, 0.7)[index % 2])
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_example(
    example: Example, *, model: nn.Module, mapper: Mapper, dataset_name: str, folder: Path
) -> Path:
    """Run the model on one image of a data set and draw its page.

    Args:
        example: which image.
        model: a routed semantic segmentor or detector.
        mapper: from a data set's dict to the model's input.
        dataset_name: a registered data set with label maps or instances.
        folder: where ``<example.name>.png`` goes.

    Raises:
        ValueError: the image is not part of the data set.
    """
    records: Sequence[dict[str, Any]] = DatasetCatalog.get(dataset_name)
    record = next((r for r in records if r["file_name"] == example.file_name), None)
    if record is None:
        raise ValueError(f"{example.file_name} is not part of data set {dataset_name}")
    inputs = mapper(record)
    with torch.no_grad():
        output = model.eval()([inputs])[0]
    image = detection_utils.read_image(record["file_name"], format="RGB")
    path = folder / f"{example.name}.png"
    if "instances" in output:
        tiles = instance_tiles(image, record, output["instances"], dataset_name)
        return tiles_panel(tiles, routes=output["routes"], title=example.caption, path=path)
    return route_panel(
        image=image,
        prediction=output["sem_seg"].argmax(dim=0).cpu().numpy(),
        truth=load_label_image(record["sem_seg_file_name"]),
        routes=output["routes"],
        palette=class_palette(dataset_name),
        title=example.caption,
        path=path,
    )
