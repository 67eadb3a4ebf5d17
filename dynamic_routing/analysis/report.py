"""One HTML page on a trained network: self-contained, without scripts."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TypeVar

from matplotlib.figure import Figure

from dynamic_routing.analysis.clusters import (
    ClusteredRoutes,
    average_route_figure,
    cluster_table,
    map_figure,
)
from dynamic_routing.analysis.curves import TrainingLog, training_figure
from dynamic_routing.analysis.drawing import draw_route
from dynamic_routing.analysis.page import PAGE, STYLE
from dynamic_routing.analysis.panel import encode_png, route_figure_size
from dynamic_routing.analysis.statistics import RouteStatistics
from dynamic_routing.files import write_atomically
from dynamic_routing.routing.space import Edge

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

T = TypeVar("T")


@dataclass(frozen=True)
class NotAvailable:
    """Stands where a part of the report is missing, and says why."""

    reason: str


@dataclass(frozen=True)
class Picture:
    """A PNG file for the report.

    Attributes:
        path: the file; its bytes go into the page.
        caption: what it shows; also what a screen reader says.
    """

    path: Path
    caption: str


Values = Mapping[str, float | int | str]
"""Name -> value, a table of two columns."""

Columns = Mapping[str, Mapping[str, float]]
"""Column heading -> row name -> value; a cell without a value stays empty."""


@dataclass(frozen=True)
class RunReport:
    """What a report shows of one training run; any part may be :class:`NotAvailable`.

    Attributes:
        title: heading of the run.
        summary: the key metrics.
        training: losses and learning rate.
        evaluation: metric by network, such as ``{"trained": {"mIoU": 71.2}, "untrained": ...}``.
        per_class: IoU or AP in % by class and network, in the same form.
        statistics: routes over a data set.
        pictures: for example of an easy and a hard image.
        settings: configuration keys and values.
        clusters: of a network that was trained with DivDR; None for another one.
        class_metric: what ``per_class`` holds.
    """

    title: str
    summary: Values | NotAvailable
    training: TrainingLog | NotAvailable
    evaluation: Columns | NotAvailable
    per_class: Columns | NotAvailable
    statistics: RouteStatistics | NotAvailable
    pictures: tuple[Picture, ...] | NotAvailable
    settings: Values | NotAvailable
    clusters: ClusteredRoutes | None = None
    class_metric: str = "IoU"


@dataclass(frozen=True)
class ReportData:
    """A whole page.

    Attributes:
        title: heading of the page.
        runs: one or more training runs.
        versions: packages and their versions.
    """

    title: str
    runs: tuple[RunReport, ...]
    versions: Values | NotAvailable


def write_report(path: str | Path, report: ReportData) -> Path:
    """Write the page in one step. Everything that is shown is escaped.

    Returns:
        ``path``.

    Raises:
        OSError: the folder cannot be written.
    """
    return write_atomically(path, render_report(report).encode("utf-8"))


def render_report(report: ReportData) -> str:
    """The page as HTML."""
    parts = [_run(run) for run in report.runs]
    parts.append(f"<h2>Versions</h2>\n{_part(report.versions, _settings_table)}")
    title, body = escape(report.title), "\n".join(parts)
    return PAGE.format(style=STYLE, title=title, body=body)


def _run(run: RunReport) -> str:
    """One run: its heading and sections."""
    sections = [
        _section("Summary", run.summary, _values_table),
        _section("Training", run.training, _training),
        _section("Evaluation", run.evaluation, _evaluation),
        _section(f"{run.class_metric} of each class (%)", run.per_class, _per_class),
        _section("Routes", run.statistics, _routes),
        "" if run.clusters is None else _section("Clusters", run.clusters, _clusters),
        _section("Pictures", run.pictures, _pictures),
        _section("Settings", run.settings, _folded_settings),
    ]
    body = "\n".join(sections)
    return f"<article>\n<h2>{escape(run.title)}</h2>\n{body}\n</article>"


def _section(heading: str, part: T | NotAvailable, render: Callable[[T], str]) -> str:
    """A heading and its part, or why the part is missing."""
    return f"<section>\n<h3>{escape(heading)}</h3>\n{_part(part, render)}\n</section>"


def _part(part: T | NotAvailable, render: Callable[[T], str]) -> str:
    """A part, or why it is missing."""
    if not isinstance(part, NotAvailable) and hasattr(part, "__len__") and not len(part):
        part = NotAvailable("nothing was recorded")
    return _missing(part.reason) if isinstance(part, NotAvailable) else render(part)


def _missing(reason: str) -> str:
    return f'<p class="missing">not available: {escape(reason)}</p>'


# Tables -----------------------------------------------------------------------------------------


def format_value(value: float | int | str) -> str:
    """A float in four significant digits, ``n/a`` for nan; everything else as it is."""
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return "n/a"
    return str(int(value)) if value.is_integer() and abs(value) < 1e9 else f"{value:.4g}"


def format_percentage(value: float) -> str:
    """Two decimals, so that a column of percentages lines up; ``n/a`` for nan."""
    return "n/a" if math.isnan(value) else f"{value:.2f}"


def _values_table(values: Values, form: Callable[[float | int | str], str] = format_value) -> str:
    """Names and values."""
    rows = [
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(form(value))}</td></tr>'
        for name, value in values.items()
    ]
    return f'<div class="scroll"><table>{"".join(rows)}</table></div>'


def _settings_table(values: Values) -> str:
    """Values exactly as they are."""
    return _values_table(values, str)


def _folded_settings(values: Values) -> str:
    """Many settings, to be opened by whoever wants them."""
    return f"<details><summary>{len(values)} settings</summary>{_settings_table(values)}</details>"


def _columns_table(corner: str, columns: Columns, form: Callable[[float], str]) -> str:
    """Rows of numbers; the names of all columns, in order of appearance."""
    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    heads = "".join(f'<th scope="col" class="number">{escape(head)}</th>' for head in columns)
    rows = []
    for name in names:
        texts = [form(column[name]) if name in column else "" for column in columns.values()]
        cells = "".join(f'<td class="number">{escape(text)}</td>' for text in texts)
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    head = f'<thead><tr><th scope="col">{escape(corner)}</th>{heads}</tr></thead>'
    return f'<div class="scroll"><table>{head}<tbody>{"".join(rows)}</tbody></table></div>'


def _evaluation(columns: Columns) -> str:
    return _columns_table("metric", columns, format_value)


def _per_class(columns: Columns) -> str:
    return _columns_table("class", columns, format_percentage)


# Pictures ---------------------------------------------------------------------------------------


def _image(content: bytes, caption: str) -> str:
    """A PNG inside the page."""
    data = base64.b64encode(content).decode("ascii")
    text = escape(caption)
    return (
        f'<figure><div class="scroll"><img alt="{text}" src="data:image/png;base64,{data}"></div>'
        f"<figcaption>{text}</figcaption></figure>"
    )


def _training(log: TrainingLog) -> str:
    try:
        figure = training_figure(log)
    except ValueError as error:
        return _missing(str(error))
    note = f" Damaged lines skipped: {log.skipped_lines}." if log.skipped_lines else ""
    return _image(encode_png(figure), "Losses and learning rate over the iterations." + note)


def _routes(statistics: RouteStatistics) -> str:
    """Numbers, the warning if routes collapsed, and how often each edge was open."""
    verdict = "Routes have collapsed" if statistics.collapsed else "Routes have not collapsed"
    kind = "warning" if statistics.collapsed else "note"
    numbers: dict[str, float | int | str] = {
        "images": statistics.images,
        "distinct routes": statistics.distinct_routes,
        f"open edges, average of {statistics.grid_edges}": statistics.open_edges_avg,
        "open edges, fewest": statistics.open_edges_min,
        "open edges, most": statistics.open_edges_max,
        "share of edges open (%)": 100 * statistics.open_share,
        "mean entropy of a gate (bits)": statistics.entropy_mean,
        "gates never open": len(statistics.never_open),
        "gates always open": len(statistics.always_open),
    }
    figure = Figure(figsize=route_figure_size(statistics.space), layout="constrained")
    draw_route(figure.subplots(), statistics.space, statistics.open_rate, label="share of images")
    caption = "How often each edge was open over the data set; grey edges never were."
    return "\n".join(
        [
            f'<p class="{kind}">{verdict}: {escape(statistics.collapse_reason)}.</p>',
            _values_table(numbers),
            _image(encode_png(figure), caption),
            _edge_list("Gates that never open", statistics.never_open),
            _edge_list("Gates that always open", statistics.always_open),
        ]
    )


def _edge_list(heading: str, edges: tuple[Edge, ...]) -> str:
    names = "; ".join(str(edge) for edge in edges) or "none"
    return (
        f"<details><summary>{escape(heading)} ({len(edges)})</summary>"
        f"<p>{escape(names)}</p></details>"
    )


def _clusters(clusters: ClusteredRoutes) -> str:
    """Numbers of each cluster, the map of A-space, and the average route of each cluster."""
    parts = [
        _columns_table("cluster", cluster_table(clusters), format_value),
        _image(encode_png(map_figure(clusters)), "Routes of the images in A-space, by cluster."),
    ]
    for k in range(len(clusters)):
        images = len(clusters.rows(k))
        if images:
            caption = f"Cluster {k}: how often its {images} images open each edge."
            parts.append(_image(encode_png(average_route_figure(clusters, k)), caption))
    return "\n".join(parts)


def _pictures(pictures: tuple[Picture, ...]) -> str:
    return "\n".join(_picture(picture) for picture in pictures)


def _picture(picture: Picture) -> str:
    """A picture, or why it is missing."""
    try:
        content = picture.path.read_bytes()
    except OSError as error:
        return _missing(f"{picture.caption} ({error.strerror}: {picture.path.name})")
    if not content.startswith(PNG_SIGNATURE):
        return _missing(f"{picture.caption} ({picture.path.name} is no PNG)")
    return _image(content, picture.caption)
