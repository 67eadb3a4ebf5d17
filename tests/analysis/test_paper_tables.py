"""The rows of the papers' tables: how they are built, and the figures that stand in no row."""

from __future__ import annotations

from dataclasses import fields
from unittest import mock

import pytest
import torch
from torch import nn

from dynamic_routing.analysis import paper_tables
from dynamic_routing.analysis.paper_tables import FIXED, VOC, TableRow, segmentor
from dynamic_routing.routing import RoutingSpace
from dynamic_routing.routing.subnetworks import CLASSIC, read_subgraph


@pytest.fixture(autouse=True)
def _no_initial_values():
    """Initial values of weightless networks take most of the time and change nothing."""
    with mock.patch.object(nn.init, "kaiming_normal_", lambda weight, **_options: weight):
        yield


@pytest.mark.parametrize(("layers", "gflops"), [(16, 14.94), (33, 30.75)])
def test_cost_at_512_is_that_of_table_7(layers, gflops):
    assert segmentor(RoutingSpace.grid(layers)).gflops(VOC) == pytest.approx(gflops, abs=0.005)


# Li et al. 2020, Table 1.
TABLE_1 = {
    "fcn_32s": (35.1, 2.9),
    "deeplab_v3": (42.5, 3.7),
    "unet": (53.9, 6.1),
    "hrnet_v2": (62.5, 5.4),
    "auto_deeplab": (33.1, 2.5),
}


@pytest.mark.parametrize("name", CLASSIC)
def test_classic_architectures_come_within_2_percent(name):
    gflops, parameters = TABLE_1[name]
    net = segmentor(read_subgraph(name, num_scales=4), gate=FIXED)
    assert net.gflops() == pytest.approx(gflops, rel=0.02)
    assert net.parameters_m() == pytest.approx(parameters, rel=0.02)


@pytest.mark.parametrize(
    ("operation", "gflops", "parameters"),
    [("sep_conv_3x3", 83.772, 12.645), ("sep_conv_3x3_x3", 155.210, 22.925)],
)
def test_repeats_of_the_published_cell(operation, gflops, parameters):
    net = segmentor(RoutingSpace.grid(16), operations=(operation, "identity"))
    assert net.gflops() == pytest.approx(gflops, abs=0.01)
    assert net.parameters_m() == pytest.approx(parameters, abs=0.001)


def test_networks_take_no_memory():
    net = segmentor(RoutingSpace.grid(2))
    assert {p.device for m in (net.network, net.decoder) for p in m.parameters()} == {
        torch.device("meta")
    }


def test_difference_is_relative_to_the_reference_in_percent():
    row = TableRow("r", "cost", "GFLOPs", ours=102.0, reference=100.0)
    assert row.difference == pytest.approx(2.0)
    assert TableRow("r", "cost", "GFLOPs", 50.0, 200.0).difference == pytest.approx(-75.0)
    names = [field.name for field in fields(TableRow)]
    assert list(row.to_dict()) == names == ["row", "quantity", "unit", "ours", "reference"]
    assert row.to_dict() == {
        "row": "r", "quantity": "cost", "unit": "GFLOPs", "ours": 102.0, "reference": 100.0,
    }  # fmt: skip


def test_tables_are_the_sections_one_after_the_other(monkeypatch):
    first, second, third = (TableRow(name, "q", "", 1.0, 1.0) for name in "abc")
    sections = (lambda: iter([first, second]), lambda: iter([third]))
    monkeypatch.setattr(paper_tables, "SECTIONS", sections)
    assert paper_tables.paper_tables() == [first, second, third]
