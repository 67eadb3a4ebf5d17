"""Short DivDR trainings on a few fixed images, for the tests of the k-means hook."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm

from dynamic_routing.divdr.loss import DivDRLoss
from dynamic_routing.engine.kmeans_hook import GateKMeansHook
from dynamic_routing.engine.parallel import unwrapped
from dynamic_routing.engine.trainer import Trainer
from tests.modeling.builders import batch, randomise, small_config

DIVDR = "MODEL.DYNAMIC_ROUTING.DIVDR."
IMAGES = 8
BATCH = 4
# Norms with fixed statistics, so that an image's gates do not depend on its batch.
TRAINING = (
    f"{DIVDR}NUM_CLUSTERS 2 {DIVDR}PERIOD 3 {DIVDR}WEIGHT 0.5 {DIVDR}START_ITER 2 "
    f"{DIVDR}MARGIN 4 "
    "MODEL.DYNAMIC_ROUTING.NORM FrozenBN MODEL.SEM_SEG_HEAD.NORM FrozenBN "
    f"SOLVER.MAX_ITER 12 SOLVER.IMS_PER_BATCH {BATCH} SOLVER.BASE_LR 0.01 "
    "SOLVER.WARMUP_ITERS 0 SOLVER.CHECKPOINT_PERIOD 5 DATALOADER.NUM_WORKERS 0"
).split()


def inputs() -> list[dict[str, Any]]:
    """Eight small images with labels, each with a name of its own."""
    return batch(*[(32, 32)] * IMAGES)


class FixedBatches:
    """Iteration i takes the next images (mod 8); each process every n-th of them."""

    def __init__(self, size: int = BATCH) -> None:
        self.start = 0
        self.size = size
        self.images = inputs()

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        iteration = self.start
        while True:
            chosen = [(self.size * iteration + i) % IMAGES for i in range(self.size)]
            yield [self.images[i] for i in chosen[comm.get_rank() :: comm.get_world_size()]]
            iteration += 1


class ShortTrainer(Trainer):
    """The real trainer on :class:`FixedBatches`, without files of metrics."""

    def __init__(self, cfg: CfgNode, *, killed_at: int | None = None) -> None:
        super().__init__(cfg)
        self.killed_at = killed_at
        self.losses: list[float] = []

    @classmethod
    def build_model(cls, cfg: CfgNode) -> torch.nn.Module:
        torch.manual_seed(0)
        model = super().build_model(cfg)
        randomise(model, seed=1, bias=0.3, spread=0.5)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "predict" in name and parameter.ndim > 1:
                    parameter.mul_(0.1)  # gates that are neither closed nor saturated
        return model

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> FixedBatches:
        return FixedBatches(cfg.SOLVER.IMS_PER_BATCH)

    def build_writers(self) -> list[Any]:
        return []

    def resume_or_load(self, resume: bool = True) -> None:
        super().resume_or_load(resume)
        self._trainer.data_loader.start = self.start_iter

    def run_step(self) -> None:
        if self.iter == self.killed_at:
            raise KeyboardInterrupt
        super().run_step()
        if comm.is_main_process():
            self.losses.append(self.storage.latest()["loss_divdr"][0])

    @property
    def hook(self) -> GateKMeansHook:
        (found,) = [h for h in self._hooks if isinstance(h, GateKMeansHook)]
        return found

    @property
    def loss(self) -> DivDRLoss:
        (found,) = [m for m in unwrapped(self.model).modules() if isinstance(m, DivDRLoss)]
        return found


class PreciseTrainer(ShortTrainer):
    """In float64: what differs then differs for a reason."""

    @classmethod
    def build_model(cls, cfg: CfgNode) -> torch.nn.Module:
        return super().build_model(cfg).double()


def short_config(folder: Any, *overrides: str) -> CfgNode:
    """The config of a short training into ``folder``, without data sets."""
    options = (*TRAINING, "OUTPUT_DIR", str(folder), *overrides)
    cfg = small_config(*options)
    cfg.DATASETS.TEST = ()
    return cfg


def short_training(
    folder: Any,
    *overrides: str,
    resume: bool = False,
    killed_at: int | None = None,
    kind: type[ShortTrainer] = ShortTrainer,
) -> ShortTrainer:
    """Train, as far as it gets."""
    trainer = kind(short_config(folder, *overrides), killed_at=killed_at)
    trainer.resume_or_load(resume)
    try:
        trainer.train()
    except KeyboardInterrupt:
        assert trainer.iter == killed_at
    return trainer
