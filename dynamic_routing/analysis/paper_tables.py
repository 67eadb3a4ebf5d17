"""Every figure of the papers that needs no training, recomputed from this project's networks.

Sources: Li et al. 2020 (Tables 1, 2, 3, 6 and 7), Csaba et al. 2022 (dimensions of A(x), the
detection backbone), and, marked "released code", figures measured by running the authors' public
code. Costs are in the papers' convention (``paper``), for 1024 x 2048 where nothing else is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from dynamic_routing.routing import (
    GateSpec,
    RoutingNetwork,
    RoutingSpace,
    SegmentationDecoder,
)
from dynamic_routing.routing.cost import GIGA, CostModel, count_parameters, head_work
from dynamic_routing.routing.subnetworks import read_subgraph

CITYSCAPES = (1024, 2048)
VOC = (512, 512)
COCO = (800, 800)
CITYSCAPES_CLASSES = 19
MEGA = 1e6
FIXED = GateSpec("fixed")


@dataclass(frozen=True)
class TableRow:
    """One figure: ours beside the papers'.

    Attributes:
        row: which line of which table.
        quantity: what is counted.
        unit: its unit.
        ours: recomputed here.
        reference: as published or measured by the released code.
    """

    row: str
    quantity: str
    unit: str
    ours: float
    reference: float

    @property
    def difference(self) -> float:
        """Relative difference in %."""
        return 100 * (self.ours / self.reference - 1)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Segmentor:
    """A weightless segmentation network of the papers."""

    network: RoutingNetwork
    decoder: SegmentationDecoder

    def parameters_m(self) -> float:
        """Parameters of backbone and head, in millions."""
        return (count_parameters(self.network) + count_parameters(self.decoder)) / MEGA

    def gflops(self, size: tuple[int, int] = CITYSCAPES) -> float:
        """All gates open, in the papers' convention."""
        cost = CostModel(self.network, convention="paper", fixed={"head": head_work(self.decoder)})
        return cost.open_cost(*size) / GIGA


def segmentor(space: RoutingSpace, **options: Any) -> Segmentor:
    """The segmentation network of width 64 over a space, on the ``meta`` device."""
    with torch.device("meta"):
        network = RoutingNetwork(space, **options)
        channels = [network.channels(scale) for scale in space.scales]
        decoder = SegmentationDecoder(channels, CITYSCAPES_CLASSES, norm=nn.BatchNorm2d)
    return Segmentor(network, decoder)


def _pair(row: str, net: Segmentor, gflops: float, parameters: float) -> Iterator[TableRow]:
    """Cost and parameters of one line."""
    yield TableRow(row, "cost", "GFLOPs", net.gflops(), gflops)
    yield TableRow(row, "parameters", "M", net.parameters_m(), parameters)


def _released_rows() -> Iterator[TableRow]:
    grid = RoutingSpace.grid
    small = GateSpec(small=True)
    full16, full33 = segmentor(grid(16)), segmentor(grid(33))
    yield from _pair("released code: 16 layers, full gate", full16, 119.491, 17.785)
    yield from _pair(
        "released code: 16 layers, small gate", segmentor(grid(16), gate=small), 103.676, 17.785
    )
    yield from _pair(
        "released code: 16 layers, no gate", segmentor(grid(16), gate=FIXED), 102.622, 15.262
    )
    yield from _pair("released code: 33 layers, full gate", full33, 246.028, 38.872)
    for name, operation, gflops, parameters in (
        ("SepConv once", "sep_conv_3x3", 83.772, 12.645),
        ("SepConv three times", "sep_conv_3x3_x3", 155.210, 22.925),
        ("MBConv", "mb_conv_3x3", 325.64, 48.147),
    ):
        net = segmentor(grid(16), operations=(operation, "identity"))
        yield from _pair(f"released code: {name}, full gate", net, gflops, parameters)
    full_768 = CostModel(full16.network, convention="paper").full_expected(768, 768)
    yield TableRow(
        "released code: space at 768x768, every gate 1", "expected cost", "MFLOPs",
        full_768 / MEGA, 26891.7,
    )  # fmt: skip
    yield TableRow("Table 7: Layer16, 512x512", "cost", "GFLOPs", full16.gflops(VOC), 14.9)
    yield TableRow("Table 7: Layer33, 512x512", "cost", "GFLOPs", full33.gflops(VOC), 30.8)


