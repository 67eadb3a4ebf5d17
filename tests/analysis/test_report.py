"""The page: complete, self-contained, escaped; its data beside it."""

import base64
import io
import re
from dataclasses import replace

import pytest
from matplotlib.figure import Figure
from PIL import Image

from dynamic_routing.analysis.html import paragraph, picture, values_table
from dynamic_routing.analysis.panel import encode_png
from dynamic_routing.analysis.report import (
    Content,
    MissingPartError,
    NotAvailable,
    ReportData,
    RunReport,
    Section,
    data_folder,
    need,
    render_report,
    section,
    write_report,
)
from tests.analysis.page import EVIL, Page


def run_of(title=EVIL, **data):
    figure = picture(encode_png(Figure(figsize=(1, 1)), dpi=20), EVIL)
    shown = Content(values_table({EVIL: EVIL}) + paragraph(EVIL) + figure, data)
    parts = (Section(EVIL, shown), Section("Gone", NotAvailable(f"no file {EVIL}")))
    return RunReport(title, parts)


def report_of(*runs):
    return ReportData(EVIL, runs or (run_of(),), {"torch": "2.11", EVIL: EVIL})


def test_page_is_complete_and_self_contained(tmp_path):
    path = write_report(tmp_path / "new" / "report.html", report_of())
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    assert page.tags.count("h2") == 2 and page.tags.count("h3") == 2
    assert "script" not in page.tags and "link" not in page.tags
    (source,) = page.sources
    content = base64.b64decode(source.removeprefix("data:image/png;base64,"), validate=True)
    Image.open(io.BytesIO(content)).verify()
    assert "http" not in re.sub(r"http-equiv", "", html) and "url(" not in html
    assert "default-src 'none'; img-src data:" in html
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_everything_is_escaped():
    html = render_report(report_of())
    assert "<script" not in html and "alert('x')" not in html
    assert Page(html).text.count(EVIL) >= 9


def test_missing_parts_say_why():
    assert f"not available: no file {EVIL}" in Page(render_report(report_of())).text

    def gone():
        raise MissingPartError("no gates")

    def wrong():
        raise ValueError("nan")

    assert section("A", gone) == Section("A", NotAvailable("no gates"))
    assert section("A", wrong) == Section("A", NotAvailable("nan"))
    with pytest.raises(MissingPartError, match="nothing"):
        need(NotAvailable("nothing"))
    assert need(3) == 3


def test_several_runs_stand_one_after_the_other_each_with_its_data(tmp_path):
    runs = [run_of("First <run>", **{"costs.csv": b"1"}), run_of("../", **{"costs.csv": b"2"})]
    path = write_report(tmp_path / "r.html", report_of(*runs))
    text = Page(path.read_text(encoding="utf-8")).text
    assert text.index("First <run>") < text.index("../") < text.index("Versions")
    assert "Data: r_data/1_first_run/costs.csv" in text and "r_data/2/costs.csv" in text
    assert (tmp_path / "r_data" / "1_first_run" / "costs.csv").read_bytes() == b"1"
    assert (tmp_path / "r_data" / "2" / "costs.csv").read_bytes() == b"2"


def test_data_of_parts_that_are_gone_do_not_stay(tmp_path):
    path = tmp_path / "r.html"
    run = run_of(**{"costs.csv": b"1", "curves.csv": b"2"})
    write_report(path, report_of(run))
    (data_folder(path) / "notes.txt").write_text("mine")
    part = Section("A", Content("", {"costs.csv": b"3"}))
    write_report(path, report_of(replace(run, sections=(part,))))
    found = {p.name: p.read_bytes() for p in data_folder(path).iterdir()}
    assert found == {"costs.csv": b"3", "notes.txt": b"mine"}
