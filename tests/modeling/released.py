"""The released code's network by the book: its names, its lists of cells, its order of gates.

It shares no code with the package and none with ``tests/routing/reference.py``: layers are lists of
cells, every image carries a flag whether a cell exists for it (spec sections 1, 2, 4 and 7).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

STATISTICS = ("weight", "bias", "running_mean", "running_var")
REPEATS = {
    "sep_conv_3x3": (3, 1, 1),
    "sep_conv_3x3_x2": (3, 2, 1),
    "sep_conv_3x3_x3": (3, 3, 1),
    "sep_conv_5x5_x2": (5, 2, 1),
    "sep_conv_7x7_x2": (7, 2, 1),
    "dil_conv_3x3": (3, 1, 2),
    "dil_conv_5x5": (5, 1, 2),
}


def scales_of(layers: int) -> list[int]:
    """Cells of each layer: 2, 3, 4, 4, ..."""
    return [min(layer + 2, 4) for layer in range(layers)]


def kinds_of(layer: int, scale: int, layers: int) -> list[str]:
    """Outgoing edges of a cell in the released order; layer -1 is the initial cell."""
    if layer == -1:
        return ["keep", "down"]
    if layer == layers - 1:
        return ["keep"]
    return ["keep", *["up"] * (scale > 0), *["down"] * (scale < 3)]


# Names and shapes -------------------------------------------------------------------------------


def block(name: str, shape: tuple[int, ...], *, norm: bool = True) -> dict[str, tuple[int, ...]]:
    """A convolution's weight and its norm."""
    found = {f"{name}.weight": shape}
    if norm:
        found |= {f"{name}.norm.{part}": (shape[0],) for part in STATISTICS}
        found[f"{name}.norm.num_batches_tracked"] = ()
    return found


def operation_shapes(name: str, operation: str, c: int) -> dict[str, tuple[int, ...]]:
    """Tensors of one cell operation."""
    shapes: dict[str, tuple[int, ...]] = {}
    if operation in REPEATS:
        kernel, repeats, _ = REPEATS[operation]
        for i in range(repeats):
            shapes |= block(f"{name}.{2 * i}", (c, 1, kernel, kernel), norm=False)
            shapes |= block(f"{name}.{2 * i + 1}", (c, c, 1, 1))
    elif operation == "conv_3x3":
        shapes |= block(name, (c, c, 3, 3))
    elif operation == "bottleneck":
        m = c // 4
        shapes |= block(f"{name}.0", (m, c, 1, 1)) | block(f"{name}.1", (m, m, 3, 3))
        shapes |= block(f"{name}.2", (c, m, 1, 1))
    elif operation == "mb_conv_3x3":
        m = 4 * c
        shapes |= block(f"{name}.0", (m, c, 1, 1)) | block(f"{name}.1", (m, 1, 3, 3))
        shapes |= block(f"{name}.2", (c, m, 1, 1))
    return shapes


