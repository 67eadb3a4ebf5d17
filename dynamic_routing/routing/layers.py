"""The few building blocks that stem, cells, transitions and gates share."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

NormFactory = Callable[[int], nn.Module]
"""Makes a normalisation layer for a number of channels."""


class ConvNorm(nn.Module):
    """Convolution without bias, optional norm, optional ReLU.

    Maps (N, in_channels, H, W) to (N, out_channels, H', W'). Kaiming-normal weights (fan in).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: side of the square kernel.
        stride: step of the kernel.
        dilation: spacing of the kernel's taps.
        groups: ``in_channels`` for a depthwise convolution.
        norm: maker of the norm layer, or None for a bare convolution.
        relu: whether a ReLU follows.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        norm: NormFactory | None = None,
        relu: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=dilation * (kernel_size // 2),
            dilation=dilation,
            groups=groups,
            bias=False,
        )
        self.norm = norm(out_channels) if norm is not None else None
        self.relu = nn.ReLU(inplace=True) if relu else None
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_in", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Apply convolution, norm and ReLU in this order."""
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm(x)
        return x if self.relu is None else self.relu(x)


def depthwise(channels: int, kernel_size: int, *, stride: int = 1, dilation: int = 1) -> ConvNorm:
    """A bare depthwise convolution: no norm stands between depthwise and pointwise anywhere."""
    return ConvNorm(
        channels, channels, kernel_size, stride=stride, dilation=dilation, groups=channels
    )
