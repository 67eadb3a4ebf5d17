"""Necks: from the widths of a routing network's outputs to the one width that heads expect."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from fvcore.nn import weight_init
from torch import Tensor, nn


class ProjectionNeck(nn.Module):
    """A 1x1 convolution a level, nothing else: costs follow the levels that a route reached.

    Args:
        in_channels: level name -> channels, finest level first.
        out_channels: channels of every level that leaves, 256 for Detectron2's heads.
        norm: Detectron2's name of a norm, "" for none.

    Raises:
        ValueError: no level, or a number of channels below 1.
    """

    def __init__(
        self, in_channels: Mapping[str, int], *, out_channels: int = 256, norm: str = ""
    ) -> None:
        super().__init__()
        if not in_channels or min(*in_channels.values(), out_channels) < 1:
            raise ValueError(
                f"a neck needs levels with at least one channel, got {dict(in_channels)} -> "
                f"{out_channels}"
            )
        self.out_channels = out_channels
        self.lateral = nn.ModuleDict(
            {name: _conv(c, out_channels, 1, norm) for name, c in in_channels.items()}
        )

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Level name -> (N, C_level, H, W) to level name -> (N, out_channels, H, W)."""
        return {name: project(features[name]) for name, project in self.lateral.items()}


class TopDownNeck(ProjectionNeck):
    """The projection with FPN's top-down pathway (Lin et al. 2017): coarse levels join finer ones.

    Args: see :class:`ProjectionNeck`.
    """

    def __init__(
        self, in_channels: Mapping[str, int], *, out_channels: int = 256, norm: str = ""
    ) -> None:
        super().__init__(in_channels, out_channels=out_channels, norm=norm)
        self.output = nn.ModuleDict(
            {name: _conv(out_channels, out_channels, 3, norm) for name in in_channels}
        )

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As :class:`ProjectionNeck`; each level has half the height and width of the last."""
        merged: dict[str, Tensor] = {}
        above: Tensor | None = None
        for name, lateral in reversed(super().forward(features).items()):
            if above is not None:
                lateral = lateral + F.interpolate(above, scale_factor=2.0, mode="nearest")
            merged[name] = above = lateral
        return {name: convolve(merged[name]) for name, convolve in self.output.items()}


NECKS: dict[str, type[ProjectionNeck]] = {"projection": ProjectionNeck, "top_down": TopDownNeck}
"""Names for ``MODEL.DYNAMIC_ROUTING.NECK``."""


def _conv(in_channels: int, out_channels: int, size: int, norm: str) -> Conv2d:
    """A convolution as Detectron2's FPN makes and initialises it."""
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size=size,
        padding=size // 2,
        bias=norm == "",
        norm=get_norm(norm, out_channels),
    )
    weight_init.c2_xavier_fill(conv)
    return conv
