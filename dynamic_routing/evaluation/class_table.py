"""Ground truth and predictions side by side, class by class, and the usual causes of AP 0.

Pure functions over COCO's format: ``dataset`` is the content of an annotation file (images,
annotations, categories), ``results`` a list of predictions with image_id, category_id, score and
maybe bbox ([x, y, width, height] in pixels). Crowds are left out, as in COCO's AP.
"""

from __future__ import annotations

import json
import logging
import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from dynamic_routing.files import write_atomically

logger = logging.getLogger(__name__)

CONFIDENT = 0.5
"""Score above which a prediction counts as confident: what pictures usually show."""

RELATIVE_LIMIT = 1.5
"""Largest coordinate, in pixels, up to which all boxes together look like shares of the image."""

FILE_NAME = "class_table.json"
SHOWN = 5
"""Number of examples in a message."""

Entries = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class ClassCount:
    """One class in numbers.

    Attributes:
        name: of the class.
        truths: ground-truth instances, crowds left out.
        truth_images: images with at least one of them.
        predictions: in the images of the data set.
        confident: predictions with a score above :data:`CONFIDENT`.
        best_score: highest score, None without predictions.
    """

    name: str
    truths: int
    truth_images: int
    predictions: int
    confident: int
    best_score: float | None


def count_classes(dataset: Mapping[str, Any], results: Entries) -> list[ClassCount]:
    """Count every category of the data set, in its order."""
    truth_images: dict[Hashable, list[Hashable]] = defaultdict(list)
    for annotation in _truths(dataset):
        truth_images[annotation["category_id"]].append(annotation["image_id"])
    image_ids = _ids(dataset["images"])
    scores: dict[Hashable, list[float]] = defaultdict(list)
    for result in results:
        if result["image_id"] in image_ids:
            scores[result["category_id"]].append(float(result["score"]))
    return [
        ClassCount(
            name=str(category["name"]),
            truths=len(truth_images[category["id"]]),
            truth_images=len(set(truth_images[category["id"]])),
            predictions=len(scores[category["id"]]),
            confident=sum(score > CONFIDENT for score in scores[category["id"]]),
            best_score=max(filter(math.isfinite, scores[category["id"]]), default=None),
        )
        for category in dataset["categories"]
    ]


def occurring(counts: Iterable[ClassCount]) -> list[ClassCount]:
    """The classes that are in the ground truth or among the predictions."""
    return [count for count in counts if count.truths or count.predictions]


def format_table(counts: Sequence[ClassCount]) -> str:
    """A table of the classes that occur, and one line on the others."""
    shown = occurring(counts)
    headers = ["class", "truth", "images", "predictions", f"score > {CONFIDENT:g}", "best score"]
    rows = [list(asdict(count).values()) for count in shown]
    table = tabulate(rows, headers=headers, tablefmt="pipe", floatfmt=".3f", missingval="-")
    absent = len(counts) - len(shown)
    return table + (f"\n{absent} more classes: neither in truth nor predicted" if absent else "")


def find_problems(dataset: Mapping[str, Any], results: Entries) -> list[str]:
    """What makes AP 0 or undefined, one line each: what was found, its likely cause, the remedy."""
    truths = _truths(dataset)
    problems = [*_truth_problems(dataset, truths), *_box_problems(dataset, truths, "ground-truth")]
    if not results:
        problems.append(
            "the model predicted nothing: it is hardly trained or has diverged (SOLVER.BASE_LR), "
            "MODEL.PIXEL_MEAN or PIXEL_STD are of other images, or a SCORE_THRESH_TEST is too high"
        )
        return problems
    problems += _identity_problems(dataset, results)
    problems += _class_problems(truths, results, dataset)
    return problems + list(_box_problems(dataset, results, "predicted"))


def report(
    dataset: Mapping[str, Any],
    results: Entries,
    *,
    dataset_name: str,
    output_dir: str | Path | None = None,
) -> list[str]:
    """Log the table and a warning a problem; write both to ``output_dir/class_table.json``.

    Returns:
        The problems.
    """
    counts, problems = count_classes(dataset, results), find_problems(dataset, results)
    logger.info(f"{dataset_name}, ground truth and predictions by class:\n{format_table(counts)}")
    for problem in problems:
        logger.warning(f"{dataset_name}: {problem}")
    if output_dir is not None:
        content = {
            "dataset": dataset_name,
            "classes": [asdict(count) for count in occurring(counts)],
            "absent_classes": len(counts) - len(occurring(counts)),
            "problems": problems,
        }
        text = json.dumps(content, indent=1, allow_nan=False)
        write_atomically(Path(output_dir) / FILE_NAME, text.encode("utf-8"))
    return problems


