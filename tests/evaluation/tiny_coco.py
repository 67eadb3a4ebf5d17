"""A COCO data set of rectangles, and predictions made from its ground truth."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import Boxes, Instances

HEIGHT, WIDTH = 60, 90
CATEGORIES = [
    {"id": 3, "name": "car"},
    {"id": 18, "name": "dog"},
    {"id": 44, "name": "bottle"},
    {"id": 90, "name": "brush"},  # never annotated
]
IDS = [category["id"] for category in CATEGORIES]


def coco_dataset(images: int = 6, objects: int = 4, seed: int = 0) -> dict[str, Any]:
    """Images with ``objects`` rectangles of the first three categories, one of them a crowd."""
    generator = np.random.default_rng(seed)
    annotations = []
    for number in range(images * objects):
        x, y = generator.integers(0, WIDTH - 45), generator.integers(0, HEIGHT - 30)
        w, h = generator.integers(8, 45), generator.integers(8, 30)
        annotations.append(annotation(number, 100 + number % images, IDS[number % 3], [x, y, w, h]))
    crowd = annotations[0]
    crowd["iscrowd"], crowd["segmentation"] = 1, uncompressed(crowd["bbox"])
    return {
        "images": [
            {"id": 100 + i, "height": HEIGHT, "width": WIDTH, "file_name": f"{i}.jpg"}
            for i in range(images)
        ],
        "annotations": annotations,
        "categories": copy.deepcopy(CATEGORIES),
    }


def annotation(number: int, image_id: int, category_id: int, box: list) -> dict[str, Any]:
    """One rectangle in COCO's format, [x, y, width, height]."""
    x, y, w, h = (float(value) for value in box)
    return {
        "id": number + 1,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [x, y, w, h],
        "area": w * h,
        "iscrowd": 0,
        "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
    }


def uncompressed(box: list) -> dict[str, Any]:
    """A rectangle as COCO writes crowds: run lengths down the columns, starting with zeros."""
    mask = rectangle(box).ravel(order="F").astype(int)
    changes = np.flatnonzero(np.diff(mask)) + 1
    counts = np.diff([0, *changes, mask.size]).tolist()
    return {"size": [HEIGHT, WIDTH], "counts": [0, *counts] if mask[0] else counts}


def rectangle(box: list) -> np.ndarray:
    """(HEIGHT, WIDTH) bool mask of [x, y, width, height]."""
    x, y, w, h = (int(round(value)) for value in box)
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[max(y, 0) : y + h, max(x, 0) : x + w] = True
    return mask


@contextmanager
def registered(dataset: dict[str, Any], folder: Path) -> Iterator[str]:
    """Register the data set for the time of the ``with``; gives its name."""
    name = f"tiny_coco_{folder.name}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "instances.json"
    path.write_text(json.dumps(dataset))
    register_coco_instances(name, {}, str(path), str(folder))
    DatasetCatalog.get(name)  # which also writes the categories into the metadata
    try:
        yield name
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def instances(
    objects: list[tuple[list, int, float]], *, masks: bool = True, size: tuple = (HEIGHT, WIDTH)
) -> Instances:
    """What a model delivers, from ([x, y, width, height], class index, score)."""
    boxes = torch.tensor([box for box, _, _ in objects], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    found = Instances(
        size,
        pred_boxes=Boxes(boxes),
        pred_classes=torch.tensor([index for _, index, _ in objects], dtype=torch.long),
        scores=torch.tensor([score for _, _, score in objects], dtype=torch.float32),
    )
    if masks:
        drawn = np.array([rectangle(box) for box, _, _ in objects], dtype=bool)
        found.pred_masks = torch.from_numpy(drawn.reshape(-1, *size))
    return found


def noisy_predictions(
    dataset: dict[str, Any], *, seed: int = 0, masks: bool = True
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """(input, output) of every image: moved boxes, some missing, some of a wrong class, extra."""
    generator = np.random.default_rng(seed)
    pairs = []
    for image in dataset["images"]:
        objects = []
        for truth in (a for a in dataset["annotations"] if a["image_id"] == image["id"]):
            if generator.random() < 0.15:
                continue
            index = IDS.index(truth["category_id"])
            if generator.random() < 0.2:
                index = (index + 1) % 3
            box = np.array(truth["bbox"]) + generator.normal(0, 1.5, 4)
            box[2:] = box[2:].clip(min=2)
            objects.append((box.tolist(), index, float(generator.random())))
        objects.append(([5.0, 5.0, 20.0, 20.0], 0, float(generator.random())))
        entry = {"image_id": image["id"], "file_name": image["file_name"]}
        pairs.append((entry, {"instances": instances(objects, masks=masks)}))
    return pairs
