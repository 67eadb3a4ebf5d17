"""Evaluators that also say how good each image was."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators
from detectron2.utils import comm

from dynamic_routing.evaluation.image_scores import ImageScores, save_scores


@runtime_checkable
class ScoresImages(Protocol):
    """An evaluator that keeps scores.

    Attributes:
        image_scores: of the images of all processes, once ``evaluate`` has run in the main
            process; None where nothing could be scored.
    """

    image_scores: ImageScores | None


class ScoredEvaluators(DatasetEvaluators):
    """Several evaluators of one data set, whose image scores go into one file.

    Args:
        evaluators: those that follow :class:`ScoresImages` are asked.
        path: the file; removed if nothing was scored, so that no older scores stand beside newer
            gates. None writes none.
    """

    def __init__(self, evaluators: Sequence[DatasetEvaluator], path: Path | None) -> None:
        super().__init__(list(evaluators))
        self._path = path

    def evaluate(self) -> Any:
        """What the evaluators say together; writes the scores in the main process."""
        results = super().evaluate()
        if self._path is not None and comm.is_main_process():
            self._write(self._path)
        return results

    def _write(self, path: Path) -> None:
        """The scores of all evaluators that have some."""
        found = [e.image_scores for e in self._evaluators if isinstance(e, ScoresImages)]
        scores = [one for one in found if one is not None]
        if scores:
            save_scores(path, reduce(ImageScores.joined, scores))
        else:
            path.unlink(missing_ok=True)
