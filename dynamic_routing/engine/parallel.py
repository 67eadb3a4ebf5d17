"""A model that is trained by several processes."""

from __future__ import annotations

import torch
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
