"""analyze_logs, compare_runs and visualize_data: their files, and errors in one line."""

from __future__ import annotations

import json
import subprocess
import sys

import analyze_logs
import compare_runs
import pytest
import torch
import visualize_data
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from dynamic_routing.data.cityscapes import generate_cityscapes
from tests.modeling.builders import CONFIGS, REPOSITORY, small_model

SMOKE = CONFIGS / "quick" / "dr_c_cityscapes_smoke.yaml"


@pytest.fixture
def run(tmp_path):
    """What a training leaves."""
    folder = tmp_path / "run"
    folder.mkdir()
    rows = [{"iteration": i, "total_loss": 3.0 - i} for i in range(3)]
    (folder / "metrics.json").write_text("\n".join(map(json.dumps, rows)))
    (folder / "results.json").write_text(json.dumps({"sem_seg": {"mIoU": 12.5}}))
    torch.save({"model": small_model().state_dict()}, folder / "model_final.pth")
    return folder


def test_curves_and_their_numbers_are_written(run, tmp_path, capsys):
    target = tmp_path / "new" / "curves.png"
    assert analyze_logs.main([str(run), "--output", str(target)]) == 0
    with Image.open(target) as picture:
        assert picture.width > 1000
    lines = target.with_suffix(".csv").read_text().splitlines()
    assert lines == [
        "run,key,iteration,value",
        *(f"run,total_loss,{i},{3.0 - i}" for i in range(3)),
    ]
    assert analyze_logs.main([str(run), "--list"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "total_loss"


@pytest.mark.parametrize("suffix", [".md", ".csv"])
def test_table_is_printed_and_written(run, tmp_path, capsys, suffix):
    target = tmp_path / f"runs{suffix}"
    assert compare_runs.main([str(run), "--output", str(target)]) == 0
    printed = capsys.readouterr().out
    assert "| run | 12.5 | n/a |" in printed and "- run: GMACs avg" in printed
    text = target.read_text()
    assert text == printed if suffix == ".md" else text.startswith("run,mIoU,GMACs avg")


WRONG = {
    "analyze_logs.py": [
        (["{run}"], "give --output FILE.png, or --list"),
        (["{run}", "--output", "x.jpg"], "must end in .png, got x.jpg"),
        (["{run}", "--output", "x.png", "--keys", "total_lost"], "they have total_loss"),
        (["none", "--output", "x.png"], "none holds no metrics.json"),
    ],
    "compare_runs.py": [
        (["none"], "run none is no folder"),
        (["{run}", "--output", "x.txt"], "must end in .csv or .md, got x.txt"),
    ],
    "visualize_data.py": [
        (["--config-file", "none.yaml", "--output", "o"], "config file none.yaml does not exist"),
        (["--config-file", str(SMOKE), "--output", "o", "--seed", "-1"], "must not be negative"),
    ],
}


@pytest.mark.parametrize("name", WRONG)
def test_user_error_is_one_line_and_status_2(run, tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    tool = {"a": analyze_logs, "c": compare_runs, "v": visualize_data}[name[0]]
    for arguments, message in WRONG[name]:
        assert tool.main([a.format(run=run) for a in arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"{name}: error: ") and message in line
    assert not list(tmp_path.glob("x.*")) and not (tmp_path / "o").exists()


def test_samples_and_their_list_are_written(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    generate_cityscapes(tmp_path, counts={"train": 2, "val": 1}, size=(64, 128), seed=1)
    saved = dict(DatasetCatalog.data), dict(MetadataCatalog.data)
    command = ["--config-file", str(SMOKE), "--count", "1", "--output", str(tmp_path / "out")]
    try:
        assert visualize_data.main([*command, "INPUT.SEM_SEG_CROP", "[48,96]"]) == 0
    finally:
        DatasetCatalog.data, MetadataCatalog.data = saved
    (entry,) = json.loads((tmp_path / "out" / "samples.json").read_text())["samples"]
    assert (entry["height"], entry["width"], entry["seed"]) == (48, 96, 0)
    assert (tmp_path / "out" / entry["picture"]).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize("name", WRONG)
def test_tool_explains_itself(name):
    command = [sys.executable, str(REPOSITORY / "tools" / name), "--help"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0 and "usage:" in result.stdout


@pytest.mark.parametrize(
    ("tool", "work", "arguments"),
    [
        (analyze_logs, "draw", ["a"]),
        (compare_runs, "read_rows", ["a"]),
        (visualize_data, "draw_all", ["--config-file", str(SMOKE), "--output", "o"]),
    ],
)
def test_interruption_is_one_line(monkeypatch, capsys, tool, work, arguments):
    def interrupted(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(tool, "prepare_datasets", lambda cfg: None, raising=False)
    monkeypatch.setattr(tool, work, interrupted)
    assert tool.main(arguments) == 130
    assert capsys.readouterr().err == f"{tool.__name__}.py: interrupted\n"
