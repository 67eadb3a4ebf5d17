"""Panoptic segmentation: AP of the things, mIoU of the stuff, and panoptic quality of both.

panopticapi is on no package registry, so panoptic quality is computed here
(:mod:`~dynamic_routing.evaluation.panoptic_quality`).
"""

from __future__ import annotations

import io
import itertools
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from PIL import Image
from tabulate import tabulate

from dynamic_routing.evaluation.coco import build_coco_evaluators
from dynamic_routing.evaluation.panoptic_quality import (
    Counts,
    Quality,
    Segment,
    add_counts,
    class_quality,
    match_segments,
    mean_quality,
)
from dynamic_routing.evaluation.sem_seg import build_sem_seg_evaluators
from dynamic_routing.files import write_atomically

KEY = "panoptic_seg"
FOLDER = "panoptic_predictions"
"""Folder of the predicted PNGs, beside the JSON file of the same name."""

logger = logging.getLogger(__name__)


def build_panoptic_evaluators(
    dataset_name: str, output_dir: str | Path | None
) -> list[DatasetEvaluator]:
    """AP of the things, mIoU where the data set has label maps, panoptic quality.

    Args:
        dataset_name: a registered data set with ``panoptic_json``, ``panoptic_root`` and, for AP,
            ``json_file``; Detectron2's ``*_panoptic_separated`` are those that Panoptic FPN needs.
        output_dir: where predictions go; None keeps none.
    """
    evaluators = build_coco_evaluators(dataset_name, output_dir)
    if MetadataCatalog.get(dataset_name).get("sem_seg_root"):
        evaluators += build_sem_seg_evaluators(dataset_name, output_dir)
    return [*evaluators, PanopticQualityEvaluator(dataset_name, output_dir)]


def ids_to_colours(ids: np.ndarray) -> np.ndarray:
    """(H, W) ids to (H, W, 3) uint8: id = R + 256 G + 256^2 B (COCO's panoptic format)."""
    return np.stack([ids >> shift & 255 for shift in (0, 8, 16)], axis=-1).astype(np.uint8)


