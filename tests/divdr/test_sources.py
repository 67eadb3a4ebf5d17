"""Sources and schedule of the clustering, and that the package stands without Detectron2."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dynamic_routing.divdr.bank import GateBank
from dynamic_routing.divdr.schedule import ClusteringSchedule
from dynamic_routing.divdr.sources import BankSource, choose_subset

ROOT = Path(__file__).resolve().parents[2]


def test_bank_source_delivers_what_all_processes_recorded():
    bank, other = GateBank(2), GateBank(2)
    bank.record(["b"], np.ones((1, 2)), 3)
    other.record(["a"], np.zeros((1, 2)), 4)
    found = BankSource(bank, gather=lambda part: [part, other.snapshot()]).collect(9)
    assert found.names == ("a", "b") and found.stamps.tolist() == [4, 3]
    assert found.mean_age(9) == 5.5


def test_subset_is_drawn_once_by_its_seed():
    found = choose_subset(50, 10, seed=3)
    assert found == choose_subset(50, 10, seed=3) == sorted(set(found))
    assert len(found) == 10 and max(found) < 50
    assert found != choose_subset(50, 10, seed=4)
    assert choose_subset(5, 10, seed=0) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="at least 1 image, got 0"):
        choose_subset(5, 0, seed=0)


def times(schedule, max_iter):
    """When a training of this length would cluster."""
    found, last = [], None
    for iteration in range(max_iter):
        if schedule.due(iteration, last, max_iter):
            found.append(last := iteration)
    return found


def test_clustering_starts_after_the_warm_up_and_repeats_every_period():
    assert times(ClusteringSchedule(50), 201) == [0, 50, 100, 150, 200]
    assert times(ClusteringSchedule(4, start=10), 20) == [10, 14, 18]
    assert times(ClusteringSchedule(4, start=30), 20) == []


def test_period_grows_in_a_straight_line_to_its_final_value():
    schedule = ClusteringSchedule(10, final_period=50, start=100)
    assert [schedule.period_at(i, 500) for i in (0, 100, 200, 300, 500, 900)] == [
        10, 10, 20, 30, 50, 50,
    ]  # fmt: skip
    gaps = np.diff(times(schedule, 500))
    assert (np.diff(gaps) >= 0).all() and gaps[0] < 15 and gaps[-1] > 35


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((0,), "period must be >= 1 and start >= 0, got 0 and 0"),
        ((5, 0, -1), "got 5 and -1"),
        ((50, 20), "final period must be 0 or at least the period 50, got 20"),
    ],
)
def test_impossible_schedule_is_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        ClusteringSchedule(*arguments)


SCRIPT = """
import sys
from dynamic_routing.divdr import bank, clustering, loss, metrics, schedule, sources

loaded = {name.split(".")[0] for name in sys.modules}
print(sorted(loaded & {"detectron2", "fvcore", "sklearn", "scipy"}))
"""


@pytest.mark.slow
def test_package_needs_no_detectron2_and_loads_scikit_learn_only_to_cluster():
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"
