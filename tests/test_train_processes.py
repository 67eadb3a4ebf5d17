"""train_net.py with several processes, as a user starts them: by its own flag and by torchrun."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dynamic_routing.data.cityscapes import generate_cityscapes
from tests.modeling.builders import QUICK, REPOSITORY

pytestmark = pytest.mark.slow
END_WITHIN = 60
"""Seconds in which a dead rank has to end the others."""
SMALL = (
    "MODEL.DEVICE cpu MODEL.DYNAMIC_ROUTING.SPACE.NUM_LAYERS 4 MODEL.DYNAMIC_ROUTING.WIDTH 4 "
    "MODEL.DYNAMIC_ROUTING.NORM SyncBN SOLVER.MAX_ITER 2 SOLVER.IMS_PER_BATCH 4 "
    "SOLVER.ACCUMULATION_STEPS 2 DATALOADER.NUM_WORKERS 0 INPUT.MIN_SIZE_TEST 64 "
    "INPUT.MAX_SIZE_TEST 128 INPUT.SEM_SEG_CROP [64,128] MODEL.EMA.ENABLED True"
).split()
TWO = ("--num-processes", "2")
TORCHRUN = "-m torch.distributed.run --standalone --local-addr 127.0.0.1 --nproc-per-node 2".split()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    generate_cityscapes(root, counts={"train": 4, "val": 5}, size=(64, 128), seed=1)
    return root


def command(output, *flags, before=(), overrides=()):
    program = [sys.executable, *before, str(REPOSITORY / "train_net.py")]
    return [*program, "--config-file", str(QUICK), *flags, *SMALL, "OUTPUT_DIR", str(output),
            *overrides]  # fmt: skip


def environment(data):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MASTER_", "RANK"))}
    return {**kept, "DETECTRON2_DATASETS": str(data), "OMP_NUM_THREADS": "1"}


def call(data, *arguments, **options):
    return subprocess.run(
        command(*arguments, **options),
        env=environment(data),
        capture_output=True,
        text=True,
        timeout=5 * END_WITHIN,
    )


def results(folder):
    """results.json as text, without wall times."""
    content = json.loads((folder / "results.json").read_text())
    for group in (content["routing"], content["ema"]["routing"]):
        del group["ms_avg"]
    return json.dumps(content, sort_keys=True)


def gates(folder):
    (path,) = (folder / "inference" / "ema").glob("gates_*.npz")
    with np.load(path, allow_pickle=False) as stored:
        return stored["gates"]


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """Two processes train and evaluate; the folder and what they printed."""
    folder = tmp_path_factory.mktemp("run")
    done = call(data, folder, *TWO)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder, done.stdout + done.stderr


def test_two_processes_train_average_and_evaluate(run):
    folder, printed = run
    assert "naiveSyncBN, which is synchronised by gloo" in printed
    assert "broadcast_buffers" not in printed and "find_unused" not in printed
    content = json.loads((folder / "results.json").read_text())
    assert content["routing"]["images"] == content["ema"]["routing"]["images"] == 5
    assert {p.name for p in folder.iterdir()} >= {"model_final.pth", "log.txt", "log.txt.rank1"}
    last = json.loads((folder / "metrics.json").read_text().splitlines()[-1])
    assert "ema/sem_seg/mIoU" in last and "sem_seg/mIoU" in last


@pytest.mark.parametrize(
    ("flags", "before"), [((), ()), (TWO, ()), ((), TORCHRUN)], ids=["one", "two", "torchrun"]
)
def test_eval_only_repeats_the_results_of_the_run(run, data, tmp_path, flags, before):
    weights = ("MODEL.WEIGHTS", str(run[0] / "model_final.pth"))
    done = call(data, tmp_path, *flags, "--eval-only", before=before, overrides=weights)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert results(tmp_path) == results(run[0])
    assert np.array_equal(gates(tmp_path), gates(run[0]))


def children_of(pid):
    """Process ids of the workers: those of Python's spawn that hold a rank."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            line = (entry / "cmdline").read_bytes()
        except (OSError, ValueError):
            continue
        if parent == pid and b"spawn_main" in line:
            found.append(int(entry.name))
    return sorted(found)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_killed_worker_ends_the_job_with_its_rank(data, tmp_path):
    endless = ("SOLVER.MAX_ITER", "100000")
    job = subprocess.Popen(
        command(tmp_path, *TWO, overrides=endless),
        env=environment(data),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 2 * END_WITHIN
        while not (tmp_path / "metrics.json").exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        workers = children_of(job.pid)
        assert len(workers) == 2
        os.kill(workers[1], signal.SIGKILL)
        start = time.monotonic()
        _, error = job.communicate(timeout=END_WITHIN)
        assert time.monotonic() - start < END_WITHIN and job.returncode == 1
        last = error.strip().splitlines()[-1]
        assert last.startswith("train_net.py: error: rank 1 was ended by SIGKILL"), error[-2000:]
        assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    finally:
        job.kill()
        job.wait()


def test_error_of_one_process_is_one_line_with_its_rank(data, tmp_path):
    done = call(data, tmp_path, *TWO, overrides=("MODEL.WEIGHTS", str(tmp_path / "none.pth")))
    assert done.returncode == 2 and "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("train_net.py: error: rank ") and "none.pth does not exist" in last
