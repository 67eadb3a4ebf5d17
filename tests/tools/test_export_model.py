"""tools/export_model.py and tools/pretraining_study.py on the command line."""

from __future__ import annotations

import csv
import json

import export_model
import pretraining_study
import pytest
import torch

from dynamic_routing.engine import export
from dynamic_routing.engine.checkpoint import RoutingCheckpointer
from tests.modeling.builders import small_config, small_model


@pytest.fixture
def run(tmp_path):
    """A run's folder."""
    overrides = ("MODEL.DYNAMIC_ROUTING.GATE.ACTIVATION", "fixed")
    RoutingCheckpointer(small_model(*overrides, seed=1), str(tmp_path)).save("model_final")
    (tmp_path / "config.yaml").write_text(small_config(*overrides).dump())
    return tmp_path


def call(*arguments):
    return export_model.main([str(a) for a in arguments])


def test_errors_are_one_line_and_status_2(run, tmp_path, capsys):
    size = ("--form", "static", "--size", 64, 64)
    assert call(run, *size, "--output", run / "m.txt") == 2
    assert call(run / "none.pth", *size, "--output", run / "m.pt2") == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("export_model.py: error: the file must end in .pt2 or .onnx")
    assert "none.pth does not exist" in second


@pytest.mark.slow
def test_file_is_written_and_described(run, capsys):
    output = run / "m.pt2"
    assert call(run, "--form", "static", "--size", 64, 64, "--static-size", "--output", output) == 0
    assert "images -> scores, gates; height and width 64x64; differs" in capsys.readouterr().out
    assert len(torch.export.load(output).module()(torch.rand(1, 3, 64, 64))) == 2


def test_failing_export_leaves_no_file(run, monkeypatch, capsys):
    def fail(*_arguments, **_options):
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(torch.export, "export", fail)
    options = ("--form", "static", "--size", 64, 64, "--output", run / "m.pt2")
    assert call(run, *options) == 2
    err = capsys.readouterr().err
    assert "cannot express this network: first line; --static-size fixes" in err
    assert "second" not in err and not (run / "m.pt2").exists()


def test_missing_onnx_packages_are_named(run, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(export.ExportError, match=r"pip install 'dynamic_routing\[export\]'"):
        export._onnx(None, None, None)


def test_study_compares_equal_runs(tmp_path, monkeypatch, capsys):
    asked = []

    def train(config, run, overrides, *keys):
        asked.append((run.name, overrides))
        if "classification" in str(config) or "imagenet" in config.name:
            return [95.0, 100.0]
        start = overrides[overrides.index("MODEL.WEIGHTS") + 1]
        return [20.0 if start else 15.0]

    monkeypatch.setattr(pretraining_study, "train", train)
    for name in ("generate_patches", "generate_cityscapes"):
        monkeypatch.setattr(pretraining_study, name, lambda *a, **k: None)
    monkeypatch.setenv("DETECTRON2_DATASETS", "")
    tmp_path.mkdir(exist_ok=True)
    arguments = ["--output", str(tmp_path), "--seeds", "1", "2", "--iterations", "7"]
    assert pretraining_study.main(arguments) == 0
    rows = list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
    assert [row["gain"] for row in rows] == ["5.0", "5.0"]
    assert "top-1 95.00 %" in capsys.readouterr().out
    scratch, pretrained = asked[1][1], asked[2][1]
    assert [a for a, b in zip(scratch, pretrained) if a != b] == [""]
    assert json.dumps(scratch).count("SOLVER.MAX_ITER") == 1
