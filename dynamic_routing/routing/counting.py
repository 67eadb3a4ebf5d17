"""Counting the work of a module by running a weightless copy of it.

A copy on the ``meta`` device computes shapes only, so any operation, gate or head is counted
without formulas of its own: convolutions, linear layers, norms, ReLUs and global pooling report
what they did. Limits: functional calls (F.relu, interpolation, sums) are not seen; the papers'
convention does not count interpolation and sums either.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

CONVENTIONS = ("macs", "paper")
"""``macs``: multiply-adds of convolutions and linear layers. ``paper``: those, plus per element 2
for an affine norm (1 without affine), 1 for a ReLU, 1 for global pooling (per input element); what
Li et al. 2020 print as FLOPs."""


@dataclass(frozen=True)
class Work:
    """What one call of a module did, for one image.

    Attributes:
        macs: multiply-adds of convolutions and linear layers.
        elementwise: the further terms of the papers' convention.
    """

    macs: int = 0
    elementwise: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.macs + other.macs, self.elementwise + other.elementwise)

    def cost(self, convention: str) -> int:
        """One number in a convention of :data:`CONVENTIONS`."""
        if convention not in CONVENTIONS:
            raise ValueError(
                f"cost convention {convention!r} is unknown; allowed: {', '.join(CONVENTIONS)}"
            )
        return self.macs if convention == "macs" else self.macs + self.elementwise


def _convolution(module: nn.Conv2d, x: Tensor, y: Tensor) -> Work:
    taps = module.kernel_size[0] * module.kernel_size[1]
    return Work(macs=y.numel() * taps * (module.in_channels // module.groups))


def _linear(module: nn.Linear, x: Tensor, y: Tensor) -> Work:
    return Work(macs=y.numel() * module.in_features)


def _norm(module: nn.Module, x: Tensor, y: Tensor) -> Work:
    return Work(elementwise=y.numel() * (2 if getattr(module, "weight", None) is not None else 1))


def _relu(module: nn.Module, x: Tensor, y: Tensor) -> Work:
    return Work(elementwise=y.numel())


def _global_pool(module: nn.Module, x: Tensor, y: Tensor) -> Work:
    return Work(elementwise=x.numel())


_COUNTERS: tuple[tuple[type[nn.Module] | tuple[type[nn.Module], ...], Callable[..., Work]], ...] = (
    (nn.Conv2d, _convolution),
    (nn.Linear, _linear),
    ((nn.modules.batchnorm._BatchNorm, nn.GroupNorm), _norm),
    (nn.ReLU, _relu),
    (nn.AdaptiveAvgPool2d, _global_pool),
)


def _count_norms_of_other_libraries(module: nn.Module) -> bool:
    """Detectron2's FrozenBatchNorm2d and friends are norms by their buffers, not by their type."""
    return hasattr(module, "running_mean") and hasattr(module, "running_var")


def count_work(module: nn.Module, *inputs: Any) -> Work:
    """Count one call of ``module`` in evaluation mode.

    Args:
        module: anything; it is copied, never changed.
        *inputs: its arguments, with tensors on the ``meta`` device and a batch of one image.
    """
    ghost = copy.deepcopy(module).to("meta").eval()
    total = Work()

    def add(count: Callable[..., Work]) -> Callable[..., None]:
        """A forward hook that adds what ``count`` finds."""

        def hook(leaf: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            nonlocal total
            total = total + count(leaf, args[0], output)

        return hook

    for leaf in ghost.modules():
        counter = next((c for kind, c in _COUNTERS if isinstance(leaf, kind)), None)
        if counter is None and _count_norms_of_other_libraries(leaf):
            counter = _norm
        if counter is not None:
            leaf.register_forward_hook(add(counter))
    with torch.no_grad():
        ghost(*inputs)
    return total


def meta_image(channels: int, height: int, width: int) -> Tensor:
    """A weightless image (1, channels, height, width)."""
    return torch.empty(1, channels, height, width, device="meta")