def _cell_rows() -> Iterator[TableRow]:
    rows = {
        "BottleNeck": ("bottleneck", 1134.8, 203.9),
        "MBConv": ("mb_conv_3x3", 323.8, 48.2),
        "SepConv 3x3": ("sep_conv_3x3", 81.4, 12.6),
        "SepConv 3x3 x2": ("sep_conv_3x3_x2", 119.5, 17.8),
        "SepConv 3x3 x3": ("sep_conv_3x3_x3", 153.8, 22.9),
    }
    for name, (operation, gflops, parameters) in rows.items():
        net = segmentor(RoutingSpace.grid(16), operations=(operation, "identity"))
        yield from _pair(f"Table 2: {name}", net, gflops, parameters)


def _gate_rows() -> Iterator[TableRow]:
    rows = {
        "Fix": (FIXED, 103.1, 15.3),
        "Softmax": (GateSpec("softmax"), 120.0, 17.8),
        "Sigmoid": (GateSpec("sigmoid"), 120.0, 17.8),
        "max(0, Tanh)": (GateSpec(), 119.5, 17.8),
    }
    for name, (gate, gflops, parameters) in rows.items():
        net = segmentor(RoutingSpace.grid(16), gate=gate)
        yield from _pair(f"Table 3: {name}", net, gflops, parameters)


def _classic_rows() -> Iterator[TableRow]:
    rows = {
        "FCN-32s": ("fcn_32s", 35.1, 2.9),
        "DeepLabV3": ("deeplab_v3", 42.5, 3.7),
        "U-Net": ("unet", 53.9, 6.1),
        "HRNetV2": ("hrnet_v2", 62.5, 5.4),
        "Auto-DeepLab": ("auto_deeplab", 33.1, 2.5),
    }
    for name, (subgraph, gflops, parameters) in rows.items():
        space = read_subgraph(subgraph, num_scales=4)
        yield from _pair(f"Table 1: {name}", segmentor(space, gate=FIXED), gflops, parameters)


def _detection_rows() -> Iterator[TableRow]:
    space = RoutingSpace.grid(17, num_output_scales=5)
    with torch.device("meta"):
        network = RoutingNetwork(space)
    gflops = CostModel(network, convention="paper").open_cost(*COCO) / GIGA
    row = "DivDR: 17-layer detection backbone, 800x800"
    yield TableRow(row, "cost", "GFLOPs", gflops, 38.34)
    yield TableRow(row, "parameters", "M", count_parameters(network) / MEGA, 22.01)
    segmentation = RoutingSpace.grid(16)
    for name, found, reference in (
        ("segmentation, 16 layers", segmentation.activation_dim, 183),
        ("detection, 17 layers", space.activation_dim, 198),
    ):
        yield TableRow(f"DivDR: A(x), {name}", "dimensions", "", found, reference)
    for name, found, reference in (
        ("segmentation, 16 layers", len(segmentation.activation_columns), 147),
        ("detection, 17 layers", len(space.activation_columns), 159),
    ):
        yield TableRow(f"DivDR: gate outputs, {name}", "count", "", found, reference)


SECTIONS: tuple[Callable[[], Iterator[TableRow]], ...] = (
    _released_rows,
    _classic_rows,
    _cell_rows,
    _gate_rows,
    _detection_rows,
)


def paper_tables() -> list[TableRow]:
    """All rows, in the order of :data:`SECTIONS`."""
    return [row for section in SECTIONS for row in section()]
