"""Hooks of the training loop that Detectron2 does not have."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable
from typing import Any

from detectron2.engine import HookBase, hooks
from torch import nn

from dynamic_routing.engine.checkpoint import CheckpointError, RoutingCheckpointer
from dynamic_routing.engine.randomness import PRECISE_BN, mixed_seed
from dynamic_routing.engine.run_files import BEST, EVALUATED
from dynamic_routing.engine.train_loader import TrainLoader
from dynamic_routing.routing import RoutingNetwork
from dynamic_routing.routing.budget import BudgetLoss

logger = logging.getLogger(__name__)


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


class Evaluation(hooks.EvalHook):
    """Detectron2's EvalHook, which also makes up for an evaluation that a killed run owed.

    A checkpoint is written before the evaluation of its iteration. A run killed in between would
    else never evaluate it, and perhaps miss its best checkpoint.

    Args:
        period: iterations between evaluations; 0: at the end only.
        function: evaluates.
        evaluated: whether the evaluation after so many iterations is complete; the same in all
            processes.
    """

    def __init__(
        self,
        period: int,
        function: Callable[[], Any],
        *,
        evaluated: Callable[[int], bool],
    ) -> None:
        super().__init__(period, function)
        self._evaluated = evaluated

    def before_train(self) -> None:
        """Evaluate what was loaded, if its evaluation is due and not complete."""
        done = self.trainer.start_iter
        due = self._period > 0 and done > 0 and done % self._period == 0
        if not due or done >= self.trainer.max_iter or self._evaluated(done):
            return
        logger.info("the evaluation after %d iterations was not complete: once more", done)
        self.trainer.iter = self.trainer.storage.iter = done - 1
        self._do_eval()

    def _do_eval(self) -> None:
        """Evaluate, and say so in the metrics."""
        start = time.perf_counter()
        super()._do_eval()
        seconds = time.perf_counter() - start
        self.trainer.storage.put_scalar(EVALUATED, seconds, smoothing_hint=False)


class RepeatablePreciseBN(hooks.PreciseBN):
    """Detectron2's PreciseBN, whose images depend on seed and iteration only.

    Detectron2's goes on in its stream of images, whose place a resumed run does not know.

    Args:
        period: iterations between two updates; 0: at the end only.
        model: whose statistics are recomputed.
        data_loader: of its own; a TrainLoader is seeded here at each update.
        num_iter: batches of an update.
        seed: gives the run's seed.
    """

    def __init__(
        self,
        period: int,
        model: nn.Module,
        data_loader: Iterable[Any],
        num_iter: int,
        *,
        seed: Callable[[], int],
    ) -> None:
        super().__init__(period, model, data_loader, num_iter)
        self._seed = seed

    def update_stats(self) -> None:
        """Update from a stream of this iteration's own."""
        if isinstance(self._data_loader, TrainLoader):
            self._data_loader.seed = mixed_seed(self._seed(), PRECISE_BN, self.trainer.iter)
        self._data_iter = None
        super().update_stats()


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

    def before_train(self) -> None:
        """Look at the metric of an evaluation that was made up for."""
        if self._metric in self.trainer.storage.latest():
            self._update()

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
        try:
            stored = self._checkpointer.stored_metric(BEST)
        except CheckpointError as error:
            logger.warning("%s; the next better evaluation replaces it", error)
            stored = -math.inf
        self._best = max(state_dict["best"], stored)
