"""The report on the environment: its columns, its verdicts, and that it needs no library."""

import json
import subprocess
import sys
from pathlib import Path

import doctor
import pytest
from packaging.version import Version

DOCTOR = Path(doctor.__file__)


def run_doctor(*arguments: str, python: tuple[str, ...] = (sys.executable,)):
    call = [*python, str(DOCTOR), *arguments]
    return subprocess.run(call, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(scope="module")
def report() -> list[dict[str, str]]:
    """What the doctor says about the environment of the tests."""
    result = run_doctor("--json")
    assert result.returncode == 0, result.stdout + result.stderr
    return json.loads(result.stdout)


@pytest.mark.slow
def test_the_environment_of_the_tests_is_complete(report):
    assert {piece["status"] for piece in report} <= {"ok", "optional"}


def test_every_version_that_matters_is_named(report):
    names = {piece["name"] for piece in report}
    assert names >= {
        *("python", "torch", "torchvision", "numpy", "Pillow", "CUDA", "threads"),
        *("detectron2", "detectron2 source", "detectron2 C++ extension", "fvcore", "iopath"),
        *("omegaconf", "pycocotools", "cityscapesscripts", "scikit-learn", "matplotlib"),
        *("opencv-python-headless", "tensorboard", "setuptools (pkg_resources)"),
    }


def test_every_library_of_the_report_has_a_tested_version(report):
    pins = doctor.tested_versions()
    for library in doctor.LIBRARIES:
        assert doctor.canonical(library.distribution) in pins, library


def test_without_any_library_it_reports_every_piece_and_a_fix():
    # -S leaves out site-packages: only the standard library is there.
    result = run_doctor("--json", python=(sys.executable, "-S"))
    assert result.returncode == 1, result.stderr
    pieces = {piece["name"]: piece for piece in json.loads(result.stdout)}
    assert pieces["torch"]["status"] == "missing"
    assert pieces["torch"]["fix"] == f"pip install 'torch=={pieces['torch']['tested']}'"
    assert pieces["detectron2"]["fix"] == doctor.INSTALL_DETECTRON2
    assert pieces["cityscapesscripts"]["status"] == "optional"
    assert all(piece["fix"] for piece in pieces.values() if piece["status"] != "ok")


def test_the_table_lines_up_and_ends_with_what_is_missing():
    result = run_doctor(python=(sys.executable, "-S"))
    assert result.returncode == 1
    header, *lines, last = result.stdout.splitlines()
    rows = [line for line in lines if not line.startswith("not the tested version: ")]
    column = header.index("ok, or what to do")
    assert all(row[column - 2 : column] == "  " and row[column] != " " for row in rows)
    assert last.startswith("missing or broken: ") and "detectron2" in last


def test_a_library_that_cannot_be_imported_is_broken_not_ok(monkeypatch):
    monkeypatch.setattr(doctor, "version_of", lambda name: "1.0")
    piece = doctor.check_library(doctor.Library("thing", "no_such_module"), "2.0")
    assert piece.status == "broken" and piece.fails
    assert piece.fix == (
        "pip install 'thing==2.0'  # ModuleNotFoundError: No module named 'no_such_module'"
    )


def test_versions_other_than_the_tested_ones_are_named_and_do_not_fail():
    pieces = [
        doctor.Piece("python", "3.11.7", "3.11", "ok"),
        doctor.Piece("numpy", "2.5.2", "2.4.6", "ok"),
        doctor.Piece("CUDA", "no", "", "ok"),
        doctor.Piece("torch", "", "2.14.1", "missing", "pip install torch"),
    ]
    assert doctor.differing(pieces) == ["numpy 2.5.2, tested 2.4.6"]
    assert [piece.name for piece in pieces if piece.fails] == ["torch"]


@pytest.mark.parametrize(
    ("found", "status"), [("1.25.9", "broken"), ("1.26", "ok"), ("1.26.0", "ok"), ("2.0", "ok")]
)
def test_a_library_older_than_setup_py_allows_is_broken(monkeypatch, found, status):
    monkeypatch.setattr(doctor, "version_of", lambda name: found)
    piece = doctor.check_library(doctor.Library("thing", "json"), "2.4.6", "1.26")
    assert (piece.status, piece.oldest) == (status, "1.26")
    assert piece.fix == ("" if status == "ok" else "pip install 'thing==2.4.6'  # older than 1.26")


def test_versions_are_compared_as_packaging_does():
    versions = ["0.9", "1.0", "1.0.0", "1.0.1", "1.10", "1.9.9", "2.14.1+cpu", "0.1.5.post2"]
    for one in versions:
        for other in versions:
            expected = Version(one.partition("+")[0]) < Version(other.partition("+")[0])
            assert doctor.is_older(one, other) == expected, (one, other)


def test_every_required_library_has_the_bound_of_setup_py():
    bounds = doctor.oldest_versions()
    for library in doctor.LIBRARIES:
        name = library.distribution
        assert doctor.canonical(name) in bounds or name in ("iopath", "omegaconf", "setuptools")
    assert bounds["numpy"] == "1.26" and bounds["onnx"] == "1.17"


def test_any_opencv_package_will_do(monkeypatch):
    monkeypatch.setattr(doctor, "version_of", {"opencv-python": "4.9"}.get)
    library = doctor.Library("opencv-python-headless", "json", others=doctor.OPENCV[1:])
    piece = doctor.check_library(library, "5.0")
    assert (piece.status, piece.found) == ("ok", "4.9 (opencv-python)")


def test_pins_are_read_in_every_spelling(tmp_path):
    path = tmp_path / "constraints.txt"
    path.write_text('# no==1\nOne_Two==1.0.post1\nnumpy==2.4.6; python_version >= "3.11"\n')
    assert doctor.tested_versions(path) == {"one-two": "1.0.post1", "numpy": "2.4.6"}
    assert doctor.tested_versions(tmp_path / "none.txt") == {}
