"""Which evaluators a data set gets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators

from dynamic_routing.evaluation.routing_evaluator import Cost, RoutingEvaluator
from dynamic_routing.evaluation.sem_seg import build_sem_seg_evaluators


def build_evaluator(
    dataset_name: str,
    output_dir: str | Path,
    *,
    routed: bool,
    cost: Cost | None = None,
    centres: np.ndarray | None = None,
) -> DatasetEvaluator:
    """The data set's own evaluators plus, for routed models, the :class:`RoutingEvaluator`.

    Args:
        dataset_name: a registered data set.
        output_dir: folder for predictions and gates.
        routed: whether the model's outputs carry routes.
        cost: what a route costs, for the routing evaluator.
        centres: (K, A) of the model's clusters, for the routing evaluator.

    Raises:
        ValueError: a data set whose ``evaluator_type`` has no evaluator here.
    """
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if kind not in ("sem_seg", "cityscapes_sem_seg"):
        raise ValueError(f"data set {dataset_name}: no evaluator for evaluator_type {kind!r}")
    evaluators: list[DatasetEvaluator] = list(
        build_sem_seg_evaluators(dataset_name, str(output_dir))
    )
    if routed:
        evaluators.append(RoutingEvaluator(dataset_name, output_dir, cost=cost, centres=centres))
    return DatasetEvaluators(evaluators)
