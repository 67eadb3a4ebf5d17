"""train_net.py ended by a signal: every process gone, one line, and --resume goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from dynamic_routing.data.cityscapes import generate_cityscapes
from dynamic_routing.engine.run_files import numbered_lines
from tests.engine.processes import is_running
from tests.test_train_processes import TWO, call, command, environment

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc"),
]
END_WITHIN = 30
"""Seconds; measured 2 to 6 on a busy machine."""
ENDLESS = (
    "SOLVER.MAX_ITER 100000 SOLVER.CHECKPOINT_PERIOD 2 TEST.EVAL_PERIOD 2 DATALOADER.NUM_WORKERS 2 "
    "MODEL.DYNAMIC_ROUTING.NORM BN SOLVER.ACCUMULATION_STEPS 1"
).split()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    generate_cityscapes(root, counts={"train": 4, "val": 2}, size=(64, 128), seed=1)
    return root


def listen_again():
    """A test run in the background of a script ignores SIGINT, and hands that on."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def processes_of(session):
    """Ids of all that run in a session."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def struck(data, output, *flags, name, whole_group):
    """Start a training, signal it in its midst; the finished process and those it left."""
    with (output / "stderr.txt").open("w") as file:
        job = subprocess.Popen(
            command(output, *flags, overrides=ENDLESS),
            env=environment(data),
            stdout=subprocess.DEVNULL,
            stderr=file,
            start_new_session=True,
            preexec_fn=listen_again,
        )
    deadline = time.monotonic() + 120
    try:
        while not (output / "model_0000003.pth").exists() and time.monotonic() < deadline:
            assert job.poll() is None, (output / "stderr.txt").read_text()
            time.sleep(0.1)
        pids = processes_of(job.pid)
        assert len(pids) >= (7 if flags else 3), (output / "stderr.txt").read_text()
        (os.killpg if whole_group else os.kill)(job.pid, signal.Signals[name])
        deadline = time.monotonic() + END_WITHIN
        status = job.wait(END_WITHIN)
        while any(map(is_running, pids)) and time.monotonic() < deadline:
            time.sleep(0.1)
        return status, [pid for pid in pids if is_running(pid)]
    finally:
        with suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
        job.wait()


def assert_goes_on(data, folder, *flags):
    """Resumed, the run ends well; its newest checkpoint was whole."""
    newest = (folder / "last_checkpoint").read_text()
    done = torch.load(folder / newest, weights_only=True)["iteration"] + 1
    # Without workers: started processes spawn theirs, which takes long and is no matter here.
    more = ("SOLVER.MAX_ITER", str(done + 1), "DATALOADER.NUM_WORKERS", "0")
    resumed = call(data, folder, *flags, "--resume", overrides=[*ENDLESS, *more])
    assert resumed.returncode == 0, resumed.stdout[-2000:] + resumed.stderr[-2000:]
    assert f"Starting training from iteration {done}" in resumed.stdout
    iterations = [i for i, _ in numbered_lines((folder / "metrics.json").read_text())]
    assert len(set(iterations)) == len(iterations) and iterations[-1] == done + 1
    assert not [path.name for path in folder.rglob("*.tmp")]


@pytest.mark.parametrize(
    ("flags", "name", "whole_group", "status"),
    [
        ((), "SIGINT", True, 130),
        ((), "SIGTERM", False, 143),
        (TWO, "SIGINT", True, 130),
        (TWO, "SIGTERM", False, 143),
    ],
    ids=["one Ctrl-C", "one SIGTERM", "two Ctrl-C", "two SIGTERM"],
)
def test_signal_ends_the_run_in_one_line(data, tmp_path, flags, name, whole_group, status):
    found, left = struck(data, tmp_path, *flags, name=name, whole_group=whole_group)
    assert found == status and left == []
    error = (tmp_path / "stderr.txt").read_text()
    last = f"train_net.py: interrupted by {name}; --resume goes on from the last checkpoint"
    assert error.strip().splitlines()[-1] == last, error[-2000:]
    assert "Traceback" not in error
    if (name == "SIGINT") == bool(flags):
        assert_goes_on(data, tmp_path, *flags)


def test_killed_parent_leaves_nobody_behind(data, tmp_path):
    found, left = struck(data, tmp_path, *TWO, name="SIGKILL", whole_group=False)
    assert found == -signal.SIGKILL and left == []
