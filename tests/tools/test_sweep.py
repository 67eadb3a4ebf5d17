"""sweep.py: trains what is missing, goes on after failures, and says user errors in one line."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import sweep

from dynamic_routing.data.cityscapes import generate_cityscapes
from tests.modeling.builders import CONFIGS, REPOSITORY

CONFIG = CONFIGS / "quick" / "divdr_a_cityscapes_smoke.yaml"
MARGIN = "MODEL.DYNAMIC_ROUTING.DIVDR.MARGIN"
WEIGHT = "MODEL.DYNAMIC_ROUTING.DIVDR.WEIGHT"

FAKE = """
import json, os, pathlib, sys, time
words = sys.argv[sys.argv.index("--resume") + 1:]
given = dict(zip(words[::2], words[1::2]))
folder, margin = pathlib.Path(given["OUTPUT_DIR"]), float(given["MARGIN_KEY"])
with open(folder.parent.parent / "calls.txt", "a") as file:
    file.write(folder.name + "\\n")
print("started", flush=True)
if margin == 7:
    sys.exit("train_net.py: error: out of memory")
while margin == 9:
    time.sleep(0.05)
if margin != 8:
    results = {"sem_seg": {"mIoU": 40 + margin + int(given["SEED"])},
               "routing": {"gmacs_avg": 3 - margin}}
    (folder / "results.json").write_text(json.dumps(results))
""".replace("MARGIN_KEY", MARGIN)


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A sweep whose trainings answer at once: margin 7 fails, 8 leaves nothing, 9 never ends."""
    program = tmp_path / "fake_train_net.py"
    program.write_text(FAKE)
    monkeypatch.setattr(sweep, "TRAIN_NET", program)
    # A second each; tests/analysis draws.
    monkeypatch.setattr("dynamic_routing.analysis.sweep_folder.encode_png", lambda figure: b"PNG")
    monkeypatch.setattr("dynamic_routing.analysis.sweep_folder.sweep_figure", lambda table: None)
    return SimpleNamespace(output=tmp_path / "sweep", calls=tmp_path / "calls.txt", program=program)


def call(study, *more, config=CONFIG):
    return sweep.main(["--config-file", str(config), "--output", str(study.output), *more])


def calls(study):
    return study.calls.read_text().split() if study.calls.exists() else []


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_point_is_trained_with_every_seed(study, capsys):
    assert call(study, f"{MARGIN}=0,1.0", f"{WEIGHT}=0.1,0.5", "--seeds", "1", "3") == 0
    assert len(calls(study)) == len(set(calls(study))) == 8
    assert {p.name for p in study.output.iterdir() if p.is_dir()} == set(calls(study))
    assert calls(study)[0] == "DIVDR.MARGIN=0_DIVDR.WEIGHT=0.1_SEED=1"
    rows = read(study.output / "table.csv")
    assert [(r[MARGIN], r[WEIGHT], r["sem_seg/mIoU"], r["seeds"]) for r in rows] == [
        ("0", "0.1", "42", "2"), ("0", "0.5", "42", "2"),
        ("1", "0.1", "43", "2"), ("1", "0.5", "43", "2"),
    ]  # fmt: skip
    output = capsys.readouterr().out
    assert "8 runs in" in output and "[8/8] DIVDR.MARGIN=1" in output and "left" in output
    assert (study.output / "plot.png").read_bytes() == b"PNG"
    assert (study.output / "table.md").read_text() in output


def test_finished_points_are_not_trained_again(study, capsys):
    assert call(study, f"{MARGIN}=0,1", "--seeds", "1") == 0
    assert call(study, f"{MARGIN}=0,1", "--seeds", "1") == 0
    assert len(calls(study)) == 2
    assert call(study, "--seeds", "1", "2", f"{MARGIN}=0,1.0,2") == 0
    assert len(calls(study)) == 6 and "6 runs in" in capsys.readouterr().out
    assert len(read(study.output / "table.csv")) == 3


def test_failed_point_is_reported_and_the_others_go_on(study, capsys):
    assert call(study, f"{MARGIN}=7,1,8") == 1
    assert len(calls(study)) == 3
    captured = capsys.readouterr()
    assert "FAILED, status 1: train_net.py: error: out of memory" in captured.out
    assert "failed: no results: results.json" in captured.err
    assert "DIVDR.MARGIN=7_SEED=1/console.txt" in captured.err
    points = read(study.output / "points.csv")
    assert ["out of memory" in p["problem"] for p in points] == [True, False, False]
    assert [p["sem_seg/mIoU"] for p in points] == ["", "42.0", ""]
    assert call(study, f"{MARGIN}=7,1,8") == 1  # tries those again, and only those
    assert len(calls(study)) == 5


def test_several_at_a_time_give_the_same_table(study):
    assert call(study, f"{MARGIN}=0,1,2,3", "--jobs", "3") == 0
    assert [r[MARGIN] for r in read(study.output / "table.csv")] == ["0", "1", "2", "3"]


def test_metric_that_no_run_has_is_named(study, capsys):
    assert call(study, f"{MARGIN}=0,1", "--metrics", "sem_seg/mIou", "routing/gmacs_avg") == 1
    error = capsys.readouterr().err
    assert "no run has the metric sem_seg/mIou (did you mean sem_seg/mIoU?)" in error
    (header, *_) = (study.output / "table.csv").read_text().splitlines()
    assert "routing/gmacs_avg" in header and "mIoU" not in header


