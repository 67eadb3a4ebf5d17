"""Top-1 and top-5 accuracy."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

TOP = (1, 5)


class ClassificationEvaluator(DatasetEvaluator):
    """Share of images whose class is among the k highest scores, in per cent.

    With fewer than k classes top-k is 100. Each image counts once, also where the last batch of a
    distributed sampler repeats some.

    Args:
        top: values of k.
    """

    def __init__(self, *, top: Sequence[int] = TOP) -> None:
        self._top = tuple(top)
        self._ranks: dict[str, int] = {}

    def reset(self) -> None:
        """Forget everything."""
        self._ranks = {}

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Keep the rank of each image's class: how many classes score higher."""
        for given, output in zip(inputs, outputs, strict=True):
            scores = output["scores"]
            own = scores[given["class_id"]]
            # ">=" less the class itself: equal or undefined scores are no success
            rank = int((~(scores < own)).sum()) - 1
            self._ranks[str(given["file_name"])] = rank

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """``{"classification": {"top1", "top5", "images"}}`` in the main process.

        Raises:
            ValueError: no image was processed.
        """
        gathered = comm.gather(self._ranks)
        if not comm.is_main_process():
            return None
        ranks = dict(itertools.chain.from_iterable(part.items() for part in gathered))
        if not ranks:
            raise ValueError("no image was evaluated: the classification data set is empty")
        result = {
            f"top{k}": 100.0 * sum(rank < k for rank in ranks.values()) / len(ranks)
            for k in self._top
        }
        return {"classification": {**result, "images": float(len(ranks))}}


def build_classification_evaluators(
    dataset_name: str, output_dir: str | Path
) -> list[DatasetEvaluator]:
    """The evaluator of a classification data set; it writes no file."""
    return [ClassificationEvaluator()]
