"""Trainings as child processes: how they are called, what is told of them, how they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dynamic_routing.engine.child_trainings import (
    CONSOLE,
    ChildTrainings,
    last_line,
    train_once,
)

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import sys, time
print(" ".join(sys.argv[1:]), flush=True)
if "fail" in sys.argv:
    print("it is too dark", flush=True)
    sys.exit(3)
while "wait" in sys.argv:
    time.sleep(0.05)
"""


@pytest.fixture
def trainings(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    return ChildTrainings(program, tmp_path / "c.yaml", folders=tmp_path / "runs", jobs=2)


def test_each_gets_its_overrides_and_its_folder(trainings, tmp_path):
    ended = list(trainings.run({"a": ["KEY", "1"], "b": []}))
    assert {e.name: e.problem for e in ended} == {"a": "", "b": ""}
    assert all(e.seconds > 0 for e in ended)
    console = (tmp_path / "runs" / "a" / CONSOLE).read_text()
    folder = tmp_path / "runs" / "a"
    assert console == f"--config-file {tmp_path}/c.yaml --resume KEY 1 OUTPUT_DIR {folder}\n"


def test_failure_is_its_status_and_last_line(trainings):
    problems = {e.name: e.problem for e in trainings.run({"a": ["fail"], "b": []})}
    assert problems == {"a": "status 3: it is too dark", "b": ""}


def test_console_is_appended_to(trainings, tmp_path):
    for _ in range(2):
        list(trainings.run({"a": []}))
    assert len((tmp_path / "runs" / "a" / CONSOLE).read_text().splitlines()) == 2


def test_leaving_early_ends_the_rest_and_starts_no_more(trainings, tmp_path):
    start = time.monotonic()
    running = trainings.run({"a": [], "b": ["wait"], "c": ["wait"], "d": ["wait"]})
    assert next(running).name == "a"
    running.close()
    assert time.monotonic() - start < 30
    assert not (tmp_path / "runs" / "d" / CONSOLE).exists()


PARENT = """
import pathlib, sys
from dynamic_routing.engine.child_trainings import ChildTrainings

folder = pathlib.Path(sys.argv[1])
trainings = ChildTrainings(folder / "program.py", folder / "c", folders=folder / "runs", jobs=1)
list(trainings.run({"a": ["wait"]}))
"""


def test_folder_of_a_training_whose_parent_was_killed_is_left_alone(trainings, tmp_path):
    (tmp_path / "program.py").write_text("import os\nprint(os.getpid(), flush=True)\n" + PROGRAM)
    console = tmp_path / "runs" / "a" / CONSOLE
    with subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], cwd=ROOT) as parent:
        wait_for(lambda: console.exists() and "wait" in console.read_text())
        parent.kill()
    child = int(console.read_text().split()[0])
    try:
        (refused,) = trainings.run({"a": []})
        assert refused.problem == f"another training is at work in {console.parent}"
    finally:
        os.kill(child, signal.SIGKILL)
    wait_for(lambda: next(iter(trainings.run({"a": []}))).problem == "")


def wait_for(condition):
    """Until it holds; half a minute at most."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_no_jobs_are_refused(tmp_path):
    with pytest.raises(ValueError, match="--jobs must be at least 1, got 0"):
        ChildTrainings(tmp_path, tmp_path, folders=tmp_path, jobs=0)


def test_last_line_skips_blank_ones(tmp_path):
    (tmp_path / "log").write_bytes(b"one\ntwo \xff\n \n\n")
    assert last_line(tmp_path / "log") == "two \ufffd"
    (tmp_path / "log").write_bytes(b"")
    assert last_line(tmp_path / "log") == "it printed nothing"


def test_single_training_prints_into_its_folder(trainings, tmp_path):
    folder = tmp_path / "runs" / "a"
    for options in (["KEY", "1"], ["KEY", "2"]):  # without results it starts anew
        train_once(tmp_path / "program.py", tmp_path / "c.yaml", folder, options)
    assert (folder / CONSOLE).read_text() == f"--config-file {tmp_path}/c.yaml KEY 2\n"


def test_single_training_that_has_results_is_not_done_again(trainings, tmp_path):
    (tmp_path / "results.json").write_text("{}")
    train_once(tmp_path / "program.py", tmp_path / "c.yaml", tmp_path, ["fail"])
    assert not (tmp_path / CONSOLE).exists()


def test_failed_single_training_names_its_log(trainings, tmp_path):
    with pytest.raises(RuntimeError, match=r"training failed \(log: .*/a/console\.txt\)"):
        train_once(tmp_path / "program.py", tmp_path / "c.yaml", tmp_path / "a", ["fail"])
