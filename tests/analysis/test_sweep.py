"""Sweeps: which runs, what they are called, what is made of their results."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics

import pytest
from PIL import Image

from dynamic_routing.analysis.sweep import (
    MAX_NAME,
    Axis,
    Point,
    differences,
    duration,
    fixed_overrides,
    normal_form,
    parse_axes,
    plan,
    remaining_seconds,
    split_values,
)
from dynamic_routing.analysis.sweep_figure import LOG_SPAN, MAX_PANELS, positions, sweep_figure
from dynamic_routing.analysis.sweep_folder import claim, outcome_of, write_table
from dynamic_routing.analysis.sweep_table import Outcome, SweepTable

MARGIN = "MODEL.DYNAMIC_ROUTING.DIVDR.MARGIN"
WEIGHT = "MODEL.DYNAMIC_ROUTING.DIVDR.WEIGHT"
RATE = "SOLVER.BASE_LR"
GRID = (f"{MARGIN}=0,1,2", f"{WEIGHT}=0.05,0.5")


def table_of(words=GRID, seeds=(1, 2, 3), metrics=(), failed=(), around=None):
    """A sweep whose figures follow from its settings, with failed points by number."""
    axes = parse_axes(words)
    outcomes = []
    for i, point in enumerate(plan(axes, seeds, around=around)):
        level = sum(len(v) if positions([v]) is None else float(v) for v in point.settings.values())
        results = {"sem_seg/mIoU": level + point.seed**2, "routing/gmacs_avg": 2 * level}
        problem = "status 2: no memory" if i in failed else ""
        outcomes.append(Outcome(point, {} if problem else results, problem))
    return SweepTable(tuple(outcomes), axes, tuple(metrics))


def read(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_grid_holds_every_combination_once_and_the_first_seed_first():
    points = plan(parse_axes(GRID), [4, 2])
    assert len(points) == len({p.name for p in points}) == 3 * 2 * 2
    assert [p.seed for p in points] == [4] * 6 + [2] * 6
    settings = {(p.settings[MARGIN], p.settings[WEIGHT]) for p in points}
    assert settings == {(m, w) for m in ("0", "1", "2") for w in ("0.05", "0.5")}


def test_one_at_a_time_departs_from_the_config_and_runs_it_once():
    around = {MARGIN: "1.0", WEIGHT: "0.1", "OTHER": "x"}
    points = plan(parse_axes([f"{MARGIN}=0,1,2", f"{WEIGHT}=0.1,0.5"]), [1], around=around)
    settings = [(p.settings[MARGIN], p.settings[WEIGHT]) for p in points]
    assert settings == [("1", "0.1"), ("0", "0.1"), ("2", "0.1"), ("1", "0.5")]
    grid = {p.name for p in plan(parse_axes([f"{MARGIN}=0,1,2", f"{WEIGHT}=0.1,0.5"]), [1])}
    assert {p.name for p in points} < grid  # so the grid finds these runs again


def test_single_value_belongs_to_the_config():
    axes = parse_axes([f"{MARGIN}=0,1", "SOLVER.MAX_ITER=30"])
    assert fixed_overrides(axes) == ["SOLVER.MAX_ITER", "30"]
    assert all(p.settings.keys() == {MARGIN} for p in plan(axes, [1]))


@pytest.mark.parametrize("seeds", [[], [1, 1], [-1]])
def test_seeds_must_differ(seeds):
    with pytest.raises(ValueError, match="--seeds must be different numbers from 0 on"):
        plan(parse_axes(GRID), seeds)


@pytest.mark.parametrize("words", [[], [f"{MARGIN}=1"]])
def test_nothing_to_sweep_is_refused(words):
    with pytest.raises(ValueError, match="nothing to sweep"):
        plan(parse_axes(words), [1])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["MARGIN"], "expected KEY=VALUE,VALUE,... got 'MARGIN'"),
        (["=1,2"], "expected KEY=VALUE"),
        ([f"{MARGIN}="], "has an empty value"),
        ([f"{MARGIN}=1,,2"], "has an empty value"),
        ([f"{MARGIN}=1,2,"], "has an empty value"),
        ([f"{MARGIN}=0.1,0.10"], "has the value 0.1 twice"),
        ([f"{MARGIN}=1,2", f"{MARGIN}=3,4"], "is given twice"),
        (["SEED=1,2"], "SEED cannot be swept: use --seeds"),
        (["OUTPUT_DIR=a,b"], "OUTPUT_DIR cannot be swept: use --output"),
    ],
)
def test_wrong_axes_are_refused_in_one_line(words, message):
    with pytest.raises(ValueError) as error:
        parse_axes(words)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("1, 2", ["1", "2"]),
        ("[96,192],(1,2)", ["[96,192]", "(1,2)"]),
        ("'a,b',c", ["'a,b'", "c"]),
        ("[[1,2],[3]],x=y", ["[[1,2],[3]]", "x=y"]),
    ],
)
def test_commas_inside_brackets_and_quotes_do_not_separate(text, parts):
    assert split_values(text) == parts


def test_equal_numbers_are_equal_text():
    assert {normal_form(v) for v in ("0.1", "0.10", "1e-1", ".1")} == {"0.1"}
    assert {normal_form(v) for v in ("1", "1.0", "+1")} == {"1"}
    assert [normal_form(v) for v in ("bank", "[1, 2]", "True", "1e-5")] == [
        "bank", "[1, 2]", "True", "1e-05",
    ]  # fmt: skip


def test_name_depends_on_the_settings_alone():
    name = Point({MARGIN: "1", RATE: "0.05"}, 3).name
    assert name == "DIVDR.MARGIN=1_SOLVER.BASE_LR=0.05_SEED=3"
    assert Point({RATE: "0.05", MARGIN: "1"}, 3).name == name


@pytest.mark.parametrize("value", ["../../etc/x", "a b", "[1,2]", "ä", "x" * 500, "a\nb"])
def test_name_is_a_safe_folder_and_still_distinct(value):
    name = Point({RATE: value}, 1).name
    assert len(name) <= MAX_NAME and "/" not in name and name.isascii() and name.isprintable()
    others = [value + "!", value[:-1], value.replace("a", "b") + "c"]
    assert name not in {Point({RATE: other}, 1).name for other in others}


def test_overrides_are_those_of_train_net():
    assert Point({MARGIN: "1", RATE: "0.1"}, 5).overrides == [MARGIN, "1", RATE, "0.1", "SEED", "5"]


def test_table_has_mean_and_sample_deviation_of_the_seeds():
    table = table_of()
    rows = {(r["DIVDR.MARGIN"], r["DIVDR.WEIGHT"]): r for r in (
        {k.removeprefix("MODEL.DYNAMIC_ROUTING."): v for k, v in row.items()}
        for row in read(table.to_csv())
    )}  # fmt: skip
    assert len(rows) == 6
    for (margin, weight), row in rows.items():
        level = float(margin) + float(weight)
        values = [level + seed**2 for seed in (1, 2, 3)]
        assert float(row["sem_seg/mIoU"]) == pytest.approx(statistics.mean(values), rel=1e-5)
        deviation = statistics.stdev(values)
        assert float(row["sem_seg/mIoU (std)"]) == pytest.approx(deviation, rel=1e-5)
        assert float(row["routing/gmacs_avg (std)"]) == 0 and row["seeds"] == "3"


def test_failed_runs_do_not_count_and_are_named():
    table = table_of(seeds=(1, 2), failed=(0, 1, 7))
    rows = read(table.to_csv())
    assert [row["seeds"] for row in rows] == ["1", "0", "2", "2", "2", "2"]
    assert rows[0]["sem_seg/mIoU"] and not rows[0]["sem_seg/mIoU (std)"]
    assert not rows[1]["sem_seg/mIoU"] and "| 0 | 0.5 | 0 | – | – |" in table.to_markdown()
    points = read(table.points_csv())
    assert len(points) == 12 and [p["problem"] for p in points].count("status 2: no memory") == 3
    assert points[0]["sem_seg/mIoU"] == "" and float(points[2]["sem_seg/mIoU"]) == 2.05


def test_markdown_is_a_table():
    lines = table_of().to_markdown().splitlines()
    assert lines[0].startswith("| DIVDR.MARGIN | DIVDR.WEIGHT | seeds | sem_seg/mIoU |")
    assert len({line.count("|") for line in lines}) == 1 and len(lines) == 2 + 6
    assert lines[2] == "| 0 | 0.05 | 3 | 4.717 ± 4 | 0.1 ± 0 |"


def test_columns_are_the_usual_metrics_that_occur_or_those_asked_for():
    assert table_of().columns == ("sem_seg/mIoU", "routing/gmacs_avg")
    asked = table_of(metrics=["routing/gmacs_avg", "routing/nothing"])
    assert asked.columns == ("routing/gmacs_avg", "routing/nothing")
    assert asked.absent() == ["routing/nothing"]


def test_updated_replaces_one_run():
    table = table_of(failed=(2,))
    point = table.outcomes[2].point
    found = Outcome(point, {"sem_seg/mIoU": 9.0})
    new = table.updated(found)
    assert new.outcomes[2] is found and new.outcomes[3] is table.outcomes[3]
    assert table.told(found) == "sem_seg/mIoU 9" and "FAILED" in table.told(table.outcomes[2])


def panels(figure):
    return list(figure.axes)


def test_figure_has_a_line_for_each_value_of_the_other_key():
    found = panels(sweep_figure(table_of()))
    assert len(found) == 2 * 2
    lines = [len(panel.containers) for panel in found]
    assert lines == [2, 3, 2, 3]
    labels = [text.get_text() for text in found[0].get_legend().get_texts()]
    assert labels == ["DIVDR.WEIGHT = 0.05", "DIVDR.WEIGHT = 0.5"]
    xs, ys = found[0].containers[1].lines[0].get_data()
    assert list(xs) == [0, 1, 2] and list(ys) == pytest.approx([x + 0.5 + 14 / 3 for x in xs])


def test_one_at_a_time_is_one_line_a_key():
    words = [f"{MARGIN}=0,2", f"{WEIGHT}=0.5,0.7"]
    found = panels(sweep_figure(table_of(words, around={MARGIN: "1.0", WEIGHT: "0.1"})))
    assert [len(panel.containers) for panel in found] == [1, 1, 1, 1]
    assert list(found[0].containers[0].lines[0].get_xdata()) == [0, 1, 2]


def test_axis_is_logarithmic_over_a_wide_span_and_names_words():
    wide = panels(sweep_figure(table_of([f"{RATE}=0.01,{0.01 * LOG_SPAN}"])))[0]
    narrow = panels(sweep_figure(table_of([f"{RATE}=0.01,0.1"])))[0]
    assert (wide.get_xscale(), narrow.get_xscale()) == ("log", "linear")
    words = panels(sweep_figure(table_of([f"{RATE}=bank,full"])))[-1]
    assert [label.get_text() for label in words.get_xticklabels()] == ["bank", "full"]


def test_figure_without_any_metric_is_refused_and_is_limited():
    with pytest.raises(ValueError, match="nothing to draw"):
        sweep_figure(table_of(failed=range(18)))
    many = table_of([f"{RATE}=1,2"], metrics=[f"a/{i}" for i in range(9)])
    assert len(panels(sweep_figure(many))) == MAX_PANELS


def test_folder_is_that_of_one_config(tmp_path):
    folder, settings = tmp_path / "sweep", {"SOLVER.MAX_ITER": "10", "SEED": "1"}
    claim(folder, settings)
    claim(folder, {**settings, "SEED": "2", "OUTPUT_DIR": "elsewhere"})
    with pytest.raises(ValueError, match=r"holds a sweep with SOLVER.MAX_ITER 10, now 20; choose"):
        claim(folder, {**settings, "SOLVER.MAX_ITER": "20"})
    with pytest.raises(ValueError, match=r"MAX_ITER 10, now \(not set\) and 1 more; choose"):
        claim(folder, {"Z": "1"})


def test_folder_of_something_else_is_refused(tmp_path):
    claim(tmp_path, {})  # an empty one is as good as none
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    for path in (tmp_path / "photos", tmp_path / "photos" / "a.jpg"):
        with pytest.raises(ValueError, match="was not made by sweep.py"):
            claim(path, {})


def test_differences_name_every_setting():
    assert differences({"A": "1", "B": "2"}, {"A": "1", "B": "3", "C": "4"}) == [
        "B 2, now 3",
        "C (not set), now 4",
    ]


def test_results_are_read_without_what_is_no_number(tmp_path):
    point = Point({RATE: "1"}, 1)
    assert outcome_of(point, tmp_path).problem.startswith("no results: results.json")
    (tmp_path / point.name).mkdir()
    content = json.dumps({"segm": {"AP": math.nan, "AP50": 2}})
    (tmp_path / point.name / "results.json").write_text(content)
    assert outcome_of(point, tmp_path) == Outcome(point, {"segm/AP50": 2.0})


def test_everything_is_written(tmp_path):
    write_table(tmp_path, table_of(failed=range(18)))
    names = {"points.csv", "table.csv", "table.md"}
    assert {p.name for p in tmp_path.iterdir()} == names
    write_table(tmp_path, table_of(failed=[0]))
    assert {p.name for p in tmp_path.iterdir()} == {*names, "plot.png"}
    with Image.open(tmp_path / "plot.png") as picture:
        assert picture.width > picture.height / 2 > 100


def test_remaining_time_counts_parallel_runs():
    assert math.isnan(remaining_seconds([], 3, 1))
    assert remaining_seconds([10.0, 20.0], 3, 1) == 45
    assert remaining_seconds([10.0, 20.0], 3, 2) == 30
    assert (duration(math.nan), duration(3723.4)) == ("?", "1:02:03")


def test_axis_with_one_value_is_not_swept():
    assert not Axis("A", ("1",)).swept and Axis("A", ("1", "2")).swept
