"""tools/benchmark.py at a tiny size."""

from __future__ import annotations

import json

import benchmark
import pytest
import torch


def test_prints_a_table_and_writes_json(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(benchmark.networks, "resnet", lambda *_, **__: None)
    monkeypatch.setattr(
        benchmark, "candidates", lambda setting, args: _few(benchmark.networks, setting)
    )
    target = tmp_path / "b.json"
    size = ["--size", "32", "32", "--layers", "3", "--width", "4"]
    threads = ["--threads", "1", "--repeats", "1", "--batches", "1"]
    assert benchmark.main([*size, *threads, "--clock", "cpu", "--json", str(target)]) == 0
    printed = capsys.readouterr().out
    assert "threads 1" in printed and "dense definition / executor" in printed
    content = json.loads(target.read_text())
    assert content["device"] and content["rows"][0]["name"] == "executor"
    assert content["peak_gmacs_per_second"] > 0


def _few(networks, setting):
    level = networks.OPEN
    return networks.executors(setting, level, networks.level_routes(setting, level), 1)


def test_weights_need_their_config(tmp_path):
    with pytest.raises(ValueError, match="--config-file"):
        benchmark.main(["--weights", str(tmp_path / "w.pth")])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threads", "0"], "--threads must be at least 1, got 0"),
        (["--repeats", "0"], "--repeats must be at least 1, got 0"),
        (["--layers", "-1"], "--layers must be at least 1, got -1"),
        (["--batches", "1", "-2"], "--batches must be at least 1, got -2"),
        (["--training-batch", "0"], "--training-batch must be at least 1, got 0"),
        (["--device", "toaster"], "--device must be cpu or cuda, got toaster"),
        (["--json", "no/such/folder/b.json"], "no such folder: no/such/folder"),
        (["--config-file", "f.yaml"], "--config-file needs the --weights"),
        (["--size", "-32", "64"], "--size must be at least 1, got -32"),
        (["--width", "3"], "even number of channels, got 3"),
        (["--size", "33", "64"], "multiples of 16, got 33x64"),
        (["--images", "no.png"], "no.png"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_measured(arguments, message, monkeypatch):
    monkeypatch.setattr(benchmark.bench, "measure", lambda *_, **__: pytest.fail("measured"))
    with pytest.raises((ValueError, OSError), match=message) as caught:
        benchmark.main(["--layers", "2", "--width", "4", "--size", "32", "32", *arguments])
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_missing_gpu_is_named():
    with pytest.raises(ValueError, match="there is no GPU here"):
        benchmark.main(["--device", "cuda"])
