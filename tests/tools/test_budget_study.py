"""budget_study.py: its table, its verdict, and that finished runs are not done again."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from types import SimpleNamespace

import budget_study
import pytest

from dynamic_routing.analysis.run_folder import flatten

CEILING = 2.0


def results(reached, miou=40.0):
    routing = {"gmacs_avg": reached, "gmacs_min": 0.9 * reached, "gmacs_max": 1.1 * reached}
    return {"routing": routing, "sem_seg": {"mIoU": miou, "IoU-absent": None}}


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study whose runs answer with ``deviation`` instead of training."""
    found = SimpleNamespace(
        deviation=0.0, miou=40.0, commands=[], output=tmp_path / "study", status=0
    )

    def run(command, *, stdout, stderr):
        found.commands.append(command)
        options = dict(zip(command[-6::2], command[-5::2]))
        target = float(options["MODEL.DYNAMIC_ROUTING.BUDGET.TARGET_GMACS"])
        if not found.status:
            content = json.dumps(results(target * (1 + found.deviation), found.miou))
            path = budget_study.Path(options["OUTPUT_DIR"]) / "results.json"
            path.write_text(content)
        return SimpleNamespace(returncode=found.status)

    monkeypatch.setenv("DETECTRON2_DATASETS", "")
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(budget_study, "COUNTS", {"train": 1, "val": 1})
    monkeypatch.setattr(budget_study, "full_cost", lambda config: CEILING)
    return found


def call(study, *more):
    return budget_study.main(["--output", str(study.output), *more])


def table(study):
    with (study.output / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_share_is_trained_with_every_seed(study, capsys):
    assert call(study, "--shares", "0.5", "0.75", "--seeds", "3", "4") == 0
    rows = table(study)
    assert [(row["share"], row["seed"]) for row in rows] == [
        ("0.5", "3"), ("0.5", "4"), ("0.75", "3"), ("0.75", "4"),
    ]  # fmt: skip
    assert [float(row["target_gmacs"]) for row in rows] == [1.0, 1.0, 1.5, 1.5]
    assert "4 of 4 runs within 5% of their target" in capsys.readouterr().out
    for command, (share, seed) in zip(study.commands, [(0.5, 3), (0.5, 4), (0.75, 3), (0.75, 4)]):
        assert command[0] == sys.executable and command[1].endswith("train_net.py")
        assert command[command.index("SEED") + 1] == str(seed)
        target = command[command.index("MODEL.DYNAMIC_ROUTING.BUDGET.TARGET_GMACS") + 1]
        assert float(target) == share * CEILING and "--resume" in command


@pytest.mark.parametrize(("deviation", "status"), [(0.049, 0), (-0.049, 0), (0.06, 1), (-0.06, 1)])
def test_verdict_is_that_of_5_percent(study, capsys, deviation, status):
    study.deviation = deviation
    assert call(study, "--shares", "0.5", "--seeds", "1") == status
    (row,) = table(study)
    assert float(row["deviation_percent"]) == pytest.approx(100 * deviation)
    assert float(row["reached_gmacs"]) == pytest.approx(1 + deviation)
    assert f"{1 - status} of 1 runs" in capsys.readouterr().out


def test_finished_runs_are_not_done_again(study):
    assert call(study, "--shares", "0.5", "--seeds", "1", "2") == 0
    first = table(study)
    assert len(study.commands) == 2
    assert call(study, "--shares", "0.5", "--seeds", "1", "2", "3") == 0
    assert len(study.commands) == 3 and table(study)[:2] == first


def test_failed_training_names_its_log(study):
    study.status = 1
    with pytest.raises(RuntimeError, match=r"training failed \(log: .*share0.5_seed1/console.txt"):
        call(study, "--shares", "0.5", "--seeds", "1")
    assert not (study.output / "results.csv").exists()


def test_result_without_a_value_is_named(study):
    study.miou = None
    with pytest.raises(ValueError, match=r"share0.5_seed1/results.json has no value for sem_seg/m"):
        call(study, "--shares", "0.5", "--seeds", "1")


def test_row_is_rounded():
    row = budget_study.row_of(0.4, 1, 0.1234567, flatten(results(0.1234, 41.239)))
    assert row == {
        "share": 0.4,
        "seed": 1,
        "target_gmacs": 0.12346,
        "reached_gmacs": 0.1234,
        "deviation_percent": -0.05,
        "min_gmacs": 0.11106,
        "max_gmacs": 0.13574,
        "miou": 41.24,
    }


def test_full_cost_is_that_of_the_config():
    # configs/quick/dr_target_cityscapes.yaml states 0.1459 GMACs at 96 x 192.
    assert budget_study.full_cost(budget_study.CONFIG) == pytest.approx(0.1459, abs=5e-5)


@pytest.mark.parametrize("arguments", [["--seeds"], ["--shares", "much"], ["--nothing"]])
def test_wrong_arguments_are_status_2(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        budget_study.main(arguments)
    assert "usage:" in capsys.readouterr().err
