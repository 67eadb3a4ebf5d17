"""Instance AP by the official Cityscapes script, on today's numpy and class by class.

The script's AP is not COCO's: masks only, objects of at least 100 pixels, IoU thresholds 0.50 to
0.95, step-wise integration, and a class without ground truth counts in no mean.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from detectron2.evaluation import CityscapesInstanceEvaluator, DatasetEvaluator
from detectron2.utils import comm

from dynamic_routing.compat import CITYSCAPES_EVALUATION_MODULES, cityscapes_numpy_proxy
from dynamic_routing.evaluation.cityscapes_script import ground_truths, script_arguments
from dynamic_routing.evaluation.class_table import report

KEY = "segm"
"""Detectron2's key, so that TEST.BEST_METRIC is segm/AP on COCO and on Cityscapes."""

CROWDS_BELOW = 1000
"""Ids in ``*_instanceIds.png`` below this are groups or stuff, not single objects."""

logger = logging.getLogger(__name__)


def build_cityscapes_instance_evaluators(
    dataset_name: str, output_dir: str | Path | None
) -> list[DatasetEvaluator]:
    """The official script.

    Args:
        dataset_name: a registered data set like ``cityscapes_fine_instance_seg_val``.
        output_dir: where ``class_table.json`` goes; None keeps none.
    """
    return [OfficialCityscapesInstanceEvaluator(dataset_name, output_dir)]


class OfficialCityscapesInstanceEvaluator(CityscapesInstanceEvaluator):
    """The official script behind the class table.

    It scores every ground truth of the split (``<gt_dir>/<city>/*_gtFine_instanceIds.png``), so
    every image of the split must have been processed. Nothing is written beside the table.

    Args:
        dataset_name: a registered data set with ``gt_dir`` and ``thing_classes``.
        output_dir: where ``class_table.json`` goes; None keeps none.
    """

    def __init__(self, dataset_name: str, output_dir: str | Path | None = None) -> None:
        super().__init__(dataset_name)
        self._dataset_name = dataset_name
        self._output_dir = output_dir

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Write the masks of a batch for the script.

        Args:
            inputs: each with ``file_name``.
            outputs: each with ``instances``, of the size of the original image, with masks.

        Raises:
            ValueError: instances without masks.
        """
        for output in outputs:
            if "instances" in output and not output["instances"].has("pred_masks"):
                raise ValueError(
                    f"data set {self._dataset_name} scores masks, but the model delivers boxes "
                    "only: set MODEL.MASK_ON True"
                )
        super().process(inputs, outputs)

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Score the predictions of all processes.

        Returns:
            ``{"segm": percentages}`` in the main process, None in the others: AP, AP50 and, for
            each class, AP-<class> and AP50-<class>, NaN without ground truth of at least 100
            pixels.

        Raises:
            ValueError: no ground truth, or what made the script give up, such as a ground truth
                without a prediction.
        """
        comm.synchronize()
        if comm.get_rank() > 0:
            return None
        with self._working_dir, cityscapes_numpy_proxy():  # removes the predictions in any case
            scores = self._score(import_module(CITYSCAPES_EVALUATION_MODULES[1]))
        return {KEY: instance_percentages(scores["averages"])}

    def _score(self, script: ModuleType) -> dict[str, Any]:
        """The script's result dictionary, after the class table."""
        truths = ground_truths(self._metadata.gt_dir, "instanceIds.png")
        logger.info(f"official Cityscapes instance script: {len(truths)} images")
        cache = Path(self._temp_dir, "gtInstances.json")  # read by the script instead of the PNGs
        with (
            script_arguments(script, self._temp_dir, {"gtInstancesFile": str(cache)}),
            warnings.catch_warnings(),
        ):
            predictions = [script.getPrediction(truth, script.args) for truth in truths]
            instances = script.instances2dict(truths)
            cache.write_text(json.dumps(instances))
            self._report(script, predictions, instances)
            # "Mean of empty slice" where no class has an object
            warnings.simplefilter("ignore", RuntimeWarning)
            return script.evaluateImgLists(predictions, truths, script.args)

    def _report(
        self,
        script: ModuleType,
        predictions: Sequence[str],
        instances: Mapping[str, Mapping[str, list[dict[str, Any]]]],
    ) -> None:
        """The class table from the script's own reading of ground truth and predictions."""
        labels = import_module("cityscapesscripts.helpers.labels").name2label
        smallest = int(script.args.minRegionSizes[0])  # smaller objects are not scored either
        names = [n for n in self._metadata.thing_classes if not labels[n].ignoreInEval]
        dataset = {
            "images": [{"id": image} for image in instances],
            "categories": [{"id": labels[name].id, "name": name} for name in names],
            "annotations": [
                {
                    "image_id": image,
                    "category_id": labels[name].id,
                    "iscrowd": found["instID"] < CROWDS_BELOW or found["pixelCount"] < smallest,
                }
                for image, by_name in instances.items()
                for name in names
                for found in by_name[name]
            ],
        }
        results = [
            {"image_id": image, "category_id": found["labelID"], "score": found["conf"]}
            for image, prediction in zip(instances, predictions, strict=True)
            for found in script.readPredInfo(prediction, script.args).values()
        ]
        report(dataset, results, dataset_name=self._dataset_name, output_dir=self._output_dir)


def instance_percentages(averages: Mapping[str, Any]) -> dict[str, float]:
    """The script's averages as flat percentages."""
    percentages = {
        "AP": 100.0 * float(averages["allAp"]),
        "AP50": 100.0 * float(averages["allAp50%"]),
    }
    for name, scores in averages["classes"].items():
        percentages[f"AP-{name}"] = 100.0 * float(scores["ap"])
        percentages[f"AP50-{name}"] = 100.0 * float(scores["ap50%"])
    return percentages