def _truths(dataset: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The annotations that count."""
    return [a for a in dataset["annotations"] if not a.get("iscrowd", 0)]


def _ids(entries: Entries) -> set[Hashable]:
    return {entry["id"] for entry in entries}


def _some(values: Iterable[Hashable]) -> str:
    """The first few values, for a message."""
    ordered = sorted(set(values), key=lambda v: (str(type(v)), v))  # type: ignore[return-value]
    return ", ".join(map(str, ordered[:SHOWN])) + (", ..." if len(ordered) > SHOWN else "")


def _truth_problems(dataset: Mapping[str, Any], truths: Entries) -> Iterator[str]:
    """No ground truth, or ground truth of images that are not listed."""
    if not truths:
        crowds = len(dataset["annotations"])
        yield (
            f"no ground truth in {len(dataset['images'])} images ({crowds} crowds), so AP is "
            "undefined: take a split with annotations for DATASETS.TEST"
        )
    known = _ids(dataset["images"])
    strangers = sum(truth["image_id"] not in known for truth in truths)
    if strangers:
        yield (
            f"{strangers} of {len(truths)} annotations belong to no listed image: image_id and the "
            "images' id must be the same numbers in the annotation file"
        )


def _identity_problems(dataset: Mapping[str, Any], results: Entries) -> Iterator[str]:
    """Predictions for images or categories that the annotation file does not have."""
    for key, entries, remedy in (
        ("image_id", dataset["images"], "the data set's loader and its JSON must be one split"),
        (
            "category_id",
            dataset["categories"],
            "set MODEL.ROI_HEADS.NUM_CLASSES (RetinaNet: MODEL.RETINANET.NUM_CLASSES) to the "
            f"{len(dataset['categories'])} classes of the data set",
        ),
    ):
        known = _ids(entries)
        strangers = [result[key] for result in results if result[key] not in known]
        if strangers:
            share = "all" if len(strangers) == len(results) else f"{len(strangers)} of"
            yield (
                f"{share} {len(results)} predictions are left out, their {key} is not in the "
                f"annotation file ({_some(strangers)}): {remedy}"
            )


def _class_problems(truths: Entries, results: Entries, dataset: Mapping[str, Any]) -> Iterator[str]:
    """Predictions of a single class, or of none that is in the ground truth."""
    names = {category["id"]: str(category["name"]) for category in dataset["categories"]}
    predicted = {r["category_id"] for r in results} & set(names)
    wanted = {a["category_id"] for a in truths}
    if len(predicted) == 1 and len(wanted) > 1:
        (only,) = predicted
        yield (
            f"all predictions are of class {names[only]}, of {len(wanted)} in the ground truth: "
            "train longer, or check the order of the classes in the data set"
        )
    if predicted and wanted and not predicted & wanted:
        yield (
            "no predicted class is in the ground truth: check the order of the classes, and that "
            "MODEL.WEIGHTS were trained on this data set"
        )


def _box_problems(dataset: Mapping[str, Any], entries: Entries, whose: str) -> Iterator[str]:
    """Boxes in relative units, or all outside their images."""
    sizes = {i["id"]: (i["width"], i["height"]) for i in dataset["images"] if "width" in i}
    boxed = [e for e in entries if e["image_id"] in sizes and "bbox" in e]
    if not boxed:
        return
    ends = [(e["bbox"][0] + e["bbox"][2], e["bbox"][1] + e["bbox"][3]) for e in boxed]
    if max(max(end) for end in ends) <= RELATIVE_LIMIT:
        yield (
            f"all {whose} boxes end within {RELATIVE_LIMIT:g} pixels of the origin: they look like "
            "shares of the image; give them in pixels ([x, y, width, height])"
        )
    elif all(_outside(e["bbox"], sizes[e["image_id"]]) for e in boxed):
        yield (
            f"all {whose} boxes are outside their images: check width and height in the annotation "
            "file, and the order of the coordinates ([x, y, width, height])"
        )


def _outside(box: Sequence[float], size: tuple[float, float]) -> bool:
    """Whether a box [x, y, width, height] and an image (width, height) have no common area."""
    x, y, width, height = box
    return x >= size[0] or y >= size[1] or x + width <= 0 or y + height <= 0