def test_options_with_several_values_leave_the_keys_alone(study):
    more = ["--metrics", "sem_seg/mIoU", f"{MARGIN}=0,1", "--seeds", "1", "2", f"{WEIGHT}=0.1,0.2"]
    assert call(study, *more) == 0
    assert len(calls(study)) == 8


def test_single_value_goes_to_every_run_and_into_the_config_of_the_folder(study):
    assert call(study, f"{MARGIN}=0,1", "SOLVER.MAX_ITER=30") == 0
    assert set(calls(study)) == {"DIVDR.MARGIN=0_SEED=1", "DIVDR.MARGIN=1_SEED=1"}
    with pytest.raises(ValueError, match="holds a sweep with SOLVER.MAX_ITER 30, now 60"):
        call(study, f"{MARGIN}=0,1")
    assert len(calls(study)) == 2


def test_other_data_are_another_sweep(study, monkeypatch):
    assert call(study, f"{MARGIN}=0,1") == 0
    monkeypatch.setenv("DETECTRON2_DATASETS", "/elsewhere")
    with pytest.raises(ValueError, match=r"DETECTRON2_DATASETS .*, now /elsewhere"):
        call(study, f"{MARGIN}=0,1")


def test_one_at_a_time_shares_runs_with_the_grid(study):
    assert call(study, f"{MARGIN}=0,1", f"{WEIGHT}=0.3,0.5", "--one-at-a-time") == 0
    assert len(calls(study)) == 3
    assert call(study, f"{MARGIN}=0,1", f"{WEIGHT}=0.3,0.5") == 0
    assert len(calls(study)) == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["MODEL.DYNAMIC_ROUTING.DIVDR.MARGN=0,1"], "unknown config key .*did you mean .*MARGIN"),
        ([f"{MARGIN}=0,much"], "MARGIN"),
        ([f"{MARGIN}=0,-1"], "MARGIN must be at least 0, got -1"),
        ([f"{MARGIN}=0,,1"], "has an empty value"),
        ([f"{MARGIN}=1"], "nothing to sweep"),
        ([], "nothing to sweep"),
        (["margin"], "expected KEY=VALUE"),
        ([f"{MARGIN}=0,1", "--jobs", "0"], "--jobs must be at least 1, got 0"),
        ([f"{MARGIN}=0,1", "--seeds", "1", "1"], "--seeds must be different"),
        (["MODEL.DYNAMIC_ROUTING.DIVDR.NUM_CLUSTERS=1,2"], "at least 2"),
    ],
)
def test_user_errors_are_one_line_before_anything_is_trained(study, words, message):
    with pytest.raises(ValueError, match=message) as error:
        call(study, *words)
    assert "\n" not in str(error.value)
    assert not calls(study) and not study.output.exists()


def test_missing_config_and_strange_folder_are_refused(study, tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        call(study, f"{MARGIN}=0,1", config=tmp_path / "nothing.yaml")
    study.output.mkdir()
    (study.output / "thesis.txt").touch()
    with pytest.raises(ValueError, match="was not made by sweep.py"):
        call(study, f"{MARGIN}=0,1")


def environment(**more):
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", **more}


@pytest.mark.slow
def test_killed_sweep_ends_its_trainings_and_goes_on(study):
    code = (
        f"import sys; sys.path.insert(0, {str(REPOSITORY / 'tools')!r}); import pathlib, sweep\n"
        f"sweep.TRAIN_NET = pathlib.Path({str(study.program)!r})\n"
        "sweep.cli()"
    )
    words = ["--config-file", str(CONFIG), "--output", str(study.output), f"{MARGIN}=1,9"]
    with subprocess.Popen(
        [sys.executable, "-c", code, *words], env=environment(), stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 120
        while len(calls(study)) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        error = process.communicate(timeout=30)[1]
    assert process.returncode == 130 and "interrupted; the same command continues" in error
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert str(study.program) not in running
    study.program.write_text(FAKE.replace("margin == 9", "False"))
    assert call(study, f"{MARGIN}=1,9") == 0
    assert calls(study)[2:] == ["DIVDR.MARGIN=9_SEED=1"]


@pytest.mark.slow
def test_two_real_points(tmp_path):
    generate_cityscapes(tmp_path / "data", counts={"train": 4, "val": 2}, size=(64, 128), seed=1)
    small = (
        "SOLVER.MAX_ITER=8 SOLVER.IMS_PER_BATCH=2 MODEL.DYNAMIC_ROUTING.DIVDR.START_ITER=3 "
        "MODEL.DYNAMIC_ROUTING.DIVDR.PERIOD=2 MODEL.DYNAMIC_ROUTING.WIDTH=4 MODEL.DEVICE=cpu "
        "MODEL.DYNAMIC_ROUTING.SPACE.NUM_LAYERS=4 DATALOADER.NUM_WORKERS=0 INPUT.MIN_SIZE_TEST=64 "
        "INPUT.SEM_SEG_CROP=[64,128] TEST.PRECISE_BN.NUM_ITER=2"
    ).split()
    command = [sys.executable, REPOSITORY / "tools" / "sweep.py", "--config-file", CONFIG]
    command += ["--output", tmp_path / "sweep", f"{WEIGHT}=0,0.5", *small]
    run = subprocess.run(
        command,
        env=environment(DETECTRON2_DATASETS=str(tmp_path / "data")),
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    rows = read(tmp_path / "sweep" / "table.csv")
    assert [row[WEIGHT] for row in rows] == ["0", "0.5"]
    for name in ("sem_seg/mIoU", "routing/gmacs_avg", "routing/divdr_inter"):
        assert all(float(row[name]) > 0 for row in rows), name
    assert (tmp_path / "sweep" / "plot.png").stat().st_size > 1000
