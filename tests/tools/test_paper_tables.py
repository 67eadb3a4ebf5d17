"""paper_tables.py prints every figure of the papers that needs no training."""

from __future__ import annotations

import json
import subprocess
import sys
from unittest import mock

import paper_tables
import pytest
from torch import nn

from dynamic_routing.analysis.paper_tables import TableRow

# The quick tests hold the same figures one by one (tests/routing/test_cost.py and its neighbours).
pytestmark = pytest.mark.slow

KEYS = {"row", "quantity", "unit", "ours", "reference"}


@pytest.fixture(scope="module")
def rows():
    """What ``--json`` prints, by row and quantity; built without initial values, for speed."""
    with (
        mock.patch.object(nn.init, "kaiming_normal_", lambda weight, **_options: weight),
        mock.patch("builtins.print") as printed,
    ):
        assert paper_tables.main(["--json"]) == 0
    (line,) = printed.call_args.args
    listed = json.loads(line)
    assert isinstance(listed, list) and all(set(row) == KEYS for row in listed)
    found = {(row["row"], row["quantity"]): row for row in listed}
    assert len(found) == len(listed)
    return found


# spec, measured with the released code: GFLOPs at 1024 x 2048 and millions of parameters.
RELEASED = {
    "16 layers, full gate": (119.491, 17.785),
    "16 layers, small gate": (103.676, 17.785),
    "16 layers, no gate": (102.622, 15.262),
    "33 layers, full gate": (246.028, 38.872),
}


@pytest.mark.parametrize("name", RELEASED)
def test_released_code_agrees_to_a_hundredth_and_a_thousandth(rows, name):
    gflops, parameters = RELEASED[name]
    cost = rows[f"released code: {name}", "cost"]
    count = rows[f"released code: {name}", "parameters"]
    assert (cost["unit"], cost["reference"]) == ("GFLOPs", gflops)
    assert (count["unit"], count["reference"]) == ("M", parameters)
    assert cost["ours"] == pytest.approx(gflops, abs=0.01)
    assert count["ours"] == pytest.approx(parameters, abs=0.001)


CELLS = {
    "SepConv 3x3": (83.772, 12.645),
    "SepConv 3x3 x2": (119.491, 17.785),
    "SepConv 3x3 x3": (155.210, 22.925),
    "MBConv": (325.64, 48.147),
}


@pytest.mark.parametrize("name", CELLS)
def test_cells_agree_with_the_released_code(rows, name):
    gflops, parameters = CELLS[name]
    assert rows[f"Table 2: {name}", "cost"]["ours"] == pytest.approx(gflops, abs=0.01)
    assert rows[f"Table 2: {name}", "parameters"]["ours"] == pytest.approx(parameters, abs=0.001)


CLASSIC = {
    "FCN-32s": (35.1, 2.9),
    "DeepLabV3": (42.5, 3.7),
    "U-Net": (53.9, 6.1),
    "HRNetV2": (62.5, 5.4),
    "Auto-DeepLab": (33.1, 2.5),
}


@pytest.mark.parametrize("name", CLASSIC)
def test_classic_architectures_agree_within_2_percent(rows, name):
    for quantity, reference in zip(("cost", "parameters"), CLASSIC[name]):
        row = rows[f"Table 1: {name}", quantity]
        assert row["reference"] == reference
        assert row["ours"] == pytest.approx(reference, rel=0.02)


def test_space_at_the_training_crop(rows):
    row = rows["released code: space at 768x768, every gate 1", "expected cost"]
    assert row["unit"] == "MFLOPs" and round(row["ours"], 1) == row["reference"] == 26891.7


def test_cost_at_512_rounds_to_table_7(rows):
    found = [rows[f"Table 7: Layer{n}, 512x512", "cost"] for n in (16, 33)]
    assert [row["reference"] for row in found] == [14.9, 30.8]
    assert [round(row["ours"], 1) for row in found] == [14.9, 30.8]
    assert [round(row["ours"], 2) for row in found] == [14.94, 30.75]


def test_gates_of_table_3_come_within_1_percent(rows):
    for name in ("Fix", "Softmax", "Sigmoid", "max(0, Tanh)"):
        for quantity in ("cost", "parameters"):
            row = rows[f"Table 3: {name}", quantity]
            assert row["ours"] == pytest.approx(row["reference"], rel=0.01), name


def test_detection_backbone(rows):
    name = "DivDR: 17-layer detection backbone, 800x800"
    cost, parameters = rows[name, "cost"], rows[name, "parameters"]
    assert (cost["reference"], parameters["reference"]) == (38.34, 22.01)
    assert cost["ours"] == pytest.approx(38.34, abs=0.01)
    assert parameters["ours"] == pytest.approx(22.01, abs=0.001)


@pytest.mark.parametrize(
    ("name", "quantity", "number"),
    [
        ("A(x), segmentation, 16 layers", "dimensions", 183),
        ("A(x), detection, 17 layers", "dimensions", 198),
        ("gate outputs, segmentation, 16 layers", "count", 147),
        ("gate outputs, detection, 17 layers", "count", 159),
    ],
)
def test_dimensions_of_divdr(rows, name, quantity, number):
    row = rows[f"DivDR: {name}", quantity]
    assert row["ours"] == row["reference"] == number


def test_markdown_holds_every_row(rows):
    listed = [TableRow(**row) for row in rows.values()]
    lines = paper_tables.markdown(listed).splitlines()
    assert len(lines) == 2 + len(listed)
    for line, row in zip(lines[2:], listed):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[:2] == [row.row, row.quantity]
        assert float(cells[2].split()[0]) == pytest.approx(row.ours, rel=1e-6)
        assert float(cells[3].split()[0]) == pytest.approx(row.reference)
        assert cells[4] == f"{row.difference:+.2f} %"


@pytest.mark.slow
def test_command_prints_json_and_nothing_else(rows):
    command = [sys.executable, paper_tables.__file__, "--json"]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert json.loads(result.stdout) == list(rows.values())
