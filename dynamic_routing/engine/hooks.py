"""Hooks of the training loop that Detectron2 does not have."""

from __future__ import annotations

import logging
import math
from typing import Any

from detectron2.engine import HookBase
from torch import nn

from dynamic_routing.engine.checkpoint import RoutingCheckpointer
from dynamic_routing.routing import RoutingNetwork
from dynamic_routing.routing.budget import BudgetLoss

logger = logging.getLogger(__name__)


BEST = "model_best"
"""Name of the checkpoint with the best metric."""


class TrainingProgress(HookBase):
    """Tells drop path and budget loss how far the training is.

    Args:
        model: the model that contains them.
    """

    def __init__(self, model: nn.Module) -> None:
        self._listeners = [m for m in model.modules() if isinstance(m, RoutingNetwork | BudgetLoss)]

    def before_step(self) -> None:
        """step_rate = iteration / max iterations."""
        fraction = self.trainer.iter / max(self.trainer.max_iter, 1)
        for listener in self._listeners:
            listener.set_progress(min(fraction, 1.0))


class BestCheckpoint(HookBase):
    """Keeps ``model_best.pth``: the weights with the highest value of a metric so far.

    Unlike Detectron2's BestCheckpointer it remembers the best value over a resume and never makes
    the best checkpoint the one to resume from.

    Args:
        checkpointer: writes the file.
        metric: group/name as in ``metrics.json``, for example ``sem_seg/mIoU``.
        period: evaluation period in iterations; 0 evaluates at the end only.
    """

    def __init__(self, checkpointer: RoutingCheckpointer, *, metric: str, period: int) -> None:
        self._checkpointer = checkpointer
        self._metric = metric
        self._period = period
        self._best = -math.inf

    def after_step(self) -> None:
        """Look at the metric where an evaluation has just run."""
        done = self.trainer.iter + 1
        if self._period > 0 and done % self._period == 0 and done < self.trainer.max_iter:
            self._update()

    def after_train(self) -> None:
        """Look at the metric of the last evaluation."""
        if self.trainer.iter + 1 >= self.trainer.max_iter:
            self._update()

    def _update(self) -> None:
        latest = self.trainer.storage.latest().get(self._metric)
        if latest is None:
            logger.warning("no metric %s was computed: no best checkpoint kept", self._metric)
            return
        value, iteration = latest
        if math.isfinite(value) and value > self._best:
            self._best = float(value)
            self._checkpointer.save(BEST, tag=False, metric=self._best, iteration=int(iteration))

    def state_dict(self) -> dict[str, Any]:
        """The best value so far."""
        return {"best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`.

        That state was saved before the evaluation of its own iteration, so the best file itself
        may know a better value.
        """
        self._best = max(state_dict["best"], self._checkpointer.stored_metric(BEST))
