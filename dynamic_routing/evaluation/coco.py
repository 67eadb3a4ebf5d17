"""COCO's AP of boxes, masks and keypoints, behind a look at what could make it 0."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator
from detectron2.utils import comm

from dynamic_routing.evaluation.class_table import report
from dynamic_routing.evaluation.detection_scores import (
    Hits,
    box_confusion,
    hits_by_image,
    hits_without_detections,
)
from dynamic_routing.evaluation.image_scores import NOTHING, ImageScores

FIELD_OF_TASK = {"bbox": "pred_boxes", "segm": "pred_masks", "keypoints": "pred_keypoints"}
"""COCO's name of a task -> the field of ``Instances`` that it scores."""

METRIC_OF_TASK = {"bbox": "box_f1", "segm": "mask_f1"}
"""COCO's name of a task -> the score that is kept of each image."""


def build_coco_evaluators(
    dataset_name: str,
    output_dir: str | Path | None,
    *,
    keypoint_sigmas: Sequence[float] = (),
) -> list[DatasetEvaluator]:
    """The evaluator of a data set with boxes, masks or keypoints in COCO's format.

    Args:
        dataset_name: a registered data set, with a ``json_file`` in its metadata.
        output_dir: where ``coco_instances_results.json`` and ``class_table.json`` go; None keeps
            none.
        keypoint_sigmas: OKS sigmas, one a keypoint; empty takes COCO's (17 points of a person).
    """
    return [
        ExplainedCOCOEvaluator(
            dataset_name,
            output_dir=None if output_dir is None else str(output_dir),
            use_fast_impl=False,  # needs Detectron2's C++ extension; the same AP
            kpt_oks_sigmas=tuple(keypoint_sigmas),
        )
    ]


class ExplainedCOCOEvaluator(COCOEvaluator):
    """Detectron2's evaluator, which first logs the class table and what makes AP 0.

    AP is pycocotools' own. Predictions for images or classes that the annotation file does not have
    are named in a warning and left out; there, pycocotools and Detectron2 would stop with an
    assertion. What the model delivers is scored (:data:`FIELD_OF_TASK`), also where it found
    nothing: AP is then NaN, as Detectron2 has it. The F1 of each image
    (:mod:`~dynamic_routing.evaluation.detection_scores`) comes from the same matches as AP.

    Args: see :class:`detectron2.evaluation.COCOEvaluator`.
    """

    _tasks: Sequence[str] | None
    image_scores: ImageScores | None = None

    def __init__(self, dataset_name: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(dataset_name, *args, **kwargs)
        self._dataset_name = dataset_name
        self._delivered: set[str] = set()
        self._file_names: dict[Hashable, str] = {}
        self._hits: dict[str, dict[Hashable, Hits]] = {}

    def reset(self) -> None:
        """Forget all images."""
        super().reset()
        self._file_names, self._hits, self.image_scores = {}, {}, None

    def evaluate(self, img_ids: Sequence[int] | None = None) -> Any:
        """As Detectron2; then ``image_scores`` are there, in the main process."""
        parts = comm.gather(self._file_names) if self._distributed else [self._file_names]
        self._file_names = {image: name for part in parts for image, name in part.items()}
        return super().evaluate(img_ids)

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Keep the predictions of a batch.

        Args:
            inputs: each with ``image_id`` and maybe ``file_name``.
            outputs: each with ``instances``, of the size of the original image.
        """
        super().process(inputs, outputs)
        for one_input in inputs:
            if "file_name" in one_input:
                self._file_names[one_input["image_id"]] = str(one_input["file_name"])
        for instances in (output["instances"] for output in outputs if "instances" in output):
            self._delivered |= {t for t, field in FIELD_OF_TASK.items() if instances.has(field)}

    def _eval_predictions(
        self, predictions: list[dict[str, Any]], img_ids: Sequence[int] | None = None
    ) -> None:
        """Detectron2's step from predictions to AP, with the report before it."""
        if self._do_evaluation:
            self._report(predictions)
            predictions = [{**p, "instances": self._known(p["instances"])} for p in predictions]
        wanted = self._tasks
        self._tasks = wanted or sorted(self._delivered)
        try:
            super()._eval_predictions(predictions, img_ids=img_ids)
        finally:
            self._tasks = wanted
        if self._hits:
            self.image_scores = self._scores(predictions)

    def _derive_coco_results(self, coco_eval: Any, iou_type: str, **names: Any) -> dict[str, float]:
        """Detectron2's percentages; the matches of each image are kept."""
        if iou_type in METRIC_OF_TASK:
            found = coco_eval is not None
            self._hits[iou_type] = (
                hits_by_image(coco_eval) if found else hits_without_detections(self._coco_api)
            )
        return super()._derive_coco_results(coco_eval, iou_type, **names)

    def _scores(self, predictions: Sequence[dict[str, Any]]) -> ImageScores | None:
        """F1 of the images that were processed, and which class was taken for which."""
        known = self._coco_api.imgs
        images = {name: i for i, name in self._file_names.items() if i in known}
        if not images:
            return None
        categories = sorted(self._coco_api.cats)
        results = [result for prediction in predictions for result in prediction["instances"]]
        return ImageScores(
            file_names=tuple(images),
            metrics={
                METRIC_OF_TASK[task]: np.array([hits[image].f1 for image in images.values()])
                for task, hits in self._hits.items()
            },
            classes=(*(str(self._coco_api.cats[c]["name"]) for c in categories), NOTHING),
            confusion=box_confusion(self._coco_api, results),
        )

    def _report(self, predictions: list[dict[str, Any]]) -> None:
        """Log and write the class table."""
        results = [
            {**result, "category_id": self._category_id(result["category_id"])}
            for prediction in predictions
            for result in prediction["instances"]
        ]
        report(
            self._coco_api.dataset,
            results,
            dataset_name=self._dataset_name,
            output_dir=self._output_dir,
        )

    def _known(self, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Those of an image's results that the annotation file has an image and a class for."""
        images, categories = self._coco_api.imgs, self._coco_api.cats
        return [
            result
            for result in results
            if result["image_id"] in images
            and self._category_id(result["category_id"]) in categories
        ]

    def _category_id(self, index: int) -> Hashable:
        """The annotation file's id of the model's class; a text if it has none."""
        if self._id_of_class is None:
            return index
        return self._id_of_class.get(index, f"class index {index}")

    @cached_property
    def _id_of_class(self) -> dict[int, int] | None:
        """Class index -> category id, known once the data set was loaded; None: they are equal."""
        to_index = self._metadata.get("thing_dataset_id_to_contiguous_id")
        return None if to_index is None else {i: category for category, i in to_index.items()}
