"""The trainer: Detectron2's DefaultTrainer with the papers' recipe, on GPU and CPU."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase, create_ddp_model
from detectron2.engine.train_loop import TrainerBase
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from torch import nn

from dynamic_routing.compat import bound_history, unsynchronised_buffers
from dynamic_routing.engine.bad_numbers import BadNumbersGuard
from dynamic_routing.engine.checkpoint import CheckpointError, RoutingCheckpointer
from dynamic_routing.engine.ema import KEY as EMA_KEY
from dynamic_routing.engine.ema import build_average
from dynamic_routing.engine.hook_list import build_hooks
from dynamic_routing.engine.hooks import BestCheckpoint, Evaluation
from dynamic_routing.engine.kmeans_hook import check_images
from dynamic_routing.engine.loaders import build_test_loader, build_train_loader, count_images
from dynamic_routing.engine.model_checks import check_augmentation_applies, check_budget_applies
from dynamic_routing.engine.parallel import share_statistics, unwrapped
from dynamic_routing.engine.randomness import StepSeeds, chosen_seed
from dynamic_routing.engine.run_files import build_writers, write_config
from dynamic_routing.engine.solver import (
    autocast_dtype,
    build_lr_scheduler,
    build_optimizer,
    full_model_clip_norm,
    kept_settings_named,
)
from dynamic_routing.engine.train_loader import TrainLoader
from dynamic_routing.engine.train_step import TrainStep
from dynamic_routing.evaluation.build import build_evaluator
from dynamic_routing.modeling.config import ConfigError
from dynamic_routing.modeling.cost import RouteCosts
from dynamic_routing.modeling.meta_arch import RoutingMixin, cluster_centres
from dynamic_routing.modeling.prepared import prepare_model
from dynamic_routing.modeling.test_time_augmentation import with_test_time_augmentation

logger = logging.getLogger(__name__)

INFERENCE = "inference"
"""Folder of OUTPUT_DIR for what evaluations write."""


class Trainer(DefaultTrainer):
    """Trains and evaluates what a config describes.

    Args:
        cfg: a frozen config with the keys of :func:`add_dynamic_routing_config`.
    """

    def __init__(self, cfg: CfgNode) -> None:
        # DefaultTrainer's own __init__ fixes GPU ids for DDP and the kind of step; everything
        # else of it is used. The order of construction is Detectron2's.
        TrainerBase.__init__(self)
        self.cfg = cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        check_budget_applies(cfg, model)
        check_augmentation_applies(cfg, model)
        optimizer = self.build_optimizer(cfg, model)
        loader = self.build_train_loader(cfg)
        check_images(cfg, count_images(loader))
        on_gpu = next(model.parameters()).is_cuda
        model = create_ddp_model(
            model, **unsynchronised_buffers(), **({} if on_gpu else {"device_ids": None})
        )
        self._trainer = TrainStep(
            model,
            loader,
            optimizer,
            clip_norm=full_model_clip_norm(cfg),
            autocast=autocast_dtype(cfg, on_gpu),
            accumulation=cfg.SOLVER.ACCUMULATION_STEPS,
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.average = build_average(cfg, unwrapped(model))
        kept: dict[str, Any] = {} if self.average is None else {EMA_KEY: self.average}
        self.checkpointer = RoutingCheckpointer(
            model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self), **kept
        )
        self.iter = self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self._seeds = StepSeeds(chosen_seed(cfg.SEED))
        self._guard = BadNumbersGuard(cfg.OUTPUT_DIR)
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """Continue the run in OUTPUT_DIR, or start from MODEL.WEIGHTS."""
        if resume and not self.checkpointer.has_checkpoint():
            logger.warning(
                "nothing to resume in %s (no last_checkpoint): starting at iteration 0",
                self.cfg.OUTPUT_DIR,
            )
        if not resume and self.checkpointer.has_checkpoint():
            logger.warning(
                "%s holds an earlier run, whose checkpoints will be replaced one by one; "
                "--resume would continue it",
                self.cfg.OUTPUT_DIR,
            )
        self.checkpointer.strict = resume and self.checkpointer.has_checkpoint()
        with kept_settings_named(self.optimizer):
            super().resume_or_load(resume)
        if self.start_iter >= self.max_iter:
            logger.info("the run in %s is already complete", self.cfg.OUTPUT_DIR)

    def train(self) -> Any:
        """Train from where the run is; see Detectron2's DefaultTrainer.

        Raises:
            BadNumbersError: a loss, gradient or weight is NaN or infinite.
        """
        if isinstance(self.data_loader, TrainLoader):
            self.data_loader.seed = self._seeds.seed
            self.data_loader.start = self.start_iter
        logger.info("seed %d", self._seeds.seed)
        self.cfg.defrost()
        self.cfg.SEED = self._seeds.seed  # of the run that is resumed; config.yaml shall say so
        self.cfg.freeze()
        return super().train()

    def before_train(self) -> None:
        """Start the hooks, on a storage that does not grow with the training."""
        bound_history(self.storage)
        super().before_train()

    def run_step(self) -> None:
        """One iteration, with an eye on its numbers."""
        with self._guard.watching(self.model, self.optimizer, iteration=self.iter):
            super().run_step()

    def after_train(self) -> None:
        """Evaluate for the last time and close the files; after a failure, the latter only."""
        if self.iter >= self.max_iter:
            self.iter = max(self.max_iter, self.start_iter)  # was one more with nothing left to do
            super().after_train()
            return
        self.storage.iter = self.iter
        for hook in self._hooks:
            if not isinstance(hook, Evaluation | BestCheckpoint):
                with suppress(OSError):  # of a full disk; the first error is the one to report
                    hook.after_train()

    def build_hooks(self) -> list[HookBase]:
        """See :func:`dynamic_routing.engine.hook_list.build_hooks`."""
        return build_hooks(self, unwrapped(self.model), seeds=self._seeds, average=self.average)

    def evaluate(self) -> Any:
        """Evaluate the weights as they are now: the model, its average, or both."""
        average = None if self.average is None else self.average.averaged_model()
        self._last_eval_results = evaluate(self.cfg, self.model, average)
        return self._last_eval_results

    def build_writers(self) -> list[EventWriter]:
        """See :func:`dynamic_routing.engine.run_files.build_writers`."""
        folder = self.cfg.OUTPUT_DIR
        return build_writers(folder, max_iter=self.max_iter, start_iter=self.start_iter)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """Detectron2's, with one line for a config whose parts do not fit each other.

        Raises:
            ConfigError: what Detectron2 found by an assertion or a missing key.
        """
        try:
            return super().build_model(cfg)
        except (AssertionError, KeyError) as error:
            reason = " ".join(str(error).split()) or "an assertion of Detectron2"
            raise ConfigError(
                f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE} with MODEL.BACKBONE.NAME "
                f"{cfg.MODEL.BACKBONE.NAME} cannot be built: {reason}"
            ) from error

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """See :func:`dynamic_routing.engine.solver.build_optimizer`."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Any:
        """See :func:`dynamic_routing.engine.solver.build_lr_scheduler`."""
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterable[Any]:
        """See :func:`dynamic_routing.engine.loaders.build_train_loader`."""
        return build_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Iterable[Any]:
        """See :func:`dynamic_routing.engine.loaders.build_test_loader`."""
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(
        cls,
        cfg: CfgNode,
        dataset_name: str,
        *,
        model: nn.Module | None = None,
        folder: str = INFERENCE,
    ) -> DatasetEvaluator:
        """The data set's own evaluators, and the routing evaluator for routed models.

        What they write goes to ``folder`` of OUTPUT_DIR.
        """
        routed = is_routed(cfg)
        cost = RouteCosts(model) if routed and model is not None else None
        return build_evaluator(
            dataset_name,
            Path(cfg.OUTPUT_DIR) / folder,
            routed=routed,
            cost=cost,
            centres=None if model is None else cluster_centres(model),
            keypoint_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS,
        )

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: Any = None) -> Any:
        """Evaluate on every data set of DATASETS.TEST; with TEST.AUG.ENABLED on several views.

        What runs is a copy that :func:`prepare_model` makes of the weights as they are now.
        """
        bare = unwrapped(model)
        share_statistics(bare)
        if evaluators is None:
            names = cfg.DATASETS.TEST
            evaluators = [cls.build_evaluator(cfg, name, model=bare) for name in names]
        model = prepare_model(bare, graphs=cfg.MODEL.DYNAMIC_ROUTING.CUDA_GRAPHS)
        if cfg.TEST.AUG.ENABLED:
            model = with_test_time_augmentation(cfg, model)
        return super().test(cfg, model, evaluators)


