"""The report: complete, self-contained, escaped; the training log it is made from."""

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image

from dynamic_routing.analysis.curves import TrainingLog, read_training_log, training_figure
from dynamic_routing.analysis.report import (
    NotAvailable,
    Picture,
    ReportData,
    RunReport,
    format_value,
    render_report,
    write_report,
)
from dynamic_routing.analysis.statistics import route_statistics
from dynamic_routing.routing import Routes, RoutingSpace
from tests.analysis.test_clusters import clustered

SPACE = RoutingSpace.grid(4, num_scales=3)
EVIL = "<script>alert('x')</script> & \"quotes\" {braces}"
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Collects tags, attributes and text, and checks that tags are closed in order."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.sources, self.text, self._open = [], [], "", []
        self.feed(html)
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href", "srcset")]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data


def example_run(tmp_path, **changes):
    Image.new("RGB", (8, 4), "red").save(tmp_path / "easy.png")
    gates = torch.rand(3, len(SPACE.edges)).clamp(min=0.3) - 0.3
    run = RunReport(
        title=EVIL,
        summary={"mIoU (%)": 71.236, EVIL: EVIL},
        training=TrainingLog({19: {"total_loss": 2.0, "lr": 0.1}, 39: {"total_loss": 1.0}}),
        evaluation={"trained": {"mIoU": 71.236, EVIL: 3.0}, "untrained": {"mIoU": 3.25}},
        per_class={EVIL: {"road": 90.0, EVIL: float("nan")}},
        statistics=route_statistics(Routes(SPACE, gates, "absent", (8, 8))),
        pictures=(Picture(tmp_path / "easy.png", EVIL), Picture(tmp_path / "gone.png", "hard")),
        settings={EVIL: EVIL, "SOLVER.BASE_LR": 0.0123456},
        class_metric=EVIL,
    )
    return replace(run, **changes)


def example(tmp_path, **changes):
    return ReportData(
        title=EVIL, runs=(example_run(tmp_path, **changes),), versions={"torch": "2.11"}
    )


def test_page_is_complete_and_self_contained(tmp_path):
    path = write_report(tmp_path / "new" / "report.html", example(tmp_path))
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    assert (
        page.tags.count("h2") == 2
        and page.tags.count("h3") == 7
        and "script" not in page.tags
        and "link" not in page.tags
    )
    assert len(page.sources) == 3  # curves, frequencies, the easy image
    for source in page.sources:
        content = base64.b64decode(source.removeprefix("data:image/png;base64,"), validate=True)
        Image.open(io.BytesIO(content)).verify()
    assert "http" not in re.sub(r"http-equiv", "", html) and "url(" not in html
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_clusters_have_a_table_a_map_and_a_route_each(tmp_path):
    page = Page(render_report(example(tmp_path, clusters=clustered())))
    assert "Clusters" in page.text and "cluster 2" in page.text
    assert len(page.sources) == 3 + 1 + 3
    assert "Clusters" not in Page(render_report(example(tmp_path))).text


def test_several_runs_stand_one_after_the_other(tmp_path):
    runs = (example_run(tmp_path, title="first"), example_run(tmp_path, title="second"))
    text = Page(render_report(replace(example(tmp_path), runs=runs))).text
    assert text.index("first") < text.index("second") < text.index("Versions")
    assert text.count("IoU of each class") == 0 and text.count("of each class (%)") == 2


def test_everything_is_escaped(tmp_path):
    html = render_report(example(tmp_path))
    assert "<script" not in html and "alert('x')" not in html
    assert Page(html).text.count(EVIL) >= 9


def test_numbers_are_shown(tmp_path):
    text = Page(render_report(example(tmp_path))).text
    assert "71.24" in text and "3.25" in text and "n/a" in text and "90.00" in text
    assert "0.0123456" in text and "Routes have not collapsed: 3 images take" in text


def test_collapse_is_a_warning(tmp_path):
    gates = torch.ones(3, len(SPACE.edges))
    statistics = route_statistics(Routes(SPACE, gates, "absent", (8, 8)))
    html = render_report(example(tmp_path, statistics=statistics))
    assert '<p class="warning">Routes have collapsed: all 3 images' in html


