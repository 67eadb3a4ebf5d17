"""A run that was killed and resumed is the run that was not: weights, optimiser, hooks, metrics."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dynamic_routing.engine.run_files import numbered_lines
from tests.engine.kill_chain import CHECKPOINTS, EVALUATIONS, ITERATIONS, TEST_IMAGES
from tests.modeling.builders import REPOSITORY

UNINTERRUPTED: dict[str, Any] = {"workers": 0, "kills": []}
TIMES = ("time", "data_time", "seconds", "ms_avg", "time_share", "eta")
"""What is measured with a clock; no run repeats it."""

QUICK_PLAN = {
    "workers": 2,
    "kills": [
        {"kind": "iteration", "at": 3},
        {"kind": "checkpoint", "at": 0, "share": 0.5},
        {"kind": "evaluation", "at": TEST_IMAGES + 1},  # of an iteration whose checkpoint is there
    ],
}


def carry_out(folder: Path, plans: list[dict[str, Any]]) -> list[list[int]]:
    """Exit statuses of each plan's processes."""
    file = folder / "plans.json"
    file.write_text(json.dumps(plans))
    command = [sys.executable, "-m", "tests.engine.kill_chain", str(folder), str(file)]
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads((folder / "statuses.json").read_text())


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    """Where two checkpoints differ, bit by bit."""
    if isinstance(a, torch.Tensor):
        equal = isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
        return [] if equal else [path]
    if isinstance(a, dict):
        if not isinstance(b, dict) or a.keys() != b.keys():
            return [path]
        return [d for key in a for d in differences(a[key], b[key], f"{path}/{key}")]
    if isinstance(a, list | tuple):
        if len(a) != len(b):
            return [path]
        return [d for i, (x, y) in enumerate(zip(a, b)) for d in differences(x, y, f"{path}/{i}")]
    return [] if a == b else [path]


def checkpoint(run: Path, name: str) -> Any:
    return torch.load(run / f"{name}.pth", weights_only=True)


def scores(run: Path) -> dict[int, dict[str, float]]:
    """Iteration -> what its evaluation found."""
    content = (run / "metrics.json").read_text()
    found = {i: json.loads(line) for i, line in numbered_lines(content)}
    return {
        i: {k: v for k, v in line.items() if "/" in k and not k.endswith(TIMES)}
        for i, line in found.items()
        if "sem_seg/mIoU" in line
    }


def evaluated(overrides: list[str]) -> set[int]:
    """The iterations that ``metrics.json`` names with an evaluation; the last one is the end."""
    key = "TEST.EVAL_PERIOD"
    period = int(overrides[overrides.index(key) + 1]) if key in overrides else EVALUATIONS
    return {*range(period - 1, ITERATIONS - 1, period), ITERATIONS}


def assert_same_run(reference: Path, run: Path, *, evaluations: set[int]) -> None:
    """The claim, part by part."""
    for name in ("model_final", "model_best"):
        assert differences(checkpoint(reference, name), checkpoint(run, name)) == []
    iterations = [i for i, _ in numbered_lines((run / "metrics.json").read_text())]
    assert len(set(iterations)) == len(iterations)
    expected = scores(reference)
    assert set(expected) == evaluations and scores(run).keys() == expected.keys()
    for iteration, values in expected.items():
        own = {k: v for k, v in scores(run)[iteration].items() if "sem_seg" in k.split("/")}
        assert own == {k: v for k, v in values.items() if "sem_seg" in k.split("/")}
    assert not [p.name for p in run.rglob("*.tmp")]
    assert (run / "results.json").exists()


def check(folder: Path, plans: list[dict[str, Any]], **more: Any) -> None:
    """Carry out an uninterrupted run and the plans, ``more`` with all of them, and compare."""
    found = carry_out(folder, [{**plan, **more} for plan in (UNINTERRUPTED, *plans)])
    # Of several processes the one that watches them says 1.
    killed = 1 if more.get("processes", 1) > 1 else -signal.SIGKILL
    assert found[0] == [0], (folder / "0.log").read_text()[-2000:]
    for number, (plan, statuses) in enumerate(zip(plans, found[1:]), 1):
        log = (folder / f"{number}.log").read_text()[-2000:]
        assert statuses[-1] == 0, (plan, log)
        for kill, status in zip(plan["kills"], statuses):
            # A kill by the clock may come too late; every other one has to have happened.
            possible = (-signal.SIGKILL, 0) if kill["kind"] == "time" else (killed,)
            assert status in possible, (plan, statuses, log)
        expected = evaluated(list(more.get("overrides", [])))
        assert_same_run(folder / "0", folder / str(number), evaluations=expected)


