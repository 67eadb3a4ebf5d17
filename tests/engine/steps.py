"""Running a TrainStep without a trainer."""

from __future__ import annotations

import torch
from detectron2.utils.events import EventStorage
from torch import nn

from dynamic_routing.engine.train_step import TrainStep


def sgd(model: nn.Module, lr: float = 0.05) -> torch.optim.Optimizer:
    """Momentum and weight decay, as the papers."""
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=1e-4)


def run(step: TrainStep, times: int = 1) -> EventStorage:
    """So many steps, and what they logged."""
    with EventStorage(0) as storage:
        step.model.train()
        for i in range(times):
            step.iter = storage.iter = i
            step.run_step()
    return storage