def evaluate(cfg: CfgNode, model: nn.Module, average: nn.Module | None) -> Any:
    """Evaluate what MODEL.EMA.EVALUATE names; without an average the model.

    Returns:
        As :meth:`Trainer.test`; with both, the average's results under ``ema``.
    """
    chosen = cfg.MODEL.EMA.EVALUATE
    if average is None or chosen == "model":
        return Trainer.test(cfg, model)
    if chosen == "ema":
        return Trainer.test(cfg, average)
    results = dict(Trainer.test(cfg, model) or {})
    evaluators = [
        Trainer.build_evaluator(cfg, name, model=average, folder=f"{INFERENCE}/ema")
        for name in cfg.DATASETS.TEST
    ]
    logger.info("now the moving average of the weights")
    return {**results, "ema": Trainer.test(cfg, average, evaluators) or {}}


def is_routed(cfg: CfgNode) -> bool:
    """Whether the config's meta-architecture hands over routes."""
    from detectron2.modeling import META_ARCH_REGISTRY

    return issubclass(META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE), RoutingMixin)


def evaluate_checkpoint(cfg: CfgNode) -> Any:
    """Build the model, load MODEL.WEIGHTS and evaluate (``--eval-only``).

    Raises:
        CheckpointError: MODEL.WEIGHTS is empty, missing or of another network.
    """
    if not cfg.MODEL.WEIGHTS:
        raise CheckpointError(
            "--eval-only needs weights: add MODEL.WEIGHTS path/to/model_final.pth "
            "(--resume takes the newest checkpoint of OUTPUT_DIR, if there is one)"
        )
    model = Trainer.build_model(cfg)
    check_augmentation_applies(cfg, model)
    checkpoint = RoutingCheckpointer(model, cfg.OUTPUT_DIR, strict=True).load(cfg.MODEL.WEIGHTS)
    average = build_average(cfg, model)
    averaged = average is not None and cfg.MODEL.EMA.EVALUATE != "model"
    if averaged and EMA_KEY not in checkpoint:
        raise CheckpointError(
            f"{cfg.MODEL.WEIGHTS} holds no moving average: set MODEL.EMA.ENABLED False"
        )
    if comm.is_main_process():
        write_config(cfg, Path(cfg.OUTPUT_DIR) / INFERENCE)
    if average is None or not averaged:
        return Trainer.test(cfg, model)
    average.load_state_dict(checkpoint[EMA_KEY])
    return evaluate(cfg, model, average.averaged_model())
