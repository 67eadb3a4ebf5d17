"""What cannot be folded exactly is copied as it is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dynamic_routing.routing.folding import FoldedConv, fold
from dynamic_routing.routing.layers import ConvNorm
from tests.routing.builders import randomise, relative_error


class Doubled(ConvNorm):
    """A block of somebody else's that does more than its base."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Twice what the base gives."""
        return 2 * super().forward(x)


class Scaled(nn.Conv2d):
    """A convolution that is more than one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Three times the convolution."""
        return 3 * super().forward(x)


def with_scaled_convolution() -> ConvNorm:
    """A block whose convolution somebody replaced."""
    block = ConvNorm(4, 4, norm=nn.BatchNorm2d)
    block.conv = Scaled(4, 4, 1)
    return block


BLOCKS = {
    "plain": lambda: nn.Conv2d(4, 4, 3, padding=1),
    "reflecting": lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
    "padding by name": lambda: nn.Conv2d(4, 4, 3, padding="same"),
    "of another class": lambda: Scaled(4, 4, 3),
    "with norm": lambda: ConvNorm(4, 4, 3, norm=nn.BatchNorm2d, relu=True),
    "with another norm": lambda: ConvNorm(4, 4, norm=lambda c: nn.GroupNorm(2, c)),
    "subclass": lambda: Doubled(4, 4, norm=nn.BatchNorm2d, relu=True),
    "convolution of another class": with_scaled_convolution,
}


@pytest.mark.parametrize("block", BLOCKS)
def test_folded_equals_the_block_in_evaluation(block):
    torch.manual_seed(0)
    made = BLOCKS[block]().double().eval()
    randomise(made, seed=0)
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    folded = fold(made)
    with torch.no_grad():
        assert relative_error(folded(x), made(x)) < 1e-12
    assert isinstance(folded, FoldedConv) == (block in ("plain", "with norm"))
