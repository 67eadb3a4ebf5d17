"""Exponential moving average of the weights: a second, smoother model beside the trained one.

After update t (from 1): average = d_t * average + (1 - d_t) * weights, d_t = min(decay,
(1 + t) / (10 + t)), so that the start is forgotten soon and short trainings profit too.

Averaged are parameters and the running mean and variance of norms, which belong to the weights.
Every other buffer (DivDR's centres and variance, counters, fixed strengths) is taken as it is: an
average of cluster centres would be the centre of nothing.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

NORM_STATISTICS = ("running_mean", "running_var")
"""Buffers that are averaged."""

KEY = "model_ema"
"""Where a checkpoint keeps the average: {"model": name -> tensor, "updates": t}."""


def decay_at(update: int, decay: float) -> float:
    """d_t of the ``update``-th update, from 1."""
    return min(decay, (1 + update) / (10 + update))


class WeightAverage:
    """The average of a model's weights.

    Args:
        model: as it is trained, without DistributedDataParallel around it.
        decay: in [0, 1); 0.9998 looks back over some 5,000 updates.

    Attributes:
        updates: how many there were.

    Raises:
        ValueError: a decay outside these bounds.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"the decay of an average must be in [0, 1), got {decay}")
        self._model = model
        self._decay = decay
        self.restart()

    def restart(self) -> None:
        """Forget everything and start from the weights as they are now."""
        self.updates = 0
        self._average = {name: t.detach().clone() for name, t in self._model.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the present weights in."""
        self.updates += 1
        parameters = {name for name, _ in self._model.named_parameters()}
        present = self._model.state_dict()
        averaged = [n for n in present if n in parameters or n.endswith(NORM_STATISTICS)]
        take_in = get_ema_multi_avg_fn(decay_at(self.updates, self._decay))
        take_in([self._average[n] for n in averaged], [present[n] for n in averaged], self.updates)
        for name in present.keys() - set(averaged):
            self._average[name].copy_(present[name])

    def averaged_model(self) -> nn.Module:
        """A copy of the model with the averaged weights."""
        model = copy.deepcopy(self._model)
        model.load_state_dict(self._average)
        return model

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"model": dict(self._average), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`.

        Raises:
            ValueError: an average of another network.
        """
        stored: dict[str, Tensor] = state["model"]
        different = {n: t.shape for n, t in self._average.items()} != {
            name: tensor.shape for name, tensor in stored.items()
        }
        if different:
            raise ValueError(f"the checkpoint's {KEY} is of another network than its model")
        for name, tensor in stored.items():
            self._average[name].copy_(tensor)
        self.updates = int(state["updates"])


class AverageWeights(HookBase):
    """Takes the weights in after every update; has to stand before what evaluates or saves.

    Args:
        average: of the model in training; kept in checkpoints as :data:`KEY`.
    """

    def __init__(self, average: WeightAverage) -> None:
        self._average = average

    def before_train(self) -> None:
        """A new training starts from the weights that were loaded meanwhile."""
        if self._average.updates == 0:
            self._average.restart()

    def after_step(self) -> None:
        """One update."""
        self._average.update()


def build_average(cfg: CfgNode, model: nn.Module) -> WeightAverage | None:
    """What MODEL.EMA asks for, or None."""
    return WeightAverage(model, decay=cfg.MODEL.EMA.DECAY) if cfg.MODEL.EMA.ENABLED else None
