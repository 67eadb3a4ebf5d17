"""Gates: how open each edge of a cell is, image by image (Li et al. 2020, Eq. 3-5, Table 3).

A gate maps the cell's input (N, C, H, W) to (N, k) values in [0, 1], one for each of the k edges
of the cell in the space's order (up, keep, down).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynamic_routing.routing.layers import ConvNorm, NormFactory

SMALL_GATE_SCALE = 0.25
"""Side of the small gate's input relative to the cell's (budgets A, B and C of the paper)."""


def max_tanh(logits: Tensor) -> Tensor:
    """max(0, tanh(G)): the only published activation that closes an edge (Eq. 4)."""
    return torch.relu(torch.tanh(logits))


def softmax(logits: Tensor) -> Tensor:
    """Edges of a cell compete and sum to 1."""
    return torch.softmax(logits, dim=1)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "max_tanh": max_tanh,
    "sigmoid": torch.sigmoid,
    "softmax": softmax,
}
"""Name -> function from logits (N, k) to gates (N, k)."""

FIXED = "fixed"
"""Name of the gate without a network: every edge always open (``Fix`` in Table 3)."""


@dataclass(frozen=True)
class GateSpec:
    """What kind of gates a network has.

    Attributes:
        activation: a key of :data:`ACTIVATIONS`, or ``fixed``.
        bias_init: where the bias starts; 1.5 gives tanh = 0.905, nearly open.
        small: whether the gate looks at its cell's input at a quarter of the size.

    Raises:
        ValueError: an unknown activation.
    """

    activation: str = "max_tanh"
    bias_init: float = 1.5
    small: bool = False

    def __post_init__(self) -> None:
        if self.activation != FIXED and self.activation not in ACTIVATIONS:
            allowed = ", ".join([*ACTIVATIONS, FIXED])
            raise ValueError(f"gate activation {self.activation!r} is unknown; allowed: {allowed}")


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """Gates are never kept in half precision: costs and clustering are computed from them."""
    return torch.float32 if dtype.itemsize < torch.float32.itemsize else dtype


class PreciseConv(nn.Conv2d):
    """A 1x1 convolution with bias that computes in at least float32, also under autocast."""

    def __init__(self, in_channels: int, out_channels: int, *, bias_init: float) -> None:
        super().__init__(in_channels, out_channels, 1)
        nn.init.kaiming_normal_(self.weight, mode="fan_in", nonlinearity="relu")
        assert self.bias is not None, "a gate's last convolution has a bias"
        nn.init.constant_(self.bias, bias_init)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, 1, 1) -> (N, out_channels, 1, 1)."""
        dtype = at_least_float32(x.dtype)
        assert self.bias is not None, "a gate's last convolution has a bias"
        device = "cpu" if x.is_meta else x.device.type  # a meta tensor has no autocast
        with torch.autocast(device, enabled=False):
            return F.conv2d(x.to(dtype), self.weight.to(dtype), self.bias.to(dtype))


class Gate(nn.Module):
    """Interface: (N, C, H, W) to (N, k) in [0, 1], in two steps.

    Attributes:
        num_edges: k.
        can_close: whether all gates of a cell can be 0, so that it hands its input on.
        flat_when_closed: whether a gate of exactly 0 passes no gradient to its logits, so that
            training need not compute what it closes. False for a straight-through gate.
    """

    num_edges: int
    can_close: bool
    flat_when_closed: bool = True

    def logits(self, x: Tensor) -> Tensor:
        """(N, k) before the activation, in at least float32; a closed gate still has a value."""
        raise NotImplementedError

    def activate(self, logits: Tensor) -> Tensor:
        """From logits (N, k) to gates (N, k) in [0, 1]."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Gates (N, k) of the cell's input (N, C, H, W)."""
        return self.activate(self.logits(x))


class FixedGate(Gate):
    """Gates that do not look at the image: 1, or what a sub-network was cut with.

    Args:
        num_edges: k.
    """

    strength: Tensor

    def __init__(self, num_edges: int) -> None:
        super().__init__()
        self.num_edges = num_edges
        self.can_close = False
        self.register_buffer("strength", torch.ones(num_edges))
        self.register_load_state_dict_post_hook(_refresh_strength)

    def set_strength(self, strength: Tensor) -> None:
        """Fix the gates to ``strength`` (k,), each in [0, 1].

        Raises:
            ValueError: another shape, or a value outside [0, 1].
        """
        if strength.shape != (self.num_edges,):
            raise ValueError(
                f"{self.num_edges} gates need as many strengths, got shape {tuple(strength.shape)}"
            )
        if strength.device.type != "meta":
            if not bool(((strength >= 0) & (strength <= 1)).all()):
                raise ValueError(f"gate strengths must be in [0, 1], got {strength.tolist()}")
            self.can_close = bool((strength == 0).all())
        self.strength = self.strength.copy_(strength)

    def activate(self, logits: Tensor) -> Tensor:
        """Strengths are gates already."""
        return logits

    def logits(self, x: Tensor) -> Tensor:
        """The same (N, k) for every image."""
        return self.strength.to(at_least_float32(x.dtype)).expand(x.shape[0], -1)


def _refresh_strength(gate: nn.Module, _keys: object) -> None:
    """Check and note the strengths that a checkpoint brought."""
    assert isinstance(gate, FixedGate), f"not a fixed gate: {type(gate).__name__}"
    gate.set_strength(gate.strength.clone())


class SoftGate(Gate):
    """G = W2 * avgpool(ReLU(BN(W1 * X))) + b, then an activation.

    Args:
        channels: C of the cell.
        num_edges: k.
        norm: maker of the norm layer.
        spec: activation, bias and size.
    """

    def __init__(self, channels: int, num_edges: int, *, norm: NormFactory, spec: GateSpec) -> None:
        super().__init__()
        self.num_edges = num_edges
        # A sigmoid underflows to exactly 0; only softmax always leaves an edge open.
        self.can_close = spec.activation != "softmax"
        self.small = spec.small
        self.activate_with = ACTIVATIONS[spec.activation]
        self.squeeze = ConvNorm(channels, channels // 2, norm=norm, relu=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.predict = PreciseConv(channels // 2, num_edges, bias_init=spec.bias_init)

    def logits(self, x: Tensor) -> Tensor:
        """G, (N, k), in at least float32 whatever the precision of ``x``."""
        return self.predict(self.pool(self.squeeze(shrink(x) if self.small else x))).flatten(1)

    def activate(self, logits: Tensor) -> Tensor:
        """The activation of Table 3 that the spec names."""
        return self.activate_with(logits)


def shrink(x: Tensor) -> Tensor:
    """Bilinear x0.25 for the small gate; inputs below 4 pixels shrink to 1 pixel instead of 0."""
    height, width = x.shape[-2:]
    if min(height, width) * SMALL_GATE_SCALE >= 1:
        return F.interpolate(x, scale_factor=SMALL_GATE_SCALE, mode="bilinear", align_corners=False)
    size = [max(1, int(side * SMALL_GATE_SCALE)) for side in (height, width)]
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def build_gate(channels: int, num_edges: int, *, norm: NormFactory, spec: GateSpec) -> Gate:
    """The gate that ``spec`` asks for, for a cell of ``channels`` channels and k edges."""
    if spec.activation == FIXED:
        return FixedGate(num_edges)
    return SoftGate(channels, num_edges, norm=norm, spec=spec)