def test_run_killed_three_times_ends_as_the_uninterrupted_one(tmp_path):
    check(tmp_path, [QUICK_PLAN])


def random_plans(count: int) -> list[dict[str, Any]]:
    """Kills at random iterations, in checkpoints, between file and tag, in evaluations, anywhen."""
    generator = random.Random(20)
    saves = ITERATIONS // CHECKPOINTS
    evaluations = ITERATIONS // EVALUATIONS
    plans: list[dict[str, Any]] = []
    for number in range(count):
        kind = ("iteration", "checkpoint", "evaluation", "time", "tag")[number % 5]
        at = {
            "iteration": generator.randrange(ITERATIONS),
            "checkpoint": generator.randrange(saves),
            "evaluation": generator.randrange(TEST_IMAGES * evaluations),
            "time": 0,
            "tag": generator.randrange(saves),
        }[kind]
        kill = {"kind": kind, "at": at, "share": generator.random()}
        plans.append({"workers": (0, 0, 2)[number % 3], "kills": [kill]})
    return plans


@pytest.mark.slow
def test_twenty_random_kills_change_nothing(tmp_path):
    check(tmp_path, random_plans(20))


AVERAGED = ("MODEL.EMA.ENABLED", "True", "TEST.BEST_METRIC", "ema/sem_seg/mIoU")
PARTS = "SOLVER.IMS_PER_BATCH 4 SOLVER.ACCUMULATION_STEPS 2 SOLVER.AMP.ENABLED True".split()
PICTURES = ("VIS_PERIOD", "3")
# Batch norms that are not synchronised, whose statistics the clustering reads in each process.
APART = (
    "TEST.EVAL_PERIOD 5 TEST.PRECISE_BN.ENABLED False MODEL.DYNAMIC_ROUTING.DIVDR.SOURCE subset "
    "MODEL.DYNAMIC_ROUTING.DIVDR.SUBSET_SIZE 4"
).split()


@pytest.mark.slow
@pytest.mark.parametrize("more", [PICTURES, PARTS, APART], ids=["pictures", "parts", "apart"])
def test_two_processes_with_an_average_survive_kills(tmp_path, more):
    kills = [
        {"kind": "iteration", "at": 2},
        {"kind": "checkpoint", "at": 1, "share": 0.5},
        {"kind": "iteration", "at": 4},
        {"kind": "evaluation", "at": 3},
    ]
    check(tmp_path, [{"workers": 0, "kills": kills}], processes=2, overrides=[*AVERAGED, *more])


def kills_in_evaluations(*images: int) -> list[dict[str, Any]]:
    """Deaths at the image behind so many, counted anew in each process and after each resume."""
    return [{"kind": "evaluation", "at": at} for at in images]


# An evaluation is one of the model and one of its average, on three images each; two processes
# share them, so that the main one sees two. That of iteration 6 has its checkpoint, that of 3 not.
OWED = {
    "average of 6, of 6 again, of the end": (1, kills_in_evaluations(10, 4, 10)),
    "before the average of 6, model of 6 again, model of the end": (
        1,
        kills_in_evaluations(9, 0, 6),
    ),
    "two processes: average of 6, of 6 again, of the end": (2, kills_in_evaluations(6, 2, 6)),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", OWED)
def test_owed_evaluation_of_model_and_average_is_made_up_for(tmp_path, case):
    processes, kills = OWED[case]
    plan = {"workers": 0, "kills": kills}
    check(tmp_path, [plan], processes=processes, overrides=[*AVERAGED])
    found = scores(tmp_path / "1")
    assert all({"sem_seg/mIoU", "ema/sem_seg/mIoU"} <= found[i].keys() for i in found)
    logged = (tmp_path / "1.log").read_text()
    assert logged.count("the evaluation after 6 iterations was not complete") >= 2
