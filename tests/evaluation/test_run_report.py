"""The report's numbers are those of results.json and of the gates file, and its texts are text."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from dynamic_routing.analysis.html import format_value
from dynamic_routing.analysis.report import (
    Content,
    MissingPartError,
    NotAvailable,
    ReportData,
    render_report,
)
from dynamic_routing.analysis.run_folder import SUMMARY
from dynamic_routing.evaluation.gates_file import load_gates
from dynamic_routing.evaluation.image_scores import load_scores
from dynamic_routing.evaluation.report_images import clusters, extreme_rows, extremes
from dynamic_routing.evaluation.report_pictures import StoredImages
from dynamic_routing.evaluation.run_files import read_run
from dynamic_routing.evaluation.run_report import comparison, run_report
from tests.analysis.page import EVIL, Page
from tests.evaluation.fake_run import DATASET, SPACE, fake_run

NO_MODEL = "no weights here"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fake_run(tmp_path_factory.mktemp("runs") / "a <run>")


@pytest.fixture(scope="module")
def report(folder):
    return run_report(read_run(folder), StoredImages(NO_MODEL))


def data(report, name):
    """A data file of a report as rows by heading."""
    for part in report.sections:
        if isinstance(part.content, Content) and name in part.content.data:
            text = part.content.data[name].decode("utf-8")
            return list(csv.DictReader(io.StringIO(text)))
    raise AssertionError(f"no data {name}")


def text_of(report, heading):
    (part,) = [part for part in report.sections if part.heading == heading]
    if isinstance(part.content, NotAvailable):
        return f"not available: {part.content.reason}"
    return Page(part.content.html).text


def stored(folder):
    inference = folder / "inference"
    gates = load_gates(inference / f"gates_{DATASET}.npz")
    return gates, load_scores(inference / f"scores_{DATASET}.json")


def test_every_part_is_there(report):
    for part in report.sections:
        assert isinstance(part.content, Content), part
    names = [name for part in report.sections for name in part.content.data]
    assert sorted(names) == sorted({
        "summary.csv", "curves.csv", "costs.csv", "a_space.csv", "clusters.csv", "images.csv",
        "edge_frequency.csv", "per_class.csv", "confusion.csv", "settings.json",
    })  # fmt: skip


def test_page_is_escaped_and_self_contained(report):
    html = render_report(ReportData("t", (report,), {}))
    page = Page(html)
    assert "<script" not in html and "<b>" not in html
    assert all(source.startswith("data:image/") for source in page.sources)
    assert EVIL in page.text and "0000 <b>.png" in page.text


def test_summary_shows_results_json(folder, report):
    results = json.loads((folder / "results.json").read_text())
    text, rows = text_of(report, "Summary"), data(report, "summary.csv")
    assert {row["key"] for row in rows} == {
        key for key in SUMMARY
        if key.split("/")[1] in results.get(key.split("/")[0], {})
    }  # fmt: skip
    for row in rows:
        group, name = row["key"].split("/")
        assert float(row["trained"]) == results[group][name]
        assert f"{SUMMARY[row['key']]}{format_value(float(results[group][name]))}" in text


def test_costs_are_those_of_the_gates_file_and_of_results_json(folder, report):
    gates, scores = stored(folder)
    routing = json.loads((folder / "results.json").read_text())["routing"]
    rows = data(report, "costs.csv")
    assert [row["file_name"] for row in rows] == list(gates.file_names)
    for column, values in {
        "gmacs": gates.costs["gmacs"], "paper_gflops": gates.costs["paper_gflops"],
        "milliseconds": gates.milliseconds, "cluster": gates.clusters.labels,
        "open_edges": (gates.gates > 0).sum(dim=1).numpy(), "iou": scores.metrics["iou"],
    }.items():  # fmt: skip
        found = [float(row[column]) if row[column] else math.nan for row in rows]
        np.testing.assert_array_equal(found, values)
    text = text_of(report, "Cost per image")
    for title, key, value in (
        ("average", "gmacs_avg", np.mean([float(row["gmacs"]) for row in rows])),
        ("least", "gmacs_min", min(float(row["gmacs"]) for row in rows)),
        ("most", "gmacs_max", max(float(row["gmacs"]) for row in rows)),
    ):
        assert routing[key] == pytest.approx(value)
        assert f"GMACs an image, {title}{value:.4g}" in text
    assert routing["ms_avg"] == pytest.approx(gates.milliseconds.mean())
    assert f"milliseconds an image, average{routing['ms_avg']:.4g}" in text


def test_curves_are_those_of_metrics_json(folder, report):
    rows = {row["iteration"]: row for row in data(report, "curves.csv")}
    for line in (folder / "metrics.json").read_text().splitlines():
        for name, value in json.loads(line).items():
            found = rows[str(json.loads(line)["iteration"])][name]
            assert (float(found) if found else math.nan) == pytest.approx(value, nan_ok=True)


def test_clusters_are_recomputed_from_the_gates_file(folder, report):
    gates, scores = stored(folder)
    activations = gates.routes.activations().numpy()
    for k, row in enumerate(data(report, "clusters.csv")):
        own = [i for i in range(len(gates)) if i % 3 == k]
        centre = activations[own].mean(axis=0)
        distance = {i: np.linalg.norm(activations[i] - centre) for i in own}
        near = sorted(own, key=distance.__getitem__)[:5]
        assert [row[f"nearest_{i + 1}"] for i in range(5)] == [gates.file_names[i] for i in near]
        assert float(row["images"]) == len(own)
        assert float(row["GMACs"]) == pytest.approx(gates.costs["gmacs"][own].mean())
        iou = scores.metrics["iou"][own]
        assert float(row["IoU (0 to 1)"]) == pytest.approx(np.nanmean(iou))
        average = sum(distance.values()) / len(own)
        assert float(row["distance to the centre"]) == pytest.approx(average)


def test_edges_are_recomputed_from_the_gates_file(folder, report):
    gates, _ = stored(folder)
    rows = data(report, "edge_frequency.csv")
    assert [(int(r["layer"]), int(r["scale"]), r["kind"]) for r in rows] == SPACE.to_edges()
    values = gates.gates.numpy().astype(np.float64)
    np.testing.assert_allclose([float(r["open_rate"]) for r in rows], (values > 0).mean(axis=0))
    np.testing.assert_allclose([float(r["gate_mean"]) for r in rows], values.mean(axis=0))


def test_extremes_are_those_of_costs_and_scores(folder, report):
    gates, scores = stored(folder)
    cost, iou = gates.costs["gmacs"], scores.metrics["iou"]
    roles = {row["role"]: row["file_name"] for row in data(report, "images.csv")}
    assert roles["cheapest"] == gates.file_names[cost.argmin()]
    assert roles["dearest"] == gates.file_names[cost.argmax()]
    assert roles["best"] == gates.file_names[np.nanargmax(iou)]
    assert roles["worst"] == gates.file_names[np.nanargmin(iou)]
    assert roles["second best"] == gates.file_names[np.argsort(np.nan_to_num(iou, nan=-1))[-2]]
    text = text_of(report, "Images")
    assert f"not available: predictions: {NO_MODEL}" in text and "Cheapest" in text


def test_map_and_confusion_have_their_data(folder, report):
    gates, scores = stored(folder)
    rows = data(report, "a_space.csv")
    assert [row["file_name"] for row in rows] == list(gates.file_names)
    assert {"pca_1", "pca_2", "tsne_1", "tsne_2", "cluster"} < set(rows[0])
    assert "all 24 images" in text_of(report, "Routes in A-space")
    found = [[int(row[name]) for name in scores.classes] for row in data(report, "confusion.csv")]
    np.testing.assert_array_equal(found, scores.confusion)
    assert data(report, "per_class.csv") == [
        {"class": "road", "IoU (%)": "61.5", "accuracy (%)": "75.0"},
        {"class": EVIL, "IoU (%)": "21.0", "accuracy (%)": ""},
    ]


@pytest.mark.slow
def test_network_without_clusters_has_everything_else(tmp_path):
    found = run_report(read_run(fake_run(tmp_path / "dr", clusters=0)), None)
    missing = [p.heading for p in found.sections if isinstance(p.content, NotAvailable)]
    assert missing == ["Clusters", "Images"]
    assert "not trained with DIVDR.NUM_CLUSTERS" in text_of(found, "Clusters")
    assert "coloured by cost" in text_of(found, "Routes in A-space")
    assert "no divdr/intra_pair" not in text_of(found, "Over time")


class NoPhotos(StoredImages):
    """No image can be read."""

    def photo(self, file_name):
        raise MissingPartError(f"no file {file_name}")


PARTS = {
    "results.json": ("Summary", "Classes"),
    "metrics.json": ("Over time",),
    "inference/gates_val.npz": (
        "Cost per image", "Routes in A-space", "Clusters", "Images", "Frequency of the edges",
    ),
    "inference/scores_val.json": ("Confusion matrix",),
    "config.yaml": ("Settings",),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTS)
def test_what_a_run_did_not_leave_is_named(tmp_path, folder, name):
    shutil.copytree(folder, tmp_path / "run")
    (tmp_path / "run" / name).unlink()
    found = run_report(read_run(tmp_path / "run"), NoPhotos(NO_MODEL), count=1)
    missing = {
        p.heading: p.content.reason for p in found.sections if isinstance(p.content, NotAvailable)
    }
    assert tuple(missing) == PARTS[name]
    assert all(Path(name).name in reason for reason in missing.values()), missing
    if "scores" in name:
        assert "not available: best and worst images" in text_of(found, "Images")
        assert "not available: accuracy of the clusters" in text_of(found, "Clusters")


def test_run_without_anything_is_a_page_of_reasons(tmp_path):
    found = run_report(read_run(tmp_path), StoredImages(NO_MODEL))
    assert all(isinstance(part.content, NotAvailable) for part in found.sections)
    text = Page(render_report(ReportData("t", (found,), {}))).text
    assert text.count("not available: ") == len(found.sections)


@pytest.mark.slow
def test_images_that_are_gone_keep_their_numbers_and_routes(tmp_path):
    run, images = read_run(fake_run(tmp_path / "run", photos=False)), StoredImages(NO_MODEL)
    text = Page(extremes(run, images, count=1).html).text
    assert "not available: no file" in text and "Route of 00" in text and "GMACs" in text
    assert "not available: no file" in Page(clusters(run, images).html).text


@pytest.mark.slow
def test_equal_scores_have_no_best_image(tmp_path):
    folder = fake_run(tmp_path / "run", photos=False)
    path = folder / "inference" / f"scores_{DATASET}.json"
    content = json.loads(path.read_text())
    content["metrics"] = {"box_f1": [0.0] * 24}
    path.write_text(json.dumps(content))
    run = read_run(folder)
    assert {r for names in extreme_rows(run, 1).values() for r in names} == {"cheapest", "dearest"}
    text = Page(extremes(run, StoredImages(""), count=1).html).text
    assert "no two images have different scores" in text


def test_comparison_puts_runs_side_by_side(tmp_path):
    titles = ("DivDR <1>", "DR")
    runs = [
        read_run(fake_run(tmp_path / str(k), clusters=k), title=title)
        for k, title in zip((3, 0), titles)
    ]
    found = comparison(runs)
    rows = {row["metric"]: row for row in data(found, "summary.csv")}
    assert rows["mIoU (%)"] == {"metric": "mIoU (%)", "DivDR <1>": "41.25", "DR": "41.25"}
    page = Page(render_report(ReportData("t", (found,), {})))
    assert len(page.sources) == 4
    for title in titles:
        assert f"{title}: PCA of A-space." in page.text and f"{title}: t-SNE" in page.text
    lone = comparison([runs[0], read_run(tmp_path)])
    assert re.search("not available: no data set is known", text_of(lone, "Routes in A-space"))