def test_missing_parts_say_why(tmp_path):
    parts = ("summary", "training", "evaluation", "per_class", "statistics", "pictures", "settings")
    missing = {part: NotAvailable(f"no {part} <here>") for part in parts}
    text = Page(render_report(example(tmp_path, **missing))).text
    for part in parts:
        assert f"not available: no {part} <here>" in text
    empty = example(tmp_path, pictures=(), evaluation={}, training=TrainingLog({1: {}}))
    text = Page(render_report(empty)).text
    assert text.count("not available: nothing was recorded") == 2
    assert "no loss and no learning rate" in text


def test_broken_pictures_do_not_stop_the_report(tmp_path):
    (tmp_path / "text.png").write_text("hello")
    pictures = (Picture(tmp_path / "gone.png", "hard"), Picture(tmp_path / "text.png", "easy"))
    text = Page(render_report(example(tmp_path, pictures=pictures))).text
    assert "hard (No such file or directory: gone.png)" in text
    assert "easy (text.png is no PNG)" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (71.236, "71.24"),
        (12.0, "12"),
        (0.000123456, "0.0001235"),
        (float("nan"), "n/a"),
        (float("inf"), "inf"),
        (3, "3"),
        ("x", "x"),
    ],
)
def test_values_are_short(value, text):
    assert format_value(value) == text


def log_of(tmp_path, text):
    (tmp_path / "metrics.json").write_text(text)
    return read_training_log(tmp_path / "metrics.json")


def test_log_survives_a_cut_line_and_a_resumed_run(tmp_path):
    lines = [json.dumps({"iteration": i, "total_loss": 1.0 * i}) for i in (19, 39, 59, 79)]
    resumed = [json.dumps({"iteration": i, "total_loss": -1.0 * i}) for i in (39, 59)]
    evaluated = json.dumps({"iteration": 59, "sem_seg/mIoU": float("nan"), "note": "text"})
    cut = '{"iteration": 79, "total_lo'
    log = log_of(tmp_path, "\n".join([*lines, *resumed, evaluated, cut]))
    assert log.series("total_loss").iterations == (19, 39, 59)
    assert log.series("total_loss").values == (19.0, -39.0, -59.0)
    assert log.series("sem_seg/mIoU").iterations == (59,)
    assert log.series("nothing").values == () and log.skipped_lines == 1
    assert log.names == ("total_loss", "sem_seg/mIoU")


def test_rare_quantities_stand_behind_later_iterations(tmp_path):
    lines = [
        json.dumps({"iteration": 19, "total_loss": 3.0}), json.dumps({"iteration": 0, "x": 1.0}),
        json.dumps({"iteration": 39, "total_loss": 2.0}), json.dumps({"iteration": 20, "x": 2.0}),
    ]  # fmt: skip
    log = log_of(tmp_path, "\n".join(lines))
    assert log.series("total_loss").iterations == (19, 39)
    assert log.series("x").iterations == (0, 20) and list(log.rows) == [0, 19, 20, 39]


def test_last_line_of_an_iteration_wins(tmp_path):
    log = log_of(tmp_path, '{"iteration": 5, "lr": 1}\n\n{"iteration": 5, "lr": 2}\n')
    assert log.rows == {5: {"lr": 2.0}} and log.skipped_lines == 0


def test_log_agrees_with_detectron2s_writer(tmp_path):
    from detectron2.utils.events import EventStorage, JSONWriter

    with EventStorage(0) as storage:
        writer = JSONWriter(str(tmp_path / "metrics.json"))
        for i in range(60):
            storage.put_scalars(total_loss=60.0 - i, lr=0.5, smoothing_hint=False)
            if i % 20 == 19:
                writer.write()
            storage.step()
        writer.close()
    log = read_training_log(tmp_path / "metrics.json")
    assert log.series("total_loss").iterations == (19, 39, 59)
    assert log.series("total_loss").values == (41.0, 21.0, 1.0)


@pytest.mark.parametrize("text", ["", "hello\n", "[1]\n", '{"loss": 1}\n', '{"iteration": NaN}\n'])
def test_log_without_iterations_is_refused(tmp_path, text):
    with pytest.raises(ValueError, match="no line with an iteration"):
        log_of(tmp_path, text)


def test_curves_show_the_series():
    rows = {i: {"total_loss": 1.0 / (i + 1), "loss_a": 0.5, "lr": 0.1} for i in range(5)}
    losses, rate = training_figure(TrainingLog(rows)).axes
    assert [line.get_label() for line in losses.lines] == ["total_loss", "loss_a"]
    assert losses.lines[0].get_ydata() == pytest.approx([1 / (i + 1) for i in range(5)])
    assert rate.lines[0].get_ydata() == pytest.approx([0.1] * 5)
