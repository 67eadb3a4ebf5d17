"""What happens around a step, and in which order."""

from __future__ import annotations

import weakref
from pathlib import Path

from detectron2.engine import DefaultTrainer, HookBase, hooks
from detectron2.utils import comm
from fvcore.nn.precise_bn import get_bn_modules
from torch import nn

from dynamic_routing.engine.budget_hook import build_budget_hook
from dynamic_routing.engine.ema import AverageWeights, WeightAverage
from dynamic_routing.engine.hooks import (
    BestCheckpoint,
    Evaluation,
    RepeatablePreciseBN,
    TrainingProgress,
)
from dynamic_routing.engine.kmeans_hook import build_kmeans_hook
from dynamic_routing.engine.parallel import SharedStatistics
from dynamic_routing.engine.randomness import StepSeeds
from dynamic_routing.engine.route_pictures_hook import build_route_pictures
from dynamic_routing.engine.run_files import METRICS, MetricsWriters, is_evaluated


def build_hooks(
    trainer: DefaultTrainer,
    model: nn.Module,
    *,
    seeds: StepSeeds,
    average: WeightAverage | None = None,
) -> list[HookBase]:
    """The hooks of a trainer, in Detectron2's order.

    Seeds first; statistics before the checkpoint that holds them; the evaluation behind it, so that
    a failing one loses nothing; the writers last.

    Args:
        trainer: with everything but its hooks.
        model: its meta-architecture, without DistributedDataParallel around it.
        seeds: of its steps.
        average: of its weights.
    """
    cfg = trainer.cfg
    found: list[HookBase | None] = [
        seeds,
        TrainingProgress(trainer.model),
        build_kmeans_hook(cfg, model),
        build_budget_hook(cfg, model),
        None if average is None else AverageWeights(average),
        hooks.IterationTimer(),
        hooks.LRScheduler(),
        _precise_bn(trainer, seeds),
        SharedStatistics(model, period=cfg.SOLVER.CHECKPOINT_PERIOD),
    ]
    if comm.is_main_process():
        # 0: at the end only, by a period that does not come.
        period = cfg.SOLVER.CHECKPOINT_PERIOD or cfg.SOLVER.MAX_ITER + 1
        found.append(hooks.PeriodicCheckpointer(trainer.checkpointer, period))
    found += _evaluation(trainer, model)
    return [hook for hook in found if hook is not None]


def _evaluation(trainer: DefaultTrainer, model: nn.Module) -> list[HookBase | None]:
    """Evaluation, best checkpoint, pictures, writers; hooks and trainer must not own each other."""
    cfg, proxy = trainer.cfg, weakref.proxy(trainer)
    period, metrics = cfg.TEST.EVAL_PERIOD, Path(cfg.OUTPUT_DIR) / METRICS
    found: list[HookBase | None] = [
        Evaluation(
            period,
            lambda: proxy.evaluate(),
            evaluated=lambda done: is_evaluated(metrics, done),
        )
    ]
    if not comm.is_main_process():
        return found
    best = cfg.TEST.BEST_METRIC
    if best and cfg.DATASETS.TEST:
        found.append(BestCheckpoint(trainer.checkpointer, metric=best, period=period))
    found.append(build_route_pictures(cfg, model))
    build = lambda: proxy.build_writers()  # noqa: E731
    found.append(MetricsWriters(build, path=metrics, eval_period=period, config=cfg))
    return found


def _precise_bn(trainer: DefaultTrainer, seeds: StepSeeds) -> HookBase | None:
    """The hook of TEST.PRECISE_BN, with a loader of its own."""
    node = trainer.cfg.TEST.PRECISE_BN
    if not node.ENABLED or not get_bn_modules(trainer.model):
        return None
    cfg = trainer.cfg.clone()
    cfg.defrost()
    cfg.DATALOADER.NUM_WORKERS = 0
    return RepeatablePreciseBN(
        cfg.TEST.EVAL_PERIOD,
        trainer.model,
        trainer.build_train_loader(cfg),
        node.NUM_ITER,
        seed=lambda: seeds.seed,
    )
