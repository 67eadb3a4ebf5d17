"""benchmark_clustering.py: what it measures and prints."""

from __future__ import annotations

import benchmark_clustering
import numpy as np
import pytest


def test_a_line_for_each_size_and_the_assumptions(capsys):
    command = ["--images", "60", "90", "--repeats", "2", "--iteration-seconds", "0.25"]
    assert benchmark_clustering.main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("K = 4, 1 thread(s)")
    assert [line.split()[:3] for line in lines[2:4]] == [["60", "x", "198"], ["90", "x", "198"]]
    assert all(line.endswith("%") for line in lines[2:4])
    assert lines[4] == "share at 0.25 s an iteration, every 50 iterations"


def test_share_is_the_time_of_a_later_clustering_per_period():
    timing = benchmark_clustering.Timing(cold=9.0, warm=0.5, metrics=0.3, snapshot=0.2)
    assert timing.share(0.5, 50) == pytest.approx(1 / 25)


def test_made_up_routes_are_gates_and_repeat():
    routes = benchmark_clustering.made_up_routes(50, 7, 3, seed=1)
    assert routes.shape == (50, 7) and routes.dtype == np.float32
    assert routes.min() == 0 and 0.3 <= routes[routes > 0].min() <= routes.max() <= 1
    assert np.array_equal(routes, benchmark_clustering.made_up_routes(50, 7, 3, seed=1))