def shapes_of(
    layers: int,
    *,
    width: int,
    operations: Sequence[str] = ("sep_conv_3x3_x2", "identity"),
    gate: bool = True,
    strengths: bool = False,
    classes: int = 5,
) -> dict[str, tuple[int, ...]]:
    """Every tensor of a released network, by name."""
    stem, middle = "backbone.stem.stem_", 64
    shapes = block(f"{stem}1", (middle, 3, 3, 3))
    shapes |= block(f"{stem}2.0", (middle, 1, 3, 3), norm=False)
    shapes |= block(f"{stem}2.1", (middle, middle, 1, 1))
    shapes |= block(f"{stem}3.0", (middle, 1, 3, 3), norm=False)
    shapes |= block(f"{stem}3.1", (width, middle, 1, 1))
    cells = {(-1, 0): "backbone.init_layer"}
    for layer, count in enumerate(scales_of(layers)):
        cells |= {(layer, s): f"backbone.all_cell_list.{layer}.{s}" for s in range(count)}
    for (layer, scale), name in cells.items():
        c, kinds = width * 2**scale, kinds_of(layer, scale, layers)
        for k, operation in enumerate(operations):
            shapes |= operation_shapes(f"{name}.cell_ops._ops.{k}.op", operation, c)
        if "up" in kinds:
            shapes |= block(f"{name}.res_up.1", (c // 2, c, 1, 1))
        if "down" in kinds:
            shapes |= block(f"{name}.res_down.1", (2 * c, c, 1, 1))
        if gate:
            shapes |= block(f"{name}.gate_conv_beta.0", (c // 2, c, 1, 1))
            shapes[f"{name}.gate_conv_beta.2.weight"] = (len(kinds), c // 2, 1, 1)
            shapes[f"{name}.gate_conv_beta.2.bias"] = (len(kinds),)
        elif strengths:
            shapes[f"{name}.gate_weights_beta"] = (1, len(kinds), 1, 1)
    for s in range(4):
        c = width * 2**s
        out = c if s == 0 else c // 2
        shapes |= block(f"sem_seg_head.layer_decoder_list.{s}", (out, c, 1, 1))
    shapes["sem_seg_head.predictor.weight"] = (classes, width, 3, 3)
    shapes["sem_seg_head.predictor.bias"] = (classes,)
    return shapes


def random_state(
    shapes: dict[str, tuple[int, ...]], *, seed: int = 0, bias: float = -0.3
) -> dict[str, Tensor]:
    """Random weights and statistics, gates that differ between images."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
            continue
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        if name.endswith("gate_weights_beta"):
            state[name] = torch.ones(shape, dtype=torch.float64)
        elif name.endswith("running_var"):
            state[name] = 1 + noise.tanh() / 2
        elif ".norm." in name:
            state[name] = 0.2 * noise + (name.endswith("norm.weight"))
        elif name.endswith("gate_conv_beta.2.bias"):
            state[name] = bias + noise
        else:
            fan_in = noise[0].numel() if noise.ndim > 1 else 1
            state[name] = noise * (2 / fan_in) ** 0.5
    return state


# Forward ----------------------------------------------------------------------------------------


class Released:
    """The network of a released state dict.

    Args:
        state: weights by released name.
        layers: of cells.
        operations: of every cell.
        small: whether gates look at a quarter of the size.
        batch_statistics: normalise by the batch (training).
    """

    def __init__(
        self,
        state: dict[str, Tensor],
        layers: int,
        *,
        operations: Sequence[str] = ("sep_conv_3x3_x2", "identity"),
        small: bool = False,
        batch_statistics: bool = False,
    ) -> None:
        self.state = state
        self.layers = layers
        self.operations = operations
        self.small = small
        self.batch = batch_statistics
        self.gates: dict[tuple[int, int, str], Tensor] = {}

    def norm(self, name: str, x: Tensor) -> Tensor:
        weight, bias, mean, var = (self.state[f"{name}.norm.{part}"] for part in STATISTICS)
        if self.batch:
            mean, var = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), unbiased=False)
        scale = weight / (var + 1e-5).sqrt()
        return x * scale[:, None, None] + (bias - mean * scale)[:, None, None]

    def conv(self, name: str, x: Tensor, *, stride: int = 1, dilation: int = 1) -> Tensor:
        weight = self.state[f"{name}.weight"]
        groups = x.shape[1] // weight.shape[1]
        pad = dilation * (weight.shape[-1] // 2)
        return F.conv2d(x, weight, None, stride, pad, dilation, groups)

    def cbr(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        return self.norm(name, self.conv(name, x, stride=stride)).relu()

    def operation(self, name: str, operation: str, x: Tensor) -> Tensor:
        if operation in REPEATS:
            _, repeats, dilation = REPEATS[operation]
            for i in range(repeats):
                x = self.conv(f"{name}.{2 * i}", x, dilation=dilation)
                x = self.norm(f"{name}.{2 * i + 1}", self.conv(f"{name}.{2 * i + 1}", x))
                x = x.relu() if i + 1 < repeats else x
            return x
        if operation in ("bottleneck", "mb_conv_3x3"):
            x = self.cbr(f"{name}.1", self.cbr(f"{name}.0", x))
            return self.norm(f"{name}.2", self.conv(f"{name}.2", x))
        if operation == "conv_3x3":
            return self.norm(name, self.conv(name, x))
        if operation == "max_pool_3x3":
            return F.max_pool2d(x, 3, 1, 1)
        return F.avg_pool2d(x, 3, 1, 1) if operation == "avg_pool_3x3" else x

    def gate(self, name: str, x: Tensor, count: int) -> Tensor:
        """(N, count) in the released order."""
        if f"{name}.gate_conv_beta.2.bias" not in self.state:
            return x.new_ones(len(x), count)
        if self.small:
            size = [max(1, side // 4) for side in x.shape[-2:]]
            x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
        pooled = self.cbr(f"{name}.gate_conv_beta.0", x).mean(dim=(2, 3))
        weight = self.state[f"{name}.gate_conv_beta.2.weight"][:, :, 0, 0]
        bias = self.state[f"{name}.gate_conv_beta.2.bias"]
        return torch.tanh(pooled @ weight.T + bias).clamp(min=0)

    def cell(
        self, layer: int, scale: int, x: Tensor, here: list[bool]
    ) -> dict[str, tuple[Tensor, list[bool]]]:
        """What a cell sends, and for which images it sends something."""
        name = "backbone.init_layer" if layer < 0 else f"backbone.all_cell_list.{layer}.{scale}"
        kinds = kinds_of(layer, scale, self.layers)
        gates = self.gate(name, x, len(kinds))
        h = sum(
            self.operation(f"{name}.cell_ops._ops.{k}.op", operation, x)
            for k, operation in enumerate(self.operations)
        )
        signal = {"keep": h.relu()}
        if "up" in kinds:
            y = self.cbr(f"{name}.res_up.1", h.relu())
            size = [2 * side for side in y.shape[-2:]]
            signal["up"] = F.interpolate(y, size=size, mode="bilinear", align_corners=False)
        if "down" in kinds:
            signal["down"] = self.cbr(f"{name}.res_down.1", h.relu(), 2)
        for column, kind in enumerate(kinds):
            exists = torch.tensor(here, dtype=gates.dtype)
            self.gates[(layer, scale, kind)] = gates[:, column] * exists
        sent: dict[str, tuple[list[Tensor], list[bool]]] = {kind: ([], []) for kind in kinds}
        for n, present in enumerate(here):
            any_open = bool((gates[n].detach() > 0).any())
            for column, kind in enumerate(kinds):
                y, delivers = gates[n, column] * signal[kind][n], any_open
                if not any_open:
                    y, delivers = (x[n], True) if kind == "keep" else (0 * y, False)
                sent[kind][0].append(y if present else 0 * y)
                sent[kind][1].append(present and delivers)
        return {kind: (torch.stack(images), flags) for kind, (images, flags) in sent.items()}

    def features(self, images: Tensor) -> list[tuple[Tensor, list[bool]]]:
        """The outputs of the last layer, fine to coarse, and for which images they exist."""
        stem = "backbone.stem.stem_"
        x = F.conv2d(images, self.state[f"{stem}1.weight"], None, 2, 0)
        x = self.norm(f"{stem}1", x).relu()
        x = self.cbr(f"{stem}2.1", self.conv(f"{stem}2.0", x))
        x = self.cbr(f"{stem}3.1", self.conv(f"{stem}3.0", x, stride=2))
        before = [self.cell(-1, 0, x, [True] * len(images))]
        for layer, count in enumerate(scales_of(self.layers)):
            now = []
            for scale in range(count):
                parts = []
                for kind, source in (("down", scale - 1), ("keep", scale), ("up", scale + 1)):
                    if 0 <= source < len(before) and kind in before[source]:
                        parts.append(before[source][kind])
                total = sum(part[0] for part in parts)
                exists = [any(flags) for flags in zip(*(part[1] for part in parts))]
                now.append(self.cell(layer, scale, total, exists))
            before = now
        return [sent["keep"] for sent in before]

    def logits(self, features: list[tuple[Tensor, list[bool]]]) -> Tensor:
        """(N, classes, H, W) of images that reach every output or any finer one."""
        below: Tensor | None = None
        present = [False] * len(features[0][0])
        for scale in reversed(range(4)):
            x, flags = features[scale]
            present = [a or b for a, b in zip(present, flags)]
            x = x if below is None else x + below
            x = self.cbr(f"sem_seg_head.layer_decoder_list.{scale}", x)
            x = x * torch.tensor(present, dtype=x.dtype)[:, None, None, None]
            size = [2 * side for side in x.shape[-2:]]
            below = x
            if scale:
                below = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
        assert below is not None
        weight = self.state["sem_seg_head.predictor.weight"]
        y = F.conv2d(below, weight, self.state["sem_seg_head.predictor.bias"], padding=1)
        size = [4 * side for side in y.shape[-2:]]
        return F.interpolate(y, size=size, mode="bilinear", align_corners=False)
