"""A run's folder is read as it is: missing and damaged files are named, nothing of them runs."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from dynamic_routing.analysis.report import MissingPartError, NotAvailable
from dynamic_routing.evaluation.gates_file import GatesFile, save_gates
from dynamic_routing.evaluation.run_files import OWN, read_run
from tests.evaluation.fake_run import DATASET, fake_gates, fake_run, fake_scores


def test_complete_run_has_every_part(tmp_path):
    run = read_run(fake_run(tmp_path / "a run"), others={"untrained": {}})
    assert run.title == "a run" and run.dataset == DATASET
    assert list(run.results) == [OWN, "untrained"] and len(run.gates) == 24
    assert run.log.series("lr").values == (0.01, 0.01)
    gates = fake_gates(run.folder / "photos")
    assert run.cost_name == "gmacs" and run.score_name == "iou"
    np.testing.assert_array_equal(run.costs, gates.costs["gmacs"])
    np.testing.assert_array_equal(run.image_scores, fake_scores(gates).metrics["iou"])
    assert len(run.clusters) == 3 and run.space_map.images == 24
    assert run.settings.DATASETS.TEST == (DATASET,)


def test_folder_without_anything_says_so_everywhere(tmp_path):
    run = read_run(tmp_path)
    for part in (run.results, run.log, run.gates, run.scores, run.settings):
        assert isinstance(part, NotAvailable) and "\n" not in part.reason
        assert str(tmp_path) not in part.reason.replace(f"{tmp_path}/inference", "")
    for name in ("cost_name", "costs", "score_name", "image_scores", "clusters", "space_map"):
        with pytest.raises(MissingPartError):
            getattr(run, name)
    assert run.dataset == "" and run.all_scores() == {}


def test_missing_folder_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no such run folder: .*none"):
        read_run(tmp_path / "none")


def test_data_set_is_the_configs_else_the_one_with_gates(tmp_path):
    folder = fake_run(tmp_path / "run", config=False)
    assert read_run(folder).dataset == DATASET
    gates = folder / "inference" / f"gates_{DATASET}.npz"
    shutil.copy(gates, gates.with_name("gates_other.npz"))
    assert read_run(folder).dataset == ""
    assert len(read_run(folder, dataset="other").gates) == 24
    with pytest.raises(ValueError, match="no gates of data set third; it has those of: other, val"):
        read_run(folder, dataset="third")


def test_config_of_the_evaluation_stands_in(tmp_path):
    folder = fake_run(tmp_path / "run")
    (folder / "config.yaml").rename(folder / "inference" / "config.yaml")
    assert read_run(folder).settings.DATASETS.TEST == (DATASET,)


@pytest.mark.parametrize("name", ["gates_val.npz", "scores_val.json"])
@pytest.mark.parametrize(
    "damage", [lambda b: b"", lambda b: b[: len(b) // 2], lambda b: bytes(len(b))]
)
def test_damaged_files_are_not_available(tmp_path, name, damage):
    path = fake_run(tmp_path / "run", photos=False) / "inference" / name
    path.write_bytes(damage(path.read_bytes()))
    run = read_run(tmp_path / "run")
    part = run.gates if name.startswith("gates") else run.scores
    other = run.scores if name.startswith("gates") else run.gates
    assert isinstance(part, NotAvailable) and name in part.reason
    assert not isinstance(other, NotAvailable)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("[]", "holds list"), ("{", "results.json"), ("[" * 100_000, "results.json"), ("", "results")],
)
def test_results_that_are_none_are_not_available(tmp_path, text, reason):
    (tmp_path / "results.json").write_text(text)
    assert reason in read_run(tmp_path).results.reason


def test_strange_results_are_left_out(tmp_path):
    text = json.dumps({"a": 1, "b": {"x": "y", "z": [1], "n": None, "ok": 2}})
    (tmp_path / "results.json").write_text(text.replace('"y"', "9" * 400))
    assert list(read_run(tmp_path).results[OWN]) == ["b"]


def test_tags_of_a_config_do_not_run(tmp_path):
    (tmp_path / "config.yaml").write_text(
        f"OUTPUT_DIR: !!python/object/apply:os.mkdir ['{tmp_path / 'ran'}']\n"
    )
    assert "could not determine a constructor" in read_run(tmp_path).settings.reason
    assert not (tmp_path / "ran").exists()


def test_costs_have_another_name_or_are_missing(tmp_path):
    gates = fake_gates(tmp_path, clusters=0)
    path = tmp_path / "inference" / "gates_val.npz"
    for costs, name in (({"other": gates.costs["gmacs"]}, "other"), ({}, "")):
        save_gates(path, GatesFile(**{**vars(gates), "costs": costs}))
        run = read_run(tmp_path)
        if name:
            assert run.cost_name == name
        else:
            with pytest.raises(MissingPartError, match="holds no costs"):
                _ = run.cost_name
    with pytest.raises(MissingPartError, match="not trained with DIVDR.NUM_CLUSTERS"):
        _ = run.clusters
