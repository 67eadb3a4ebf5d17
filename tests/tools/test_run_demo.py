"""run_demo.py: its arguments, and (slow) that a run shows a network that has learned."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import run_demo

from tests.modeling.builders import REPOSITORY

DEMO = REPOSITORY / "tools" / "run_demo.py"


def call(*arguments, timeout=600):
    """The demo as a program."""
    command = [sys.executable, str(DEMO), *(str(a) for a in arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout)


@pytest.mark.parametrize("arguments", [["--fast"], ["--output"], ["file.yaml"]])
def test_wrong_arguments_are_status_2(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        run_demo.main(arguments)
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize("job", [*run_demo.QUICK, *run_demo.FULL], ids=lambda job: job.config)
def test_job_names_a_config_that_exists(job):
    assert (REPOSITORY / job.config).is_file() and job.train > job.val > 0


def test_data_that_the_demo_did_not_make_are_left_alone(tmp_path):
    precious = tmp_path / "data" / "cityscapes" / "precious.txt"
    precious.parent.mkdir(parents=True)
    precious.write_text("mine")
    result = call("--quick", "--output", tmp_path)
    assert result.returncode == 2 and precious.read_text() == "mine"
    (line,) = result.stderr.splitlines()
    assert line.startswith("run_demo.py: error: ") and "cityscapes" in line


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Stands for train_net.py: notes its arguments and exits with ``status``."""
    found = SimpleNamespace(run=tmp_path / "run", job=run_demo.QUICK[0])

    def write(status=0):
        text = f"import sys\nprint(' '.join(sys.argv[1:]))\nprint('eta: now')\nsys.exit({status})\n"
        (tmp_path / "train_net.py").write_text(text)
        monkeypatch.setattr(run_demo, "ROOT", tmp_path)

    found.write = write
    write()
    return found


def started_with(program):
    return (program.run / "console.txt").read_text().splitlines()[-2]


def test_new_run_starts_and_shows_its_progress(program, capsys):
    run_demo.train(program.job, program.run)
    assert "--resume" not in started_with(program)
    assert f"OUTPUT_DIR {program.run}" in started_with(program)
    assert "eta: now" in capsys.readouterr().out


def test_killed_run_is_continued(program):
    program.run.mkdir()
    (program.run / run_demo.MARKER).touch()
    (program.run / "last_checkpoint").write_text("model_0000019.pth")
    (program.run / "model_0000019.pth").write_text("weights")
    run_demo.train(program.job, program.run)
    assert "--resume" in started_with(program)
    assert (program.run / "model_0000019.pth").exists()


def test_complete_run_is_done_again(program):
    program.run.mkdir()
    for name in (run_demo.MARKER, "last_checkpoint", "results.json", "model_final.pth"):
        (program.run / name).write_text("{}")
    run_demo.train(program.job, program.run)
    assert "--resume" not in started_with(program)
    assert not (program.run / "model_final.pth").exists()


def test_run_that_the_demo_did_not_make_is_left_alone(program):
    program.run.mkdir()
    for name in ("results.json", "model_final.pth"):
        (program.run / name).write_text("{}")
    with pytest.raises(RuntimeError, match="run was not made by this demo; choose another"):
        run_demo.train(program.job, program.run)
    assert {p.name for p in program.run.iterdir()} == {"results.json", "model_final.pth"}


def test_failed_training_names_its_log(program):
    program.write(status=3)
    with pytest.raises(RuntimeError, match=r"training failed \(log: .*run/console.txt\)"):
        run_demo.train(program.job, program.run)


def check_output(output):
    """What a finished demo leaves."""
    metrics = json.loads((output / "metrics.json").read_text())
    assert set(metrics) == {"trained", "untrained", "instances"}
    trained, untrained = (metrics[k]["sem_seg/mIoU"] for k in ("trained", "untrained"))
    assert math.isfinite(trained) and trained >= 3 * untrained > 0
    assert metrics["trained"]["routing/images"] == run_demo.QUICK[0].val
    found = metrics["instances"]["trained"]
    assert found["routing/images"] == run_demo.QUICK[1].val
    # Weak, for a training of half a minute: Mask R-CNN has begun to find things, which an
    # untrained one does not at all.
    assert found["bbox/AP50"] > 0.3 and found["segm/AP50"] > 0.3
    assert metrics["instances"]["untrained"].get("bbox/AP50", 0) < 0.03
    for folder in (output / "pictures", output / "instances" / "pictures"):
        for name in ("easy", "hard"):
            content = (folder / f"{name}.png").read_bytes()
            assert content.startswith(b"\x89PNG") and len(content) > 5_000
    page = (output / "report.html").read_text(encoding="utf-8")
    for foreign in ("http://", "https://", "<script", 'src="/', "file:"):
        assert foreign not in page, foreign
    assert page.count("data:image/png;base64,") >= 20
    for heading in (
        "Summary",
        "Over time",
        "Cost per image",
        "Routes in A-space",
        "Clusters",
        "Images",
        "Frequency of the edges",
        "Classes",
        "Confusion matrix",
        "Settings",
    ):
        assert page.count(f"<h3>{heading}</h3>") == 2
    assert len(list((output / "report_data").glob("*/costs.csv"))) == 2
    for job in run_demo.QUICK:
        assert f"<h2>{job.title}</h2>" in page
    # A detector of half a minute may find nothing with confidence in any image.
    reasons = set(re.findall("not available: ([^<]*)", page))
    assert reasons <= {"best and worst images: no two images have different scores"}
    assert not [p for p in output.rglob("*") if p.name.endswith(".tmp")]


@pytest.mark.slow
def test_quick_demo_learns_and_can_be_run_again(tmp_path):
    for _ in range(2):
        start = time.time()
        result = call("--quick", "--output", tmp_path)
        assert result.returncode == 0, result.stdout + result.stderr
        check_output(tmp_path)
        assert (tmp_path / "report.html").stat().st_mtime >= start - 1
        assert (tmp_path / "run" / "metrics.json").stat().st_mtime >= start - 1
    assert f"report: {tmp_path / 'report.html'}" in result.stdout


@pytest.mark.slow
def test_demo_whose_training_was_killed_is_continued(tmp_path):
    generate = "from dynamic_routing.data.cityscapes import generate_cityscapes as g; import sys; "
    job = run_demo.QUICK[0]
    counts = {"train": job.train, "val": job.val}
    generate += f"g(sys.argv[1], counts={counts}, size={job.size}, seed=1)"
    environment = {**os.environ, "DETECTRON2_DATASETS": str(tmp_path / "data")}
    subprocess.run([sys.executable, "-c", generate, str(tmp_path / "data")], check=True,
                   cwd=REPOSITORY)  # fmt: skip
    run = tmp_path / "run"
    run.mkdir()
    (run / run_demo.MARKER).touch()
    command = [sys.executable, str(REPOSITORY / "train_net.py"), "--config-file"]
    command += [str(REPOSITORY / job.config), "OUTPUT_DIR", str(run)]
    command += ["SOLVER.CHECKPOINT_PERIOD", "20"]
    with (run / "console.txt").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        deadline = time.time() + 300
        while not (run / "last_checkpoint").exists() and process.poll() is None:
            assert time.time() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (run / "last_checkpoint").exists() and not (run / "results.json").exists()
    result = call("--quick", "--output", tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    console = (run / "console.txt").read_text()
    assert "Starting training from iteration 20" in console
    lines = [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]
    assert max(line["iteration"] for line in lines) == 60
    check_output(tmp_path)
