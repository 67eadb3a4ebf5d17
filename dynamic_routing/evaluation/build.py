"""Which evaluators a data set gets."""

from __future__ import annotations

from pathlib import Path

from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators

from dynamic_routing.evaluation.classification import build_classification_evaluators
from dynamic_routing.evaluation.routing_evaluator import Cost, RoutingEvaluator
from dynamic_routing.evaluation.sem_seg import build_sem_seg_evaluators


def build_evaluator(
    dataset_name: str, output_dir: str | Path, *, routed: bool, cost: Cost | None = None
) -> DatasetEvaluator:
    """The data set's own evaluators plus, for routed models, the :class:`RoutingEvaluator`.

    Args:
        dataset_name: a registered data set.
        output_dir: folder for predictions and gates.
        routed: whether the model's outputs carry routes.
        cost: what a route costs, for the routing evaluator.

    Raises:
        ValueError: a data set whose ``evaluator_type`` has no evaluator here.
    """
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
    builders = {
        "sem_seg": build_sem_seg_evaluators,
        "cityscapes_sem_seg": build_sem_seg_evaluators,
        "classification": build_classification_evaluators,
    }
    if kind not in builders:
        raise ValueError(f"data set {dataset_name}: no evaluator for evaluator_type {kind!r}")
    evaluators: list[DatasetEvaluator] = list(builders[kind](dataset_name, str(output_dir)))
    if routed:
        evaluators.append(RoutingEvaluator(dataset_name, output_dir, cost=cost))
    return DatasetEvaluators(evaluators)
