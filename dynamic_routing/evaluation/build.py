"""Which evaluators a data set gets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator

from dynamic_routing.evaluation.cityscapes_instances import build_cityscapes_instance_evaluators
from dynamic_routing.evaluation.classification import build_classification_evaluators
from dynamic_routing.evaluation.coco import build_coco_evaluators
from dynamic_routing.evaluation.image_scores import scores_path
from dynamic_routing.evaluation.panoptic import build_panoptic_evaluators
from dynamic_routing.evaluation.routing_evaluator import Cost, RoutingEvaluator
from dynamic_routing.evaluation.scored_evaluators import ScoredEvaluators
from dynamic_routing.evaluation.sem_seg import build_sem_seg_evaluators

Builder = Callable[[str, str | Path], list[DatasetEvaluator]]

BUILDERS: Mapping[str, Builder] = {
    "sem_seg": build_sem_seg_evaluators,
    "cityscapes_sem_seg": build_sem_seg_evaluators,
    "coco": build_coco_evaluators,
    "coco_panoptic_seg": build_panoptic_evaluators,
    "cityscapes_instance": build_cityscapes_instance_evaluators,
    "classification": build_classification_evaluators,
}
"""``evaluator_type`` of a data set's metadata -> from its name and a folder to its evaluators."""


def build_evaluator(
    dataset_name: str,
    output_dir: str | Path,
    *,
    routed: bool,
    cost: Cost | None = None,
    centres: np.ndarray | None = None,
    keypoint_sigmas: Sequence[float] = (),
) -> DatasetEvaluator:
    """The data set's own evaluators plus, for routed models, the :class:`RoutingEvaluator`.

    How good each image was goes into a file beside the gates
    (:mod:`~dynamic_routing.evaluation.image_scores`).

    Args:
        dataset_name: a registered data set.
        output_dir: folder for predictions, gates and scores.
        routed: whether the model's outputs carry routes.
        cost: what a route costs, for the routing evaluator.
        centres: (K, A) of the model's clusters, for the routing evaluator.
        keypoint_sigmas: OKS sigmas of "coco" data sets with keypoints, empty for COCO's own.

    Raises:
        ValueError: a data set whose ``evaluator_type`` has no evaluator here.
    """
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
    coco: Builder = partial(build_coco_evaluators, keypoint_sigmas=keypoint_sigmas)
    builders = {**BUILDERS, "coco": coco}
    if kind not in builders:
        raise ValueError(
            f"data set {dataset_name}: no evaluator for evaluator_type {kind!r}; there are some "
            f"for {', '.join(builders)}"
        )
    evaluators = list(builders[kind](dataset_name, output_dir))
    if routed:
        evaluators.append(RoutingEvaluator(dataset_name, output_dir, cost=cost, centres=centres))
    return ScoredEvaluators(evaluators, scores_path(output_dir, dataset_name))
