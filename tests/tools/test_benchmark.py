"""tools/benchmark.py at a tiny size."""

from __future__ import annotations

import json

import benchmark
import pytest


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
