"""Cost reports: plain numbers, parts that sum up, and what is said about a data set."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from dynamic_routing.analysis.cost_report import (
    HISTOGRAM_BINS,
    cost_report,
    format_images,
    format_report,
    image_costs,
)
from dynamic_routing.evaluation.gates_file import GatesFile
from dynamic_routing.routing import RoutingSpace
from dynamic_routing.routing.cost import CostModel
from tests.routing.builders import small_network

SPACE = RoutingSpace.grid(3)
SIZE = (64, 128)


@pytest.fixture(scope="module")
def models():
    network = small_network(SPACE)
    return {name: CostModel(network, convention=name) for name in ("macs", "paper")}


@pytest.fixture(scope="module")
def report(models):
    return cost_report(models, models, parameters={"backbone": 1_600, "head": 700}, size=SIZE)


def test_report_is_plain_json(report):
    assert json.loads(json.dumps(report)) == report
    assert report["input_size"] == [64, 128]
    assert report["parameters"] == 2300
    assert report["parameters_by_part"] == {"backbone": 1600, "head": 700}


@pytest.mark.parametrize("convention", ["macs", "paper"])
def test_report_holds_the_costs_of_both_conventions(report, models, convention):
    model = models[convention]
    found = report[convention]
    assert found == {
        "open": model.open_cost(*SIZE),
        "closed": model.closed_cost(*SIZE),
        "expected": model.full_expected(*SIZE),
        "backbone": model.open_cost(*SIZE),
    }
    assert 0 < found["closed"] < found["open"] and 0 < found["expected"] < found["open"]
    assert sum(part[convention] for part in report["parts"].values()) == found["open"]


def test_report_as_text_names_every_part(report):
    text = format_report(report)
    lines = text.splitlines()
    assert lines[0] == "parameters: 0.002 M (backbone 0.002 M, head 0.001 M)"
    assert "at 64 x 128" in text and "GMACs" in text and "GFLOPs (papers)" in text
    for part, cost in report["parts"].items():
        (line,) = [line for line in lines if line.startswith(f"| {part} ")]
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[1:] == [f"{cost[name] / 1e9:.4f}" for name in ("macs", "paper")]
    for key, title in [("open", "all gates open"), ("closed", "all gates closed")]:
        (line,) = [line for line in lines if line.startswith(f"| {title}")]
        assert f"{report['macs'][key] / 1e9:.4f}" in line


def gates_file(costs, milliseconds=None):
    count = len(costs)
    return GatesFile(
        space=SPACE,
        gates=torch.zeros(count, len(SPACE.edges)),
        rule="absent",
        file_names=tuple(f"{i}.png" for i in range(count)),
        image_sizes=np.full((count, 2), 64),
        milliseconds=np.array(milliseconds or [1.0] * count),
        image_ids=(None,) * count,
        costs={"gmacs": np.array(costs), "paper_gflops": 2 * np.array(costs)},
    )


def test_costs_of_images_are_summed_up():
    values = [1.0, 4.0, 2.0, 2.5, 4.0, 1.2]
    found = image_costs(gates_file(values, [1, 2, 3, float("nan"), 5, 9]))
    assert (found.images, found.minimum, found.maximum) == (6, 1.0, 4.0)
    assert found.average == pytest.approx(sum(values) / 6)
    assert found.milliseconds == pytest.approx(4.0)  # of the five that were timed
    assert image_costs(gates_file(values), cost="paper_gflops").maximum == 8.0


def test_histogram_counts_every_image_once():
    generator = np.random.default_rng(1)
    values = generator.uniform(2, 7, 57).tolist()
    histogram = image_costs(gates_file(values)).histogram
    assert len(histogram) == HISTOGRAM_BINS
    assert sum(count for *_, count in histogram) == 57
    assert histogram[0][0] == min(values) and histogram[-1][1] == max(values)
    for i, (low, high, count) in enumerate(histogram):
        inside = [low <= v < high or (i == HISTOGRAM_BINS - 1 and v == high) for v in values]
        assert count == sum(inside)
        assert i + 1 == HISTOGRAM_BINS or high == histogram[i + 1][0]


@pytest.mark.parametrize("values", [[3.0], [3.0, 3.0, 3.0]])
def test_images_of_one_cost(values):
    found = image_costs(gates_file(values))
    assert found.average == found.minimum == found.maximum == 3.0
    assert sum(count for *_, count in found.histogram) == len(values)
    assert f"{len(values)} images" in format_images(found)


def test_text_on_images_shows_the_histogram(report):
    found = image_costs(gates_file([1.0, 1.0, 1.0, 1.0, 2.0]))
    text = format_report(report, found)
    assert "5 images: average 1.2, maximum 2, minimum 1 GMACs; 1.0 ms an image" in text
    bars = [line.count("#") for line in format_images(found).splitlines()[1:]]
    assert bars == [40, *[0] * 8, 10]
