"""From what training runs left in their folders to their parts of the report."""

from __future__ import annotations

from functools import partial

from dynamic_routing.analysis.data_files import columns_csv
from dynamic_routing.analysis.html import columns_table, paragraph, row_of
from dynamic_routing.analysis.report import (
    Content,
    MissingPartError,
    NotAvailable,
    RunReport,
    section,
)
from dynamic_routing.analysis.run_folder import summarise
from dynamic_routing.evaluation import report_classes, report_images, report_sections
from dynamic_routing.evaluation.report_pictures import StoredImages
from dynamic_routing.evaluation.run_files import RunFiles


def run_report(run: RunFiles, images: StoredImages | None, *, count: int = 2) -> RunReport:
    """The report of one run; what is missing says why.

    Args:
        run: its files.
        images: its images, with predictions if they can be made; None shows none.
        count: of the cheapest, dearest, best and worst images, so many each.
    """
    sections = [
        section("Summary", partial(report_sections.summary, run)),
        section("Over time", partial(report_sections.over_time, run)),
        section("Cost per image", partial(report_sections.costs, run)),
        section("Routes in A-space", partial(report_sections.a_space, run)),
        section("Clusters", partial(report_images.clusters, run, images)),
        section("Images", partial(_extremes, run, images, count)),
        section("Frequency of the edges", partial(report_classes.edge_frequency, run)),
        section("Classes", partial(report_classes.per_class, run)),
        section("Confusion matrix", partial(report_classes.confusion, run)),
        section("Settings", partial(report_sections.settings, run)),
    ]
    return RunReport(run.title, tuple(sections))


def _extremes(run: RunFiles, images: StoredImages | None, count: int) -> Content:
    """The images, unless the reader wants none."""
    if images is None:
        raise MissingPartError("pictures were switched off")
    return report_images.extremes(run, images, count=count)


def comparison(runs: list[RunFiles]) -> RunReport:
    """Several runs side by side: key metrics, and their routes in A-space."""
    return RunReport(
        "Comparison",
        (
            section("Summary", partial(_summaries, runs)),
            section("Routes in A-space", partial(_maps, runs)),
        ),
    )


def _summaries(runs: list[RunFiles]) -> Content:
    """A column a run."""
    columns: dict[str, dict[str, float]] = {}
    for run in runs:
        if not isinstance(run.results, NotAvailable):
            found = summarise(next(iter(run.results.values())))
            columns[run.title] = {k: v for k, v in found.items() if not isinstance(v, str)}
    if not columns:
        raise MissingPartError("no run has a results.json")
    return Content(
        columns_table("metric", columns), {"summary.csv": columns_csv("metric", columns)}
    )


def _maps(runs: list[RunFiles]) -> Content:
    """PCA and t-SNE of each run, each in its own plane."""
    parts = [paragraph("Each run has its own plane: compare how routes group, not where.")]
    for run in runs:
        try:
            parts.append(row_of(report_sections.space_figures(run, f"{run.title}: ")))
        except MissingPartError as error:
            parts.append(paragraph(f"{run.title}: not available: {error}", "missing"))
    return Content("\n".join(parts))