def colours_to_ids(colours: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 to (H, W) int64 ids; see :func:`ids_to_colours`.

    Raises:
        ValueError: not three channels.
    """
    if colours.ndim != 3 or colours.shape[2] != 3:
        raise ValueError(f"a panoptic PNG must be RGB, got an array of shape {colours.shape}")
    return colours.astype(np.int64) @ np.array([1, 256, 256**2])


@dataclass(frozen=True)
class _Image:
    """What one process hands over of an image: its counts and its prediction."""

    counts: dict[int, Counts]
    png: bytes
    annotation: dict[str, Any]


class PanopticQualityEvaluator(DatasetEvaluator):
    """PQ, SQ and RQ of outputs with ``"panoptic_seg"``.

    The ground truth is COCO's: a JSON file with segments_info and categories, and a PNG an image.
    Images that the JSON does not list are passed over, as panopticapi does; an image that was
    processed twice counts once.

    Args:
        dataset_name: a registered data set with ``panoptic_json`` and ``panoptic_root``.
        output_dir: where ``panoptic_predictions.json`` and its folder go; None writes none.
        distributed: gather the images of all processes.
    """

    def __init__(
        self, dataset_name: str, output_dir: str | Path | None = None, distributed: bool = True
    ) -> None:
        self._metadata = MetadataCatalog.get(dataset_name)
        self._output_dir = None if output_dir is None else Path(output_dir)
        self._distributed = distributed
        with open(
            PathManager.get_local_path(self._metadata.panoptic_json), encoding="utf-8"
        ) as file:
            self._dataset: dict[str, Any] = json.load(file)
        self._truths = {a["image_id"]: a for a in self._dataset["annotations"]}
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._images: dict[Any, _Image] = {}

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Match the segments of a batch.

        Args:
            inputs: each with ``image_id``.
            outputs: each with ``panoptic_seg``: (H, W) ids and their segments_info (id,
                category_id and isthing, the latter telling which contiguous numbering is meant).

        Raises:
            ValueError: an output without segments, or one that does not fit its ground truth.
        """
        for one_input, output in zip(inputs, outputs, strict=True):
            image_id = one_input["image_id"]
            if image_id not in self._truths:
                continue
            ids, infos = output.get(KEY, (None, None))
            if infos is None:
                raise ValueError(
                    f"the output of image {image_id} has no {KEY!r} with segments (keys: "
                    f"{sorted(output)}); use a panoptic meta-architecture"
                )
            try:
                self._images[image_id] = self._match(image_id, ids.cpu().numpy(), infos)
            except ValueError as error:
                raise ValueError(f"image {image_id}: {error}") from error

    def _match(self, image_id: Any, ids: np.ndarray, infos: Sequence[Mapping]) -> _Image:
        """Counts and files of one image."""
        annotation = self._truths[image_id]
        with Image.open(Path(self._metadata.panoptic_root, annotation["file_name"])) as image:
            truth = colours_to_ids(np.array(image))
        present = set(np.unique(ids).tolist())  # a mask may have lost its last pixel to another
        segments = [
            Segment(int(info["id"]), self._category_id(info))
            for info in infos
            if info["id"] in present
        ]
        counts = match_segments(truth, _segments(annotation), ids, segments)
        prediction = {
            "image_id": image_id,
            "file_name": annotation["file_name"],
            "segments_info": [{"id": s.id, "category_id": s.category} for s in segments],
        }
        return _Image(counts, _png(ids), prediction)

    def _category_id(self, info: Mapping[str, Any]) -> int:
        """A predicted segment's category in the numbering of the JSON."""
        kind = "thing" if info["isthing"] else "stuff"
        to_index = self._metadata.get(f"{kind}_dataset_id_to_contiguous_id")
        ids = {i: category for category, i in to_index.items()}
        if info["category_id"] not in ids:
            raise ValueError(
                f"predicted {kind} class {info['category_id']}, the data set has {len(ids)}"
            )
        return ids[info["category_id"]]

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Write the predictions, sum up and log.

        Returns:
            ``{"panoptic_seg": percentages}`` in the main process, None in the others: PQ, SQ, RQ of
            all classes, with _th of things, with _st of stuff, and PQ-<class>, SQ-<class> and
            RQ-<class>, NaN for a class that never occurs.

        Raises:
            ValueError: an image of the ground truth was not processed.
        """
        images = [self._images]
        if self._distributed:
            comm.synchronize()
            images = comm.gather(self._images)
            if not comm.is_main_process():
                return None
        found = dict(itertools.chain(*(part.items() for part in images)))
        missing = [image_id for image_id in self._truths if image_id not in found]
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(self._truths)} images of {self._metadata.panoptic_json} "
                f"have no prediction, first image {missing[0]}"
            )
        ordered = [found[image_id] for image_id in self._truths]
        if self._output_dir is not None:
            self._write(ordered, self._output_dir)
        return {KEY: self._summarise(add_counts(image.counts for image in ordered))}

    def _write(self, images: Sequence[_Image], folder: Path) -> None:
        """COCO's panoptic format: a JSON file, and its PNGs in a folder of the same name."""
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        for image in images:
            write_atomically(folder / FOLDER / image.annotation["file_name"], image.png)
        content = {**self._dataset, "annotations": [image.annotation for image in images]}
        write_atomically(folder / f"{FOLDER}.json", json.dumps(content).encode("utf-8"))
        logger.info(f"panoptic predictions of {len(images)} images are in {folder / FOLDER}")

    def _summarise(self, counts: Mapping[int, Counts]) -> dict[str, float]:
        """Flat percentages, logged as a table."""
        categories = self._dataset["categories"]
        classes = {c["name"]: class_quality(counts.get(c["id"], Counts())) for c in categories}
        groups = {"": categories, "_th": [], "_st": []}
        for category in categories:
            groups["_th" if category["isthing"] else "_st"].append(category)
        means = {
            suffix: mean_quality([classes[category["name"]] for category in group])
            for suffix, group in groups.items()
        }
        _log(means, classes)
        results: dict[str, float] = {}
        for suffix, quality in means.items():
            results.update(_percentages(quality, suffix))
        for name, quality in classes.items():
            results.update(_percentages(quality, f"-{name}"))
        return results


def _segments(annotation: Mapping[str, Any]) -> list[Segment]:
    """The segments of an entry of the ground truth."""
    return [
        Segment(info["id"], info["category_id"], bool(info.get("iscrowd", 0)))
        for info in annotation["segments_info"]
    ]


def _png(ids: np.ndarray) -> bytes:
    """Ids as the bytes of a PNG."""
    with io.BytesIO() as file:
        Image.fromarray(ids_to_colours(ids)).save(file, format="PNG")
        return file.getvalue()


def _percentages(quality: Quality, suffix: str) -> dict[str, float]:
    return {
        f"PQ{suffix}": 100 * quality.pq,
        f"SQ{suffix}": 100 * quality.sq,
        f"RQ{suffix}": 100 * quality.rq,
    }


def _log(means: Mapping[str, Quality], classes: Mapping[str, Quality]) -> None:
    """One row a group and one a class that occurs."""
    titles = {"": "all", "_th": "things", "_st": "stuff"}
    rows = [[titles[k], *_percentages(q, "").values(), q.classes] for k, q in means.items()]
    rows += [[n, *_percentages(q, "").values(), ""] for n, q in classes.items() if q.classes]
    headers = ["", "PQ", "SQ", "RQ", "classes"]
    table = tabulate(rows, headers=headers, tablefmt="pipe", floatfmt=".3f")
    logger.info(f"panoptic quality in %:\n{table}")
