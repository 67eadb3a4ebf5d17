"""metrics.json over several starts: no iteration twice, no earlier run lost."""

from __future__ import annotations

import json

import pytest
from detectron2.utils.events import EventStorage

from dynamic_routing.analysis.run_folder import flat_settings
from dynamic_routing.engine.run_files import (
    EVALUATED,
    OF_ONE_RUN,
    MetricsFile,
    add_to_line,
    drop_lines,
    is_evaluated,
    move_aside,
    numbered_lines,
    put_earlier_run_aside,
    scalars_of,
    write_config,
)
from dynamic_routing.modeling import get_config
from tests.modeling.builders import small_config


def lines(*iterations):
    return "".join(json.dumps({"iteration": i, "loss": 0.5}) + "\n" for i in iterations)


@pytest.fixture
def metrics(tmp_path):
    return tmp_path / "metrics.json"


@pytest.mark.parametrize("rest", ["", '{"iteration": 39, "lo', "\x00\x00"])
def test_resumed_run_drops_what_comes_again_and_cut_lines(metrics, rest):
    metrics.write_text(lines(19, 15, 39, 24, 30) + rest)
    drop_lines(metrics, start=30)
    assert metrics.read_text() == lines(19, 15, 24)


def test_lines_that_stay_are_not_rewritten(metrics):
    text = '{"iteration":  3, "x": NaN}\n'
    metrics.write_text(text)
    before = metrics.stat().st_ino
    drop_lines(metrics, start=4)
    assert metrics.read_text() == text and metrics.stat().st_ino == before


def test_line_without_its_end_gets_one(metrics):
    metrics.write_text(lines(3).rstrip("\n"))
    drop_lines(metrics, start=4)
    assert metrics.read_text() == lines(3)


def test_new_run_moves_earlier_ones_aside(metrics, caplog):
    caplog.set_level("INFO")
    for run in (1, 2):
        metrics.write_text(lines(run))
        move_aside(metrics)
        assert not metrics.exists()
    assert [(metrics.parent / f"metrics.json.{n}").read_text() for n in (1, 2)] == [
        lines(1),
        lines(2),
    ]
    assert "metrics.json of an earlier run is now metrics.json.2" in caplog.text


def test_missing_and_empty_files_are_nothing_to_prepare(metrics):
    move_aside(metrics)
    drop_lines(metrics, start=3)
    metrics.touch()
    move_aside(metrics)
    assert [p.name for p in metrics.parent.iterdir()] == ["metrics.json"]


def test_only_whole_lines_count():
    content = lines(1) + '[1]\n{"iteration": "2"}\n{"iteration": NaN}\n\n{"a": 1}\n' + lines(4)
    assert [i for i, _ in numbered_lines(content)] == [1, 4]


def test_evaluation_is_complete_once_its_line_says_so(metrics):
    assert not is_evaluated(metrics, 6)
    metrics.write_text(lines(2, 5) + json.dumps({"iteration": 5, EVALUATED: 0.1}) + "\n")
    assert is_evaluated(metrics, 6) and not is_evaluated(metrics, 3)


def test_scalars_of_an_iteration_are_those_of_all_its_lines(metrics):
    assert scalars_of(metrics, 5) == {}
    metrics.write_text(lines(2, 5) + '{"iteration": 5, "a": 1, "b": "x"}\n')
    assert scalars_of(metrics, 5) == {"loss": 0.5, "a": 1.0} and scalars_of(metrics, 4) == {}


def test_line_is_added_to_and_stays_one(metrics):
    add_to_line(metrics, 4, {"a": 1.0})
    add_to_line(metrics, 4, {"b": 2.0})
    assert metrics.read_text() == '{"a": 1.0, "b": 2.0, "iteration": 4}\n'
    metrics.write_text(lines(0) + lines(4))
    add_to_line(metrics, 4, {"loss": 0.25})
    assert metrics.read_text() == lines(0) + '{"iteration": 4, "loss": 0.25}\n'


def test_lines_are_strict_json_ascend_and_come_once(metrics):
    def refuse(word):
        raise ValueError(word)

    with EventStorage(0) as storage:
        writer = MetricsFile(str(metrics))
        for iteration, name, value in [(2, "b", float("nan")), (1, "a", 0.5), (2, "c", 3.0)]:
            storage.iter = iteration
            storage.put_scalar(name, value)
        writer.write()
        writer.write()
        storage.iter = 4
        storage.put_scalar("b", float("inf"))
        writer.write()
        writer.close()
    add_to_line(metrics, 4, {"late": float("nan")})
    found = [json.loads(line, parse_constant=refuse) for line in metrics.read_text().splitlines()]
    assert found == [
        {"iteration": 1, "a": 0.5},
        {"iteration": 2, "b": None, "c": 3.0},
        {"iteration": 4, "late": None},
    ]


def test_what_a_later_run_could_take_for_its_own_is_put_aside(tmp_path):
    assert {"last_checkpoint", "model_best.pth", "metrics.json", "post_mortem.json"} < {*OF_ONE_RUN}
    for name in (*OF_ONE_RUN, "model_final.pth"):
        (tmp_path / name).write_text(name)
    put_earlier_run_aside(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"model_final.pth", *(f"{name}.1" for name in OF_ONE_RUN)}
    assert all((tmp_path / f"{name}.1").read_text() == name for name in OF_ONE_RUN)


def as_list(text):
    """YAML has lists only, where a config may have tuples."""
    return text.replace(",)", "]").translate(str.maketrans("()", "[]"))


def test_written_config_reads_as_the_same(tmp_path):
    cfg = small_config("SEED", 4)
    found = flat_settings(get_config(write_config(cfg, tmp_path)))
    assert {k: as_list(v) for k, v in found.items()} == {
        k: as_list(v) for k, v in flat_settings(cfg).items()
    }
