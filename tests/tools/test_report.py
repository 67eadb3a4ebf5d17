"""report.py: a page of any run, one line for what cannot be used, and fast on large data sets."""

from __future__ import annotations

import csv
import io
import json
import resource
import time
import warnings

import numpy as np
import pytest
import report as tool
from matplotlib.figure import Figure

from dynamic_routing.evaluation.gates_file import save_gates
from dynamic_routing.evaluation.image_scores import save_scores
from dynamic_routing.routing import RoutingSpace
from tests.analysis.page import Page
from tests.evaluation.fake_run import fake_gates, fake_run, fake_scores

MEGABYTE = 1 << 20


def test_report_stands_beside_its_data(tmp_path, capsys):
    run = fake_run(tmp_path / "runs" / "a<b>")
    assert tool.main([str(run), "--no-pictures"]) == 0
    path = run / "report.html"
    assert capsys.readouterr().out.strip() == str(path)
    page = Page(path.read_text(encoding="utf-8"))
    assert "runs/a<b>" in page.text and "pictures were switched off" in page.text
    assert len(json.loads((run / "report_data" / "settings.json").read_text())) > 100
    with (run / "report_data" / "costs.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 24


@pytest.mark.slow
def test_compared_runs_stand_on_one_page(tmp_path):
    runs = [fake_run(tmp_path / name / "run", clusters=k) for name, k in (("x", 3), ("y", 0))]
    output = tmp_path / "both.html"
    arguments = [str(runs[0]), "--compare", str(runs[1]), "--output", str(output)]
    assert tool.main(arguments) == 0
    page = Page(output.read_text(encoding="utf-8"))
    assert page.text.index("Comparison") < page.text.index("Settings")
    assert "x/run: PCA" in page.text and "y/run: PCA" in page.text
    folders = sorted(path.name for path in (tmp_path / "both_data").iterdir())
    assert folders == ["1_comparison", "2_x_run", "3_y_run"]


def drawing_problem(text: str) -> str:
    """The type of error with which this Matplotlib refuses a text, empty if it draws it."""
    figure = Figure()
    figure.suptitle(text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old ones draw a box and say so
            figure.savefig(io.BytesIO())
    except Exception as error:
        return type(error).__name__
    return ""


def test_names_and_numbers_that_nothing_can_show_cost_no_page(tmp_path):
    run = fake_run(tmp_path / "run")
    scores = json.loads((run / "inference" / "scores_val.json").read_text())
    (run / "inference" / "scores_val.json").write_text(
        json.dumps({**scores, "classes": ["half a letter \ud800", "road"]})
    )
    results = json.loads((run / "results.json").read_text())
    results["sem_seg"] |= {"mIoU": 10**400, "IoU-huge": 10**400, "IoU-a\ud800b": 5.0}
    (run / "results.json").write_text(json.dumps(results))
    line = {"iteration": 0, "total_loss": 1.0, "loss_\ud800": 2.0}
    (run / "metrics.json").write_text(json.dumps(line))
    assert tool.main([str(run), "--no-pictures"]) == 0
    text = Page((run / "report.html").read_text(encoding="utf-8")).text
    assert "a?b" in text and "huge" not in text
    problem = drawing_problem("loss_\ud800")
    assert not problem or f"not available: {problem}" in text
    assert "Rows: truth, columns: prediction, 60 pixels" in text


def test_run_without_results_is_a_page(tmp_path):
    assert tool.main([str(tmp_path)]) == 0
    text = Page((tmp_path / "report.html").read_text(encoding="utf-8")).text
    assert text.count("not available") == 10 and "results.json: No such file" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none"], "no such run folder: none"),
        ([".", "--output", "."], "--output . is a folder"),
        ([".", "--compare", "none"], "no such run folder: none"),
        ([".", "--compare", "./"], "is the run itself"),
        ([".", "--dataset", "val"], "has no gates of data set val; it has those of: none"),
    ],
)
def test_wrong_input_is_one_line(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message) as info:
        tool.main(arguments)
    assert "\n" not in str(info.value) and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_5000_images_take_less_than_a_minute_and_2_gb(tmp_path):
    run = fake_run(tmp_path / "run", photos=False)
    gates = fake_gates(tmp_path, images=5000, clusters=4, space=RoutingSpace.grid(16))
    save_gates(run / "inference" / "gates_val.npz", gates)
    save_scores(run / "inference" / "scores_val.json", fake_scores(gates))
    start = time.process_time()
    assert tool.main([str(run)]) == 0
    assert time.process_time() - start < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < 2000 * MEGABYTE
    path = run / "report.html"
    text = Page(path.read_text(encoding="utf-8")).text
    assert "3000 of 5000 images, sampled with seed 0" in text
    assert path.stat().st_size < 8_000_000
    with (run / "report_data" / "a_space.csv").open() as file:
        assert len({row["file_name"] for row in csv.DictReader(file)}) == 3000


@pytest.mark.slow
def test_page_of_two_runs_full_of_noise_stays_below_8_mb(tmp_path):
    from PIL import Image

    runs = [fake_run(tmp_path / name, clusters=12, images=60) for name in "ab"]
    noise = np.random.default_rng(0).integers(0, 256, (200, 400, 3), dtype=np.uint8)
    for run in runs:
        gates = fake_gates(run / "photos", clusters=12, images=60, space=RoutingSpace.grid(33))
        save_gates(run / "inference" / "gates_val.npz", gates)
        save_scores(run / "inference" / "scores_val.json", fake_scores(gates))
        for name in gates.file_names:
            Image.fromarray(noise).save(name)
    assert tool.main([str(runs[0]), "--compare", str(runs[1])]) == 0
    size = (runs[0] / "report.html").stat().st_size
    assert 1_000_000 < size < 8_000_000
    assert "The 8 largest of 12 clusters are drawn" in (runs[0] / "report.html").read_text()
