"""Reading a run's folder: what is missing is said, what is no number is left out."""

from __future__ import annotations

import json
import math
import platform

import pytest
import torch

from dynamic_routing.analysis.report import NotAvailable
from dynamic_routing.analysis.run_folder import (
    PACKAGES,
    SUMMARY,
    flat_settings,
    flatten,
    installed_versions,
    read_results,
    results_of,
    summarise,
)
from tests.modeling.builders import small_config

RESULTS = {
    "sem_seg": {"mIoU": 41.5, "pACC": 80.0, "IoU-road": 90.0, "IoU-car": float("nan")},
    "routing": {"gmacs_avg": 0.1, "distinct_routes": 3, "images": 12.0, "collapsed": 0.0},
}


def test_results_are_read_back(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    found = read_results(tmp_path)
    assert found["routing"] == RESULTS["routing"]
    assert math.isnan(found["sem_seg"]["IoU-car"])


def test_needed_results_have_a_value_or_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"results.json: No such file"):
        results_of(tmp_path, "sem_seg/mIoU")
    content = {"sem_seg": {"mIoU": 41.5, "IoU-car": None}, "routing": {"images": 12}}
    (tmp_path / "results.json").write_text(json.dumps(content))
    found = results_of(tmp_path, "routing/images", "sem_seg/mIoU")
    assert list(found.values()) == [12.0, 41.5]
    with pytest.raises(ValueError, match=r"no value for sem_seg/IoU-car, bbox/AP$"):
        results_of(tmp_path, "sem_seg/mIoU", "sem_seg/IoU-car", "bbox/AP")


@pytest.mark.parametrize("content", [None, "", "{", b"\xff\xfe"])
def test_missing_or_broken_results_are_not_available(tmp_path, content):
    if content is not None:
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / "results.json").write_bytes(data)
    found = read_results(tmp_path)
    assert isinstance(found, NotAvailable) and found.reason.startswith("results.json: ")


def test_missing_folder_is_not_available(tmp_path):
    assert "No such file" in read_results(tmp_path / "none").reason


def test_flat_results_hold_numbers_only():
    flat = flatten({**RESULTS, "other": {"name": "x", "list": [1], "none": None, "zero": 0}})
    assert flat["sem_seg/mIoU"] == 41.5 and flat["other/zero"] == 0.0
    assert set(flat) == {
        *(f"sem_seg/{name}" for name, v in RESULTS["sem_seg"].items() if math.isfinite(v)),
        *(f"routing/{name}" for name in RESULTS["routing"]),
        "other/zero",
    }
    assert all(type(value) is float for value in flat.values())


def test_summary_keeps_known_metrics_in_order():
    found = summarise(RESULTS)
    assert found == {
        "mIoU (%)": 41.5,
        "pixel accuracy (%)": 80.0,
        "GMACs an image, average": 0.1,
        "distinct routes": 3,
        "images": 12.0,
    }
    order = list(SUMMARY.values())
    assert sorted(found, key=order.index) == list(found)
    assert summarise({}) == {}


def test_settings_are_dotted():
    assert flat_settings({"A": {"B": {"C": 1}, "D": [2, "x"]}, "E": ""}) == {
        "A.B.C": "1",
        "A.D": "[2, 'x']",
        "E": "",
    }
    cfg = flat_settings(small_config())
    assert cfg["MODEL.DYNAMIC_ROUTING.WIDTH"] == "4" and cfg["SEED"] == "1"


def test_versions_are_those_installed():
    found = installed_versions()
    assert list(found) == ["python", *PACKAGES]
    assert found["python"] == platform.python_version()
    assert found["torch"] == torch.__version__ or str(found["torch"]) in torch.__version__


def test_package_that_is_missing_is_said_to_be(monkeypatch):
    monkeypatch.setattr("dynamic_routing.analysis.run_folder.PACKAGES", ("no-such-package",))
    assert installed_versions()["no-such-package"] == "not installed"
