"""The segmentation decoder (Li et al. 2020, Sec. 3.4): coarse to fine, one 1x1 a scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynamic_routing.routing.cells import upsample
from dynamic_routing.routing.layers import ConvNorm, NormFactory
from dynamic_routing.routing.space import STEM_STRIDE

PYRAMID_BINS = (1, 2, 3, 6)
"""Sides of the pooled maps of PSPNet (Zhao et al. 2017)."""


class PyramidPooling(nn.Module):
    """PSPNet's module: context pooled at several sizes, concatenated and fused by a 3x3.

    Maps (N, C, H, W) to the same shape. Published with 33 layers as ``Layer33-PSP``, without
    details; we put it on the coarsest feature, with the standard bins.
    """

    def __init__(self, channels: int, norm: NormFactory) -> None:
        super().__init__()
        branch = channels // len(PYRAMID_BINS)
        self.branches = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(b), ConvNorm(channels, branch, norm=norm, relu=True))
            for b in PYRAMID_BINS
        )
        joined = channels + branch * len(PYRAMID_BINS)
        self.fuse = ConvNorm(joined, channels, 3, norm=norm, relu=True)

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate x with its pooled context and fuse."""
        size = x.shape[-2:]
        context = [
            F.interpolate(branch(x), size=size, mode="bilinear", align_corners=False)
            for branch in self.branches
        ]
        return self.fuse(torch.cat([x, *context], dim=1))


class SegmentationDecoder(nn.Module):
    """From the features of every scale to class scores at the image's size.

    From coarse to fine, p = ReLU(BN(1x1(feature + p))) to half the channels (the finest scale
    keeps them), bilinear x2 between scales; then a 3x3 predictor with bias, bilinear x4.
    A scale at which nothing has arrived for an image, neither its feature nor a coarser one,
    passes nothing on for that image. With nothing anywhere the scores are the predictor's bias.

    Args:
        channels: channels of each scale's feature, fine to coarse, each twice the one before.
        num_classes: classes to score.
        norm: maker of the norm layers.
        pyramid_pooling: put :class:`PyramidPooling` on the coarsest feature.

    Raises:
        ValueError: channels that do not double, or fewer than one class.
    """

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        *,
        norm: NormFactory,
        pyramid_pooling: bool = False,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"the decoder needs at least 1 class, got {num_classes}")
        if not channels or any(
            b != 2 * a for a, b in zip(channels[:-1], channels[1:], strict=True)
        ):
            raise ValueError(f"channels must double from scale to scale, got {list(channels)}")
        self.channels = tuple(channels)
        self.context = PyramidPooling(channels[-1], norm) if pyramid_pooling else None
        self.levels = nn.ModuleList(
            ConvNorm(c, c if scale == 0 else c // 2, norm=norm, relu=True)
            for scale, c in enumerate(channels)
        )
        self.predictor = nn.Conv2d(channels[0], num_classes, 3, padding=1)
        nn.init.kaiming_normal_(self.predictor.weight, mode="fan_in", nonlinearity="relu")
        assert self.predictor.bias is not None
        nn.init.zeros_(self.predictor.bias)

    def forward(
        self, features: Mapping[int, Tensor], reached: Mapping[int, Tensor] | None = None
    ) -> Tensor:
        """Score every pixel.

        Args:
            features: scale -> (N, channels[scale], H / stride, W / stride).
            reached: scale -> (N,) bool, whether the feature exists for the image; all, if None.

        Returns:
            (N, num_classes, H, W).
        """
        previous: Tensor | None = None
        present: Tensor | None = None
        for scale in reversed(range(len(self.levels))):
            x = features[scale] if previous is None else features[scale] + upsample(previous)
            if self.context is not None and previous is None:
                x = self.context(x)
            previous = self.levels[scale](x)
            if reached is not None:
                present = reached[scale] if present is None else present | reached[scale]
                previous = previous * present[:, None, None, None].to(previous.dtype)
        assert previous is not None
        return upsample(self.predictor(previous), STEM_STRIDE)
