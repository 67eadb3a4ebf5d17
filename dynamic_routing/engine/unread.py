"""Parameters that no loss reads: a gradient of 0, on one process and on many.

RetinaNet has no use for P2, so nobody reads the last cell at stride 4. An optimiser leaves a
parameter without gradient alone (no weight decay either), and DistributedDataParallel waits for it
for ever, or searches the graph in every step (``find_unused_parameters``). Here every parameter is
tied to the loss instead, which costs nothing for those that are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class _Tied(torch.autograd.Function):
    """Hands a loss on; its gradient reaches every parameter, as nothing to be added."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, *parameters: Tensor) -> Tensor:
        """The loss as it is."""
        ctx.count = len(parameters)
        return loss.view_as(loss)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """None instead of zeros: read parameters then need no addition."""
        return (gradient, *[None] * ctx.count)


def tie(loss: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    """The same loss, whose backward visits every parameter that learns, read or not.

    DistributedDataParallel counts these visits; it gives the unread parameters zeros.

    Args:
        loss: scalar.
        parameters: of the model.
    """
    return _Tied.apply(loss, *(p for p in parameters if p.requires_grad))


def fill_missing_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Zeros for parameters that learn and got no gradient, as DistributedDataParallel has it."""
    for parameter in parameters:
        if parameter.requires_grad and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
