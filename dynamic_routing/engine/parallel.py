"""A model that is trained by several processes."""

from __future__ import annotations

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, without DistributedDataParallel around it."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def share_statistics(model: nn.Module) -> None:
    """Give every process the main one's buffers, which are those that checkpoints keep.

    Norms that are not synchronised have other running statistics in every process; an image's
    result would depend on where it is evaluated.
    """
    if comm.get_world_size() == 1:
        return
    for buffer in model.buffers():
        if buffer.is_floating_point():
            torch.distributed.broadcast(buffer, src=0)


class SharedStatistics(HookBase):
    """Gives every process the main one's buffers where a checkpoint is about to be written.

    A resumed run starts with these in every process. What reads running statistics in between, as
    the probe of the budget does, would else find others than in the uninterrupted run.

    Args:
        model: without DistributedDataParallel around it.
        period: iterations between checkpoints; 0: at the end only.
    """

    def __init__(self, model: nn.Module, *, period: int) -> None:
        self._model = model
        self._period = period

    def after_step(self) -> None:
        """Share where it is time; has to stand behind what changes statistics."""
        done = self.trainer.iter + 1
        if done >= self.trainer.max_iter or (self._period > 0 and done % self._period == 0):
            share_statistics(self._model)
