"""analyze_cost.py: numbers that sum up, costs of images recomputed independently, user errors."""

from __future__ import annotations

import json
from types import SimpleNamespace

import analyze_cost
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from torch.utils.flop_counter import FlopCounterMode

from dynamic_routing.data.catalog import register_datasets
from dynamic_routing.data.cityscapes import generate_cityscapes
from dynamic_routing.engine.loaders import build_test_loader
from dynamic_routing.modeling.cost import model_cost
from tests.modeling.builders import QUICK, SMALL, small_config, small_model
from tests.modeling.detectors import QUICK_RCNN

VAL = "cityscapes_fine_sem_seg_val"
SIZE = (64, 128)
LAYERS = ("MODEL.DYNAMIC_ROUTING.SPACE.NUM_LAYERS", "5", "DATALOADER.NUM_WORKERS", "0")
TEST_SIZE = ("INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "128")
OPTIONS = (*LAYERS, *TEST_SIZE, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "19")


@pytest.fixture
def catalogues(monkeypatch, tmp_path):
    """Detectron2's catalogues, put back; no data sets unless a test brings them."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "none"))
    saved = dict(DatasetCatalog.data), dict(MetadataCatalog.data)
    yield
    DatasetCatalog.data, MetadataCatalog.data = saved


def run(capsys, *arguments, overrides=OPTIONS, config=QUICK):
    """Exit status, stdout and stderr."""
    command = ["--config-file", config, *arguments, *SMALL, *overrides]
    status = analyze_cost.main([str(a) for a in command])
    found = capsys.readouterr()
    return SimpleNamespace(status=status, out=found.out, err=found.err)


def test_report_is_json_of_plain_numbers_that_sum_up(capsys):
    result = run(capsys, "--input-size", 64, 128, "--json")
    assert result.status == 0
    report = json.loads(result.out)
    model = small_model(*OPTIONS).eval()
    assert report["input_size"] == [64, 128] and report["images"] is None
    assert report["parameters"] == sum(p.numel() for p in model.parameters())
    assert report["parameters"] == sum(report["parameters_by_part"].values())
    assert set(report["parameters_by_part"]) == {"backbone", "sem_seg_head"}
    for convention in ("macs", "paper"):
        cost = model_cost(model, convention=convention)
        numbers = report[convention]
        assert {type(v) for v in numbers.values()} == {float}
        assert numbers["open"] == cost.open_cost(*SIZE)
        assert numbers["closed"] == cost.closed_cost(*SIZE) < numbers["open"]
        parts = [part[convention] for part in report["parts"].values()]
        assert sum(parts) == pytest.approx(numbers["open"], rel=1e-12) and min(parts) >= 0
    assert {"stem", "gates", "up", "keep", "down", "head"} <= set(report["parts"])


def test_open_macs_are_those_that_pytorch_counts(capsys):
    report = json.loads(run(capsys, "--input-size", 64, 128, "--json").out)
    model = small_model(*OPTIONS).eval()
    for name, parameter in model.backbone.named_parameters():
        if ".gate.predict." in name:
            torch.nn.init.constant_(parameter, 3.0 if name.endswith("bias") else 0.0)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model([{"image": torch.zeros(3, *SIZE)}])
    assert report["macs"]["open"] == counter.get_total_flops() / 2


def test_detector_is_counted_with_and_without_its_neck_and_heads(capsys):
    command = ["--config-file", str(QUICK_RCNN), "--input-size", "800", "800", "--json"]
    assert analyze_cost.main([*command, "MODEL.DEVICE", "cpu"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {"neck", "rpn"} <= set(report["parts"])
    for convention in ("macs", "paper"):
        numbers = report[convention]
        assert 0 < numbers["backbone"] < numbers["open"]
        heads = sum(report["parts"][name][convention] for name in ("neck", "rpn"))
        assert numbers["backbone"] + heads == pytest.approx(numbers["open"])


def test_default_size_is_that_of_cityscapes(capsys):
    report = json.loads(run(capsys, "--json").out)
    assert report["input_size"] == [1024, 2048]


def test_report_as_text(capsys):
    result = run(capsys, "--input-size", 64, 128)
    assert result.status == 0 and result.out.startswith("parameters: ")
    assert "at 64 x 128" in result.out and "all gates closed" in result.out


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Street scenes and a checkpoint of a model whose images take different routes."""
    root = tmp_path_factory.mktemp("analysis")
    generate_cityscapes(root, counts={"train": 1, "val": 7}, size=SIZE, seed=1)
    for seed in range(20):
        model = small_model(*OPTIONS, seed=seed, bias=0.0).eval()
        if len(set(recomputed(model, root))) > 2:
            break
    torch.save({"model": model.state_dict()}, root / "model.pth")
    return SimpleNamespace(root=root, model=model, weights=root / "model.pth")


def recomputed(model, root):
    """GMACs of each image, counted by PyTorch while the model runs."""
    saved = dict(DatasetCatalog.data), dict(MetadataCatalog.data)
    try:
        register_datasets(root)
        inputs = [x for images in build_test_loader(small_config(*OPTIONS), VAL) for x in images]
    finally:
        DatasetCatalog.data, MetadataCatalog.data = saved
    costs = []
    for one_input in inputs:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model([one_input])
        costs.append(counter.get_total_flops() / 2 / 1e9)
    return costs


@pytest.mark.slow
def test_costs_of_images_are_those_that_pytorch_counts(capsys, data, catalogues, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(data.root))
    result = run(
        capsys, "--weights", data.weights, "--dataset", VAL, "--input-size", 64, 128, "--json"
    )
    assert result.status == 0, result.err
    images = json.loads(result.out)["images"]
    costs = recomputed(data.model, data.root)
    assert len(set(costs)) > 2 and images["images"] == len(costs) == 7
    assert images["average"] == pytest.approx(sum(costs) / 7, rel=1e-9)
    assert images["maximum"] == pytest.approx(max(costs), rel=1e-9)
    assert images["minimum"] == pytest.approx(min(costs), rel=1e-9)
    assert images["milliseconds"] > 0
    histogram = images["histogram"]
    assert sum(count for *_, count in histogram) == 7
    assert histogram[0][0] == images["minimum"] and histogram[-1][1] == images["maximum"]
    for low, high, count in histogram[:-1]:
        inside = [low * (1 - 1e-12) <= cost < high * (1 - 1e-12) for cost in costs]
        assert count == sum(inside)


def test_text_on_images(capsys, data, catalogues, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(data.root))
    result = run(capsys, "--weights", data.weights, "--dataset", VAL)
    assert result.status == 0 and "7 images: average " in result.out


@pytest.mark.slow
def test_weights_change_no_count(capsys, data, catalogues, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(data.root))
    without = json.loads(run(capsys, "--json").out)
    arguments = ("--weights", data.weights, "--dataset", VAL, "--json")
    assert {**json.loads(run(capsys, *arguments).out), "images": None} == without


ERRORS = {
    "no config": ({"config": "/none/x.yaml"}, "config file /none/x.yaml does not exist"),
    "weights alone": ({"arguments": ("--weights", "w.pth")}, "both or neither"),
    "data alone": ({"arguments": ("--dataset", VAL)}, "both or neither"),
    "no height": ({"arguments": ("--input-size", 0, 64)}, "must be at least 64, got [0, 64]"),
    "no width": ({"arguments": ("--input-size", 64, 0)}, "must be at least 64, got [64, 0]"),
    "small": ({"arguments": ("--input-size", 64, 63)}, "must be at least 64, got [64, 63]"),
    "key": ({"overrides": ("SEEED", "1")}, "unknown config key SEEED (did you mean SEED?)"),
    "half": ({"overrides": ("SEED",)}, "pairs of KEY VALUE"),
    "cell": (
        {"overrides": ("MODEL.DYNAMIC_ROUTING.OPERATIONS", "['conv_33']")},
        "cell operation 'conv_33' is unknown",
    ),
}


@pytest.mark.parametrize("what", ERRORS)
def test_user_error_is_one_line_and_status_2(capsys, catalogues, what):
    options, message = ERRORS[what]
    changes = {name: value for name, value in options.items() if name != "arguments"}
    result = run(capsys, *options.get("arguments", ()), **changes)
    assert result.status == 2 and result.out == ""
    (line,) = result.err.splitlines()
    assert line.startswith("analyze_cost.py: error: ") and message in line


@pytest.mark.parametrize(
    ("name", "message"),
    [("cityscapes_fine_sem_seg_vol", "did you mean cityscapes_fine_sem_seg_val"),
     (VAL, "does not exist")],
)  # fmt: skip
def test_unknown_and_missing_data_sets_are_explained(capsys, catalogues, data, name, message):
    result = run(capsys, "--weights", data.weights, "--dataset", name)
    assert result.status == 2 and result.out == ""
    assert result.err.startswith("analyze_cost.py: error: data sets cannot be read")
    assert message in result.err and "Traceback" not in result.err


def test_missing_and_foreign_weights_are_one_line(capsys, catalogues, data, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(data.root))
    torch.save({"model": small_model().state_dict()}, tmp_path / "other.pth")
    for weights, message in [("/none/model.pth", "does not exist"),
                             (tmp_path / "other.pth", "of another network")]:  # fmt: skip
        result = run(capsys, "--weights", weights, "--dataset", VAL)
        assert result.status == 2
        (line,) = [x for x in result.err.splitlines() if x.startswith("analyze_cost.py: error: ")]
        assert message in line and "Traceback" not in result.err


def test_missing_arguments_are_status_2(capsys):
    with pytest.raises(SystemExit, match="2"):
        analyze_cost.main([])
    assert "--config-file" in capsys.readouterr().err
