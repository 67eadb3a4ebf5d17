"""A slow second implementation of the method, straight from the equations, for comparison only.

It shares no code with the package: it takes (layer, scale, kind) triples and a state dict, walks
the graph backwards from the outputs by recursion, and uses plain functional convolutions.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

ORDER = ("up", "keep", "down")
SHIFT = {"up": -1, "keep": 0, "down": 1}
Cell = tuple[int, int]
Triple = tuple[int, int, str]

SEPARABLE = {  # name -> (kernel, repeats, dilation)
    "sep_conv_3x3": (3, 1, 1),
    "sep_conv_3x3_x2": (3, 2, 1),
    "sep_conv_3x3_x3": (3, 3, 1),
    "sep_conv_5x5_x2": (5, 2, 1),
    "sep_conv_7x7_x2": (7, 2, 1),
    "dil_conv_3x3": (3, 1, 2),
    "dil_conv_5x5": (5, 1, 2),
}


class Signal(NamedTuple):
    """A feature map of the batch, and for which of its images it exists."""

    x: Tensor
    present: list[bool]


class Reference:
    """The method of Li et al. 2020 on a set of edges, with the weights of a state dict.

    Args:
        edges: (layer, scale, kind) of every edge; layer -1 is the initial cell.
        state: the weights by name.
        operations: names of the cell's operations.
        rule: ``absent`` or ``released``, what a cell does that no open edge reaches.
        activation: ``max_tanh``, ``sigmoid``, ``softmax`` or ``fixed``.
        small: whether gates look at a quarter of the size.
        stem_padding: padding of the first convolution.
        batch_statistics: normalise by the batch (training), not by the running statistics.
    """

    def __init__(
        self,
        edges: Iterable[Triple],
        state: dict[str, Tensor],
        *,
        operations: tuple[str, ...] = ("sep_conv_3x3_x2", "identity"),
        rule: str = "absent",
        activation: str = "max_tanh",
        small: bool = False,
        stem_padding: int = 0,
        batch_statistics: bool = False,
    ) -> None:
        self.edges = set(edges)
        self.state = state
        self.operations = operations
        self.rule = rule
        self.activation = activation
        self.small = small
        self.stem_padding = stem_padding
        self.batch_statistics = batch_statistics
        self.gates: dict[Triple, Tensor] = {}

    def run(self, images: Tensor) -> dict[int, Tensor]:
        """Features of every scale, zeros where none arrives; fills ``gates``, (N,) per edge."""
        self.images = images
        self.arrive = cache(self._arrive)
        self.send = cache(self._send)
        last = max(layer for layer, _, _ in self.edges)
        scales = {scale + SHIFT[kind] for _, scale, kind in self.edges} | {0}
        return {scale: self.arrive((last + 1, scale)).x for scale in scales}

    # The graph ----------------------------------------------------------------------------------

    def _arrive(self, cell: Cell) -> Signal:
        """The sum over every edge that ends in ``cell``."""
        layer, scale = cell
        count, _, height, width = self.images.shape
        if layer == -1:
            return Signal(self._stem(self.images), [True] * count)
        channels = self.state["stem.third.1.conv.weight"].shape[0] * 2**scale
        side = 4 * 2**scale
        total = self.images.new_zeros(count, channels, height // side, width // side)
        present = [False] * count
        for kind, shift in SHIFT.items():
            source = (layer - 1, scale - shift)
            if (*source, kind) in self.edges:
                signal = self.send(source)[kind]
                total = total + signal.x
                present = [a or b for a, b in zip(present, signal.present)]
        return Signal(total, present)

    def _send(self, cell: Cell) -> dict[str, Signal]:
        """What ``cell`` sends along each of its edges, decided image by image."""
        got = self.arrive(cell)
        kinds = [kind for kind in ORDER if (*cell, kind) in self.edges]
        prefix = "cells.initial" if cell[0] == -1 else f"cells.{cell[0]}_{cell[1]}"
        alpha = self._gate(f"{prefix}.gate", got.x, len(kinds))
        masked = [a if here else torch.zeros_like(a) for a, here in zip(alpha, got.present)]
        alpha = torch.stack(masked)
        h = sum(self._operation(f"{prefix}.operations.{i}", i, got.x) for i in self._numbers())
        sent = {}
        for column, kind in enumerate(kinds):
            self.gates[(*cell, kind)] = alpha[:, column]
            y = self._transition(f"{prefix}.transitions.{kind}.project", kind, F.relu(h))
            pairs = [
                self._send_one(kind, got, n, y=y[n], alpha=alpha[n], column=column)
                for n in range(len(alpha))
            ]
            sent[kind] = Signal(torch.stack([x for x, _ in pairs]), [here for _, here in pairs])
        return sent

    def _send_one(
        self, kind: str, got: Signal, n: int, *, y: Tensor, alpha: Tensor, column: int
    ) -> tuple[Tensor, bool]:
        """The signal of image n along one edge, and whether the edge delivers anything."""
        values = alpha.tolist()
        zeros = torch.zeros_like(y)
        if not got.present[n]:
            return zeros, False
        if not any(value > 0 for value in values):
            return (got.x[n], True) if kind == "keep" else (zeros, False)
        if values[column] > 0:
            return alpha[column] * y, True
        return zeros, self.rule == "released"

    def _numbers(self) -> range:
        return range(len(self.operations))

    # The formulas -------------------------------------------------------------------------------

    def _norm(self, name: str, x: Tensor) -> Tensor:
        mean, var = self.state[f"{name}.running_mean"], self.state[f"{name}.running_var"]
        if self.batch_statistics:
            mean = x.mean(dim=(0, 2, 3))
            var = ((x - mean[:, None, None]) ** 2).mean(dim=(0, 2, 3))
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        scaled = (x - mean[:, None, None]) / (var + 1e-5).sqrt()[:, None, None]
        return scaled * weight[:, None, None] + bias[:, None, None]

    def _conv(self, name: str, x: Tensor, *, stride: int = 1, dilation: int = 1) -> Tensor:
        """A convolution that keeps the size (for stride 1); depthwise if the weight says so."""
        weight = self.state[f"{name}.conv.weight"]
        groups = x.shape[1] // weight.shape[1]
        padding = dilation * (weight.shape[-1] - 1) // 2
        return F.conv2d(x, weight, None, stride, padding, dilation, groups)

    def _conv_norm(self, name: str, x: Tensor, *, stride: int = 1) -> Tensor:
        return self._norm(f"{name}.norm", self._conv(name, x, stride=stride))

    def _stem(self, images: Tensor) -> Tensor:
        weight = self.state["stem.first.conv.weight"]
        x = F.conv2d(images, weight, None, 2, self.stem_padding)
        x = F.relu(self._norm("stem.first.norm", x))
        x = F.relu(self._conv_norm("stem.second.1", self._conv("stem.second.0", x)))
        return F.relu(self._conv_norm("stem.third.1", self._conv("stem.third.0", x, stride=2)))

    def _gate(self, name: str, x: Tensor, num_edges: int) -> Tensor:
        """alpha (N, k) of W2 * avgpool(ReLU(BN(W1 * X))) + b."""
        if self.activation == "fixed":
            return x.new_ones(len(x), num_edges)
        if self.small:
            size = [max(1, side // 4) for side in x.shape[-2:]]
            x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
        pooled = F.relu(self._conv_norm(f"{name}.squeeze", x)).mean(dim=(2, 3))
        weight, bias = self.state[f"{name}.predict.weight"], self.state[f"{name}.predict.bias"]
        g = pooled @ weight[:, :, 0, 0].T + bias
        if self.activation == "softmax":
            return g.exp() / g.exp().sum(dim=1, keepdim=True)
        if self.activation == "sigmoid":
            return 1 / (1 + (-g).exp())
        return g.tanh().clamp(min=0)

    def _transition(self, name: str, kind: str, x: Tensor) -> Tensor:
        if kind == "keep":
            return x
        if kind == "down":
            return F.relu(self._conv_norm(name, x, stride=2))
        y = F.relu(self._conv_norm(name, x))
        size = [2 * side for side in y.shape[-2:]]
        return F.interpolate(y, size=size, mode="bilinear", align_corners=False)

    def _operation(self, name: str, index: int, x: Tensor) -> Tensor:
        operation = self.operations[index]
        if operation in SEPARABLE:
            _, repeats, dilation = SEPARABLE[operation]
            for i in range(repeats):
                x = self._conv(f"{name}.{2 * i}", x, dilation=dilation)
                x = self._conv_norm(f"{name}.{2 * i + 1}", x)
                x = F.relu(x) if i + 1 < repeats else x
            return x
        if operation in ("bottleneck", "mb_conv_3x3"):
            x = F.relu(self._conv_norm(f"{name}.0", x))
            x = F.relu(self._conv_norm(f"{name}.1", x))
            return self._conv_norm(f"{name}.2", x)
        if operation == "conv_3x3":
            return self._conv_norm(name, x)
        if operation == "max_pool_3x3":
            return F.max_pool2d(x, 3, stride=1, padding=1)
        if operation == "avg_pool_3x3":
            return F.avg_pool2d(x, 3, stride=1, padding=1)
        assert operation == "identity", operation
        return x
