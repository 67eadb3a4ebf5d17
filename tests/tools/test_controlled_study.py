"""controlled_study.py: writes each question's table and keeps finished runs."""

from __future__ import annotations

import controlled_study
import pytest

from dynamic_routing.studies import questions
from dynamic_routing.studies.questions import Question, Variant
from dynamic_routing.studies.rows import read_rows
from dynamic_routing.studies.settings import Setting
from dynamic_routing.studies.summary import COLUMNS


@pytest.fixture
def short(monkeypatch):
    """One question of two settings that are quick to run."""
    variants = (
        Variant("static", Setting(method="static", samples=64)),
        Variant("oracle", Setting(method="oracle", samples=64)),
    )
    found = {"short": Question("is it short?", variants, reference="static", seeds=(1, 2))}
    monkeypatch.setattr(questions, "QUESTIONS", found)
    monkeypatch.setattr("dynamic_routing.studies.training.HELD_OUT", 50)
    monkeypatch.setattr("dynamic_routing.studies.training.train.__kwdefaults__", {"iterations": 3})


def test_question_gets_its_table_and_runs_once(short, tmp_path, capsys):
    arguments = ["--part", "toy", "--question", "short", "--output", str(tmp_path)]
    assert controlled_study.main(arguments) == 0
    runs = (tmp_path / "toy_runs.csv").read_bytes()
    assert len(read_rows(tmp_path / "toy_runs.csv", COLUMNS)) == 4
    table = (tmp_path / "toy_short.csv").read_text().splitlines()
    assert [line.split(",")[:2] for line in table[1:]] == [["static", "2"], ["oracle", "2"]]
    printed = capsys.readouterr()
    assert "is it short?" in printed.out and "| oracle | 2 |" in printed.out
    assert "[2/2] oracle: 2 seeds" in printed.err
    assert controlled_study.main(arguments) == 0
    assert (tmp_path / "toy_runs.csv").read_bytes() == runs
    assert "seeds;" not in capsys.readouterr().err


def test_other_seeds_are_added(short, tmp_path):
    arguments = ["--output", str(tmp_path), "--seeds", "7"]
    assert controlled_study.main(arguments) == 0
    assert [row["seed"] for row in read_rows(tmp_path / "toy_runs.csv", COLUMNS)] == ["7", "7"]


def test_unknown_question_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--question must be one of"):
        controlled_study.main(["--question", "none", "--output", str(tmp_path)])
