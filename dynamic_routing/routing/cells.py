"""Cells, transitions and the stem (Li et al. 2020, Sec. 3.2 and Table 2).

An operation maps (N, C, H, W) to the same shape and ends without a ReLU. Adding one means adding
a line to :data:`OPERATIONS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from dynamic_routing.routing.layers import ConvNorm, NormFactory, depthwise

OperationFactory = Callable[[int, NormFactory], nn.Module]


def sep_conv(
    channels: int, norm: NormFactory, *, kernel_size: int = 3, repeats: int = 1, dilation: int = 1
) -> nn.Sequential:
    """Depthwise and pointwise convolutions, stacked; a ReLU between repeats, none at the end."""
    layers: list[nn.Module] = []
    for i in range(repeats):
        layers.append(depthwise(channels, kernel_size, dilation=dilation))
        layers.append(ConvNorm(channels, channels, norm=norm, relu=i + 1 < repeats))
    return nn.Sequential(*layers)


def conv_3x3(channels: int, norm: NormFactory) -> nn.Module:
    """The basic dense 3x3 convolution with its norm."""
    return ConvNorm(channels, channels, 3, norm=norm)


def bottleneck(channels: int, norm: NormFactory, *, reduction: int = 4) -> nn.Sequential:
    """ResNet's 1x1, 3x3, 1x1 with channels divided by ``reduction`` in the middle.

    Raises:
        ValueError: ``channels`` is not a multiple of ``reduction``.
    """
    if channels % reduction:
        raise ValueError(f"bottleneck needs channels divisible by {reduction}, got {channels}")
    middle = channels // reduction
    return nn.Sequential(
        ConvNorm(channels, middle, norm=norm, relu=True),
        ConvNorm(middle, middle, 3, norm=norm, relu=True),
        ConvNorm(middle, channels, norm=norm),
    )


def mb_conv(channels: int, norm: NormFactory, *, expansion: int = 4) -> nn.Sequential:
    """MobileNetV2's inverted residual without its skip: expand, depthwise 3x3, project."""
    middle = channels * expansion
    return nn.Sequential(
        ConvNorm(channels, middle, norm=norm, relu=True),
        ConvNorm(middle, middle, 3, groups=middle, norm=norm, relu=True),
        ConvNorm(middle, channels, norm=norm),
    )


def _pool(kind: type[nn.Module], channels: int, norm: NormFactory) -> nn.Module:
    """A 3x3 pooling that keeps the size."""
    return kind(3, stride=1, padding=1)


def _identity(channels: int, norm: NormFactory) -> nn.Module:
    """The skip connection, which drop path never drops."""
    return nn.Identity()


OPERATIONS: dict[str, OperationFactory] = {
    "sep_conv_3x3": partial(sep_conv, repeats=1),
    "sep_conv_3x3_x2": partial(sep_conv, repeats=2),
    "sep_conv_3x3_x3": partial(sep_conv, repeats=3),
    "sep_conv_5x5_x2": partial(sep_conv, kernel_size=5, repeats=2),
    "sep_conv_7x7_x2": partial(sep_conv, kernel_size=7, repeats=2),
    "dil_conv_3x3": partial(sep_conv, dilation=2),
    "dil_conv_5x5": partial(sep_conv, kernel_size=5, dilation=2),
    "conv_3x3": conv_3x3,
    "bottleneck": bottleneck,
    "mb_conv_3x3": mb_conv,
    "max_pool_3x3": partial(_pool, nn.MaxPool2d),
    "avg_pool_3x3": partial(_pool, nn.AvgPool2d),
    "identity": _identity,
}
"""Name -> factory(channels, norm). ``sep_conv_3x3_x2`` plus ``identity`` is the published cell."""

PUBLISHED_CELL = ("sep_conv_3x3_x2", "identity")


def build_operations(names: Sequence[str], channels: int, norm: NormFactory) -> nn.ModuleList:
    """The operations of one cell, in the given order.

    Raises:
        ValueError: no name, an unknown name, or channels that an operation cannot take.
    """
    if not names:
        raise ValueError("a cell needs at least one operation, got none")
    for name in names:
        if name not in OPERATIONS:
            raise ValueError(
                f"cell operation {name!r} is unknown; allowed: {', '.join(OPERATIONS)}"
            )
    return nn.ModuleList(OPERATIONS[name](channels, norm) for name in names)


class Up(nn.Module):
    """Half the stride: 1x1 to half the channels, norm, ReLU, bilinear x2. Expects ReLU(H)."""

    def __init__(self, channels: int, norm: NormFactory) -> None:
        super().__init__()
        self.project = ConvNorm(channels, channels // 2, norm=norm, relu=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C / 2, 2H, 2W)."""
        return upsample(self.project(x))


class Down(nn.Module):
    """Double the stride: 1x1 of stride 2 to twice the channels, norm, ReLU. Expects ReLU(H)."""

    def __init__(self, channels: int, norm: NormFactory) -> None:
        super().__init__()
        self.project = ConvNorm(channels, channels * 2, stride=2, norm=norm, relu=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, 2C, H / 2, W / 2)."""
        return self.project(x)


def upsample(x: Tensor, factor: int = 2) -> Tensor:
    """Bilinear upsampling as the papers use it: align_corners False."""
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


class Stem(nn.Module):
    """Image to stride 4: 3x3 s2 conv, then two separable convs, the second of stride 2.

    The published code pads the first convolution by 0 and gives the middle 64 channels whatever
    the network's width; both are kept as defaults. The result has exactly H/4 x W/4 for every
    multiple of 4, with either padding.

    Args:
        width: C, channels of the result.
        norm: maker of the norm layers.
        in_channels: channels of the image.
        middle_channels: channels between the convolutions.
        padding: padding of the first convolution, 0 or 1.

    Raises:
        ValueError: another padding.
    """

    def __init__(
        self,
        width: int,
        norm: NormFactory,
        *,
        in_channels: int = 3,
        middle_channels: int = 64,
        padding: int = 0,
    ) -> None:
        super().__init__()
        if padding not in (0, 1):
            raise ValueError(f"stem padding must be 0 or 1, got {padding}")
        middle = middle_channels
        self.first = ConvNorm(in_channels, middle, 3, stride=2, norm=norm, relu=True)
        self.first.conv.padding = (padding, padding)
        self.second = nn.Sequential(
            depthwise(middle, 3), ConvNorm(middle, middle, norm=norm, relu=True)
        )
        self.third = nn.Sequential(
            depthwise(middle, 3, stride=2), ConvNorm(middle, width, norm=norm, relu=True)
        )

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, width, H / 4, W / 4)."""
        return self.third(self.second(self.first(images)))


def drop_path(x: Tensor, keep_probability: float) -> Tensor:
    """Zero whole samples of ``x`` (N, C, H, W) and rescale the rest, one coin a sample."""
    if keep_probability >= 1.0:
        return x
    coins = x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(keep_probability)
    return x * (coins / keep_probability)
