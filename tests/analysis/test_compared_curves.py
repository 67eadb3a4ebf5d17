"""Curves of several runs: each line is a run's own numbers, and so is the table."""

from __future__ import annotations

import csv
import io
import json

import pytest

from dynamic_routing.analysis.compared_curves import (
    check_keys,
    curves_csv,
    curves_figure,
    read_logs,
)
from dynamic_routing.analysis.panel import encode_png


def write(folder, rows):
    folder.mkdir(parents=True)
    lines = [json.dumps(row) for row in rows]
    (folder / "metrics.json").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def runs(tmp_path):
    """Two runs; the second one was never evaluated."""
    first = [{"iteration": i, "total_loss": 5.0 - i, "lr": 0.1} for i in range(4)]
    first.append({"iteration": 4, "sem_seg/mIoU": 50.5})
    second = [{"iteration": 2 * i, "total_loss": 0.5 * i} for i in range(3)]
    return [write(tmp_path / "a", first), write(tmp_path / "b $x$", second)]


def test_lines_are_the_runs_own_numbers(runs):
    logs = read_logs(runs)
    figure = curves_figure(logs, ["total_loss", "sem_seg/mIoU"])
    losses, metric = figure.axes
    assert [line.get_label() for line in losses.lines] == ["a", "b $x$"]
    assert list(losses.lines[0].get_xdata()) == [0, 1, 2, 3]
    assert list(losses.lines[0].get_ydata()) == [5.0, 4.0, 3.0, 2.0]
    assert list(losses.lines[1].get_xdata()) == [0, 2, 4]
    assert [line.get_label() for line in metric.lines] == ["a"]
    assert losses.lines[0].get_color() == metric.lines[0].get_color()
    assert losses.lines[0].get_color() != losses.lines[1].get_color()
    assert encode_png(figure, dpi=50).startswith(b"\x89PNG")


def test_table_holds_every_point(runs):
    rows = list(csv.DictReader(io.StringIO(curves_csv(read_logs(runs), ["total_loss"]))))
    assert [(r["run"], int(r["iteration"]), float(r["value"])) for r in rows] == [
        *(("a", i, 5.0 - i) for i in range(4)),
        *(("b $x$", 2 * i, 0.5 * i) for i in range(3)),
    ]


def test_runs_of_equal_names_are_told_apart_by_their_paths(runs, tmp_path):
    other = write(tmp_path / "other" / "a", [{"iteration": 0, "total_loss": 1.0}])
    assert list(read_logs([runs[0], other])) == [str(runs[0]), str(other)]
    assert list(read_logs([runs[0] / "metrics.json"])) == ["a"]


def test_a_key_that_a_run_lacks_is_noted_and_one_that_all_lack_refused(runs):
    logs = read_logs(runs)
    assert check_keys(logs, ["total_loss", "sem_seg/mIoU"]) == ["sem_seg/mIoU is not in b $x$"]
    with pytest.raises(ValueError, match="no run has total_los; they have total_loss"):
        curves_figure(logs, ["total_los"])
    with pytest.raises(ValueError, match="at least one key"):
        curves_figure(logs, [])


def test_misuse_is_refused(runs, tmp_path):
    with pytest.raises(ValueError, match="given twice"):
        read_logs([runs[0], runs[0]])
    with pytest.raises(ValueError, match="holds no metrics.json"):
        read_logs([tmp_path])
