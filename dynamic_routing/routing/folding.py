"""Norms folded into convolutions, for weights that no longer change.

In evaluation a batch norm is one multiply-add per channel, which a convolution in front of it can
take over. Everything here copies weights and never changes the module that it was given.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynamic_routing.routing.layers import ConvNorm

FROZEN_NORM = "FrozenBatchNorm2d"
"""Class name of Detectron2's and torchvision's frozen norm, neither of which is imported here."""

ONEDNN_LEAST_INPUT = 20_480
"""Elements of a batch-1 input up to which PyTorch leaves oneDNN aside (use_mkldnn in ATen)."""


class FoldedConv(nn.Module):
    """A convolution that took over its norm, with an optional ReLU in place.

    Args:
        weight: (out, in / groups, k, k), copied by the caller.
        bias: (out,) or None.
        like: the convolution whose stride, padding, dilation and groups hold.
        relu: whether a ReLU follows.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, *, like: nn.Conv2d, relu: bool) -> None:
        super().__init__()
        self.register_buffer("weight", weight.contiguous(memory_format=torch.channels_last))
        self.register_buffer("bias", bias)
        assert isinstance(like.padding, tuple), f"padding by name: {like.padding}"
        self.stride, self.padding = like.stride, like.padding
        self.dilation, self.groups = like.dilation, like.groups
        self.relu = relu
        self.pointwise = like.kernel_size == (1, 1) and like.groups == 1

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H', W'), a tensor of its own that the caller may overwrite."""
        dilation = (2, 2) if self.pointwise and _needs_a_nudge(x) else self.dilation
        y = F.conv2d(x, self.weight, self.bias, self.stride, self.padding, dilation, self.groups)
        return y.relu_() if self.relu else y


def _needs_a_nudge(x: Tensor) -> bool:
    """Whether a 1x1 convolution of ``x`` runs faster when it is called dilated.

    On one thread PyTorch sends undilated 1x1 convolutions of small batches to BLAS and dilated
    ones to oneDNN. A 1x1 kernel has nothing to dilate, so the result is the same; on CPUs where
    the BLAS is slow the time halves.
    """
    return x.dtype == torch.float32 and x.device.type == "cpu" and x.numel() > ONEDNN_LEAST_INPUT


def is_foldable(norm: nn.Module | None) -> bool:
    """Whether evaluation makes ``norm`` a fixed multiply-add per channel; None is no norm."""
    if norm is None:
        return True
    if type(norm).__name__ == FROZEN_NORM:
        return True
    return isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.running_mean is not None


def is_plain(conv: nn.Module) -> bool:
    """Whether :class:`FoldedConv` can do what ``conv`` does: zero padding by number of pixels."""
    if type(conv) is not nn.Conv2d:
        return False
    return conv.padding_mode == "zeros" and isinstance(conv.padding, tuple)


def folded_weights(conv: nn.Conv2d, norm: Any) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of ``conv`` followed by a foldable ``norm``, as new tensors.

    Computed in float64, since running statistics can be tiny.
    """
    weight = conv.weight.detach()
    bias = None if conv.bias is None else conv.bias.detach()
    if norm is None:
        return weight.clone(), None if bias is None else bias.clone()
    mean, variance = norm.running_mean.double(), norm.running_var.double()
    scale = (variance + norm.eps).rsqrt()
    if getattr(norm, "weight", None) is not None:
        scale = scale * norm.weight.detach().double()
    shift = -mean * scale if bias is None else (bias.double() - mean) * scale
    if getattr(norm, "bias", None) is not None:
        shift = shift + norm.bias.detach().double()
    folded = weight.double() * scale[:, None, None, None]
    return folded.to(weight.dtype), shift.to(weight.dtype)


def fold(module: nn.Module) -> nn.Module:
    """A copy of ``module`` for evaluation with every :class:`ConvNorm` folded where it can be."""
    if type(module) is ConvNorm and is_plain(module.conv) and is_foldable(module.norm):
        weight, bias = folded_weights(module.conv, module.norm)
        return FoldedConv(weight, bias, like=module.conv, relu=module.relu is not None)
    if is_plain(module):
        assert isinstance(module, nn.Conv2d), "a plain convolution"
        weight, bias = folded_weights(module, None)
        return FoldedConv(weight, bias, like=module, relu=False)
    children = {id(child): fold(child) for child in module.children()}
    folded = copy.deepcopy(module, memo=dict(children))  # children are replaced, not copied
    return folded.eval().requires_grad_(False)
