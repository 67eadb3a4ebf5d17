"""The study's table: round trip, resume, spreads and verdicts."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from dynamic_routing.studies.questions import QUESTIONS, Question, Variant
from dynamic_routing.studies.rows import read_rows, write_rows
from dynamic_routing.studies.runner import answer, summarise
from dynamic_routing.studies.settings import Setting
from dynamic_routing.studies.summary import (
    COLUMNS,
    Difference,
    Spread,
    summary_row,
    to_markdown,
    to_row,
)
from dynamic_routing.studies.training import Outcome

COMMITTED = Path(__file__).resolve().parents[2] / "docs" / "study"
DR, DIVDR = Setting(method="dr"), Setting()


def outcome(seed, recovery=0.99, accuracy=0.98, inter=2.0, **more):
    return Outcome(
        seed=seed, accuracy=accuracy, open_share=0.8, mean_gate=0.7, recovery=recovery,
        purity=recovery, inter=inter, intra_pair=0.5, **more,
    )  # fmt: skip


def fake_run(calls, value=0.99):
    def run(setting, seeds):
        calls.append((setting, tuple(seeds)))
        return [outcome(seed, value) for seed in seeds]

    return run


@pytest.fixture
def question():
    variants = (Variant("DR", DR), Variant("DivDR", DIVDR), Variant("again", DIVDR))
    return Question("which?", variants, reference="DR", seeds=(1, 2))


def test_table_round_trip(tmp_path):
    path = tmp_path / "folder" / "runs.csv"
    rows = [to_row(DR, outcome(3)), to_row(DIVDR, outcome(4, math.nan, diverged=True))]
    write_rows(path, rows, COLUMNS)
    assert read_rows(path, COLUMNS) == rows
    assert tuple(rows[0]) == COLUMNS
    assert rows[0]["ratio"] == "4.0000" and rows[0]["accuracy"] == "0.9800"
    assert rows[1]["recovery"] == "" and rows[1]["diverged"] == "1"
    assert [p.name for p in path.parent.iterdir()] == ["runs.csv"]


def test_finished_rows_are_not_run_again(tmp_path, question):
    calls, runs = [], tmp_path / "runs.csv"
    answer(question, runs, run=fake_run(calls), report=lambda line: None)
    assert calls == [(DR, (1, 2)), (DIVDR, (1, 2))]  # the third label is the second setting
    first = read_rows(runs, COLUMNS)
    answer(question, runs, seeds=[1, 2, 3], run=fake_run(calls), report=lambda line: None)
    assert calls[2:] == [(DR, (3,)), (DIVDR, (3,))]
    assert read_rows(runs, COLUMNS)[:4] == first


def test_what_was_finished_before_a_failure_stays(tmp_path, question):
    def run(setting, seeds):
        if setting == DIVDR:
            raise RuntimeError("stopped")
        return fake_run([])(setting, seeds)

    with pytest.raises(RuntimeError, match="stopped"):
        answer(question, tmp_path / "runs.csv", run=run, report=lambda line: None)
    assert [row["method"] for row in read_rows(tmp_path / "runs.csv", COLUMNS)] == ["dr", "dr"]


def test_progress_names_variant_and_time_left(tmp_path, question):
    lines = []
    answer(question, tmp_path / "runs.csv", run=fake_run([]), report=lines.append)
    assert lines[0].startswith("[1/3] DR: 2 seeds; ") and lines[-1].endswith("0 s left")


def test_spread_of_known_numbers():
    spread = Spread.of([0.5, 1.0, 0.75, 0.75])
    assert (spread.mean, spread.median, spread.lowest) == (0.75, 0.75, 0.5)
    assert spread.std == pytest.approx(math.sqrt(0.125 / 3))
    assert math.isnan(Spread.of([1.0, math.nan]).mean) and math.isnan(Spread.of([]).mean)


def rows_with(recoveries):
    return [to_row(DIVDR, outcome(seed, value)) for seed, value in enumerate(recoveries)]


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ([0.9, 0.91, 0.92], "higher"),
        ([0.7, 0.69, 0.71], "lower"),
        ([0.8, 0.9, 0.7], "same"),
        ([0.8, 0.8, 0.8], "same"),
        ([0.8, 0.8, math.nan], "n/a"),
    ],
)
def test_differences_are_paired_by_seed(values, word):
    assert Difference.of(rows_with(values), rows_with([0.8, 0.8, 0.8]), "recovery").word == word


def test_difference_ignores_seeds_that_the_reference_lacks():
    found = Difference.of(rows_with([0.9, 0.7, 0.1])[:2], rows_with([0.8, 0.6]), "recovery")
    assert found.mean == pytest.approx(0.1) and found.error == pytest.approx(0, abs=1e-9)


def test_summary_counts_recovered_seeds():
    line = summary_row("a", rows_with([0.98, 0.9799, 1.0]), rows_with([0.98, 0.9799, 1.0]))
    assert line["recovered_seeds"] == "2" and line["seeds"] == "3"
    assert line["recovery_lowest"] == "0.9799" and line["ratio_mean"] == "4.0000"
    text = to_markdown([line, summary_row("static", [], [])])
    assert "2 of 3" in text and "| a | 3 |" in text and "no difference seen" in text
    assert len({row.count("|") for row in text.splitlines()}) == 1


def test_questions_are_consistent():
    for question in QUESTIONS.values():
        labels = [variant.label for variant in question.variants]
        assert len(set(labels)) == len(labels) and question.reference in labels
        assert len(set(question.seeds)) == len(question.seeds)


@pytest.mark.parametrize("name", QUESTIONS)
def test_committed_table_follows_from_the_committed_runs(tmp_path, name):
    question, runs = QUESTIONS[name], read_rows(COMMITTED / "toy_runs.csv", COLUMNS)
    lines = summarise(question, runs, question.seeds)
    write_rows(tmp_path / "table.csv", lines, list(lines[0]))
    assert (tmp_path / "table.csv").read_bytes() == (COMMITTED / f"toy_{name}.csv").read_bytes()
