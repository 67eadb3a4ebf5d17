"""mIoU, by Detectron2 and by the official Cityscapes script.

Both divide the same pixels, but average over different classes: Detectron2 over the classes that
occur in the ground truth, the official script also over classes that were only predicted (with
IoU 0). On Cityscapes' own splits every class occurs and the two agree; on a small data set they
need not. The official script's result therefore holds both averages: ``IoU`` as published and
``IoU_in_truth``, which equals Detectron2's ``sem_seg/mIoU`` always.
"""

from __future__ import annotations

import logging
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import (
    CityscapesSemSegEvaluator,
    DatasetEvaluator,
    SemSegEvaluator,
)
from detectron2.utils import comm

from dynamic_routing.compat import (
    CITYSCAPES_EVALUATION_MODULES,
    cityscapes_numpy_proxy,
    load_label_image,
)
from dynamic_routing.evaluation.cityscapes_script import (
    ground_truths,
    is_ignored,
    script_arguments,
)
from dynamic_routing.evaluation.image_scores import ImageScores

OFFICIAL_KEY = "cityscapes_sem_seg"
"""Where the official script's numbers go; "sem_seg" is Detectron2's."""


def build_sem_seg_evaluators(
    dataset_name: str, output_dir: str | Path | None
) -> list[DatasetEvaluator]:
    """Evaluators of semantic segmentation: Detectron2's and, for Cityscapes, the official one.

    Args:
        dataset_name: a registered data set whose ``sem_seg_file_name`` images hold contiguous
            training ids (Cityscapes: ``*_labelTrainIds.png``).
        output_dir: where Detectron2's evaluator keeps predictions; None keeps none.

    Returns:
        Evaluators whose results have different keys, for ``DatasetEvaluators``.
    """
    folder = None if output_dir is None else str(output_dir)
    evaluators: list[DatasetEvaluator] = [
        ScoredSemSegEvaluator(dataset_name, output_dir=folder, sem_seg_loading_fn=load_label_image)
    ]
    if MetadataCatalog.get(dataset_name).get("evaluator_type") == "cityscapes_sem_seg":
        evaluators.append(OfficialCityscapesEvaluator(dataset_name))
    return evaluators


class ScoredSemSegEvaluator(SemSegEvaluator):
    """Detectron2's evaluator, which also keeps each image's scores.

    They come from the same counts as mIoU: what an image adds to the confusion matrix.

    Args: see :class:`detectron2.evaluation.SemSegEvaluator`.
    """

    image_scores: ImageScores | None = None

    def reset(self) -> None:
        """Forget all images."""
        super().reset()
        self._by_image: dict[str, dict[str, float]] = {}
        self.image_scores = None

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Count the pixels of a batch.

        Args:
            inputs: each with ``file_name``.
            outputs: each with ``sem_seg``, (K, H, W) scores of the size of the truth.
        """
        for one_input, output in zip(inputs, outputs, strict=True):
            before = self._conf_matrix.copy()
            super().process([one_input], [output])
            added = (self._conf_matrix - before)[:-1, :-1].T
            self._by_image[str(one_input["file_name"])] = pixel_scores(added)

    def evaluate(self) -> Any:
        """As Detectron2; then ``image_scores`` are there, in the main process."""
        parts = comm.gather(self._by_image) if self._distributed else [self._by_image]
        results = super().evaluate()
        if results is not None and any(parts):
            found = {name: scores for part in parts for name, scores in part.items()}
            self.image_scores = ImageScores(
                file_names=tuple(found),
                metrics={
                    metric: np.array([scores[metric] for scores in found.values()])
                    for metric in ("iou", "pixel_accuracy")
                },
                classes=tuple(self._class_names),
                confusion=self._conf_matrix[:-1, :-1].T.copy(),
            )
        return results


def pixel_scores(confusion: np.ndarray) -> dict[str, float]:
    """``iou`` and ``pixel_accuracy`` of one image.

    Args:
        confusion: (K, K) pixels, row truth, column prediction.

    Returns:
        Numbers in [0, 1], NaN for an image without a pixel of truth.
    """
    right = confusion.diagonal()
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - right
    present, pixels = union > 0, confusion.sum()
    if not pixels:
        return {"iou": float("nan"), "pixel_accuracy": float("nan")}
    return {
        "iou": float((right[present] / union[present]).mean()),
        "pixel_accuracy": float(right.sum() / pixels),
    }


class OfficialCityscapesEvaluator(CityscapesSemSegEvaluator):
    """The official script on today's numpy, with the IoU of every class and its own key.

    It scores every ground truth of the split (``<gt_dir>/<city>/*_gtFine_labelIds.png``), so every
    image of the split must have been processed.
    """

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Score the predictions of all processes.

        Returns:
            ``{"cityscapes_sem_seg": percentages}`` in the main process, None in the others:
            IoU (the published mIoU), IoU_in_truth (over classes that occur in the ground truth),
            iIoU, IoU_sup, iIoU_sup, and IoU-<class>, nan for a class that never occurs.

        Raises:
            ValueError: no ground truth, or what made the script give up, such as a ground truth
                without a prediction.
        """
        comm.synchronize()
        if comm.get_rank() > 0:
            return None
        truths = ground_truths(self._metadata.gt_dir, "labelIds.png")
        logging.getLogger(__name__).info(f"official Cityscapes script: {len(truths)} images")
        script = import_module(CITYSCAPES_EVALUATION_MODULES[0])
        with (
            self._working_dir,  # removes the predictions, also after an error
            cityscapes_numpy_proxy(),
            script_arguments(script, self._temp_dir),
        ):
            predictions = [script.getPrediction(script.args, truth) for truth in truths]
            scores = script.evaluateImgLists(predictions, truths, script.args)
        return {OFFICIAL_KEY: official_percentages(scores)}


def official_percentages(scores: dict[str, Any]) -> dict[str, float]:
    """The official script's result dictionary as flat percentages."""
    averages = {
        "IoU": "averageScoreClasses",
        "iIoU": "averageScoreInstClasses",
        "IoU_sup": "averageScoreCategories",
        "iIoU_sup": "averageScoreInstCategories",
    }
    percentages = {name: 100.0 * float(scores[key]) for name, key in averages.items()}
    truth_pixels = np.array(scores["confMatrix"], dtype=np.int64).sum(axis=1)
    label_ids = scores["labels"]
    scored = [name for name in scores["classScores"] if not is_ignored(name)]
    classes = {name: 100.0 * float(scores["classScores"][name]) for name in scored}
    in_truth = [classes[name] for name in scored if truth_pixels[label_ids[name]] > 0]
    percentages["IoU_in_truth"] = float(np.mean(in_truth)) if in_truth else float("nan")
    return percentages | {f"IoU-{name}": iou for name, iou in classes.items()}
