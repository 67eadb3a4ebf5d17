"""Two thousand iterations: memory and open files stay flat, and nothing of ours warns."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys

import pytest

from tests.modeling.builders import REPOSITORY

ITERATIONS = 2000
GROWTH = 6 * 2**20
"""Bytes that resident memory may grow between the second and the last quarter."""


@pytest.mark.slow
def test_memory_and_open_files_are_flat(tmp_path):
    command = [sys.executable, "-m", "tests.engine.long_run", str(tmp_path), str(ITERATIONS)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads((tmp_path / "watched.json").read_text())
    assert seen[-1]["iteration"] == ITERATIONS
    quarter = len(seen) // 4
    second, last = seen[quarter : 2 * quarter], seen[3 * quarter :]
    # The least of many looks: a file may just be written, but one that stays open adds to all.
    files = [min(entry["files"] for entry in part) for part in (second, last)]
    assert files[1] <= files[0], [entry["files"] for entry in seen]
    memory = [statistics.median(entry["memory"] for entry in part) for part in (second, last)]
    assert memory[1] - memory[0] < GROWTH, [entry["memory"] >> 20 for entry in seen]
