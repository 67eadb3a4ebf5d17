"""One HTML page on trained networks: self-contained, without scripts; its figures also as data."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TypeVar

from dynamic_routing.analysis.html import Values, missing, paragraph, values_table
from dynamic_routing.analysis.page import PAGE, STYLE
from dynamic_routing.files import write_atomically

T = TypeVar("T")

DATA_FILES = (
    "summary.csv", "curves.csv", "costs.csv", "a_space.csv", "clusters.csv", "images.csv",
    "edge_frequency.csv", "per_class.csv", "confusion.csv", "settings.json",
)  # fmt: skip
"""Every file that a run's data may consist of."""

REASON_LENGTH = 300


@dataclass(frozen=True)
class NotAvailable:
    """Stands where a part of the report is missing, and says why."""

    reason: str


class MissingPartError(Exception):
    """A part of a report cannot be made; its text is the reason."""


def need(part: T | NotAvailable) -> T:
    """The part itself.

    Raises:
        MissingPartError: it is not available.
    """
    if isinstance(part, NotAvailable):
        raise MissingPartError(part.reason)
    return part


@dataclass(frozen=True)
class Content:
    """What a section shows.

    Attributes:
        html: made by :mod:`~dynamic_routing.analysis.html`, so that it is escaped.
        data: file name -> bytes of a CSV or JSON file with the same numbers.
    """

    html: str
    data: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Attributes:
        heading: its name.
        content: what it shows, or why it is missing.
    """

    heading: str
    content: Content | NotAvailable


@dataclass(frozen=True)
class RunReport:
    """What a report shows of one training run, or of several side by side.

    Attributes:
        title: heading of the run.
        sections: its parts.
    """

    title: str
    sections: tuple[Section, ...]


@dataclass(frozen=True)
class ReportData:
    """A whole page.

    Attributes:
        title: heading of the page.
        runs: one or more.
        versions: packages and their versions.
    """

    title: str
    runs: tuple[RunReport, ...]
    versions: Values


def section(title: str, build: Callable[[], Content]) -> Section:
    """Make a part; what stops it becomes the reason why it is missing.

    Args:
        title: its heading.
        build: raises MissingPartError, or whatever damaged files lead to.
    """
    try:
        return Section(title, build())
    except Exception as error:  # one part of a stranger's files must not cost the page
        return Section(title, NotAvailable(reason_of(error)))


def reason_of(error: Exception) -> str:
    """Why a part is missing, in a line; of what nobody foresaw the type as well."""
    text = " ".join(str(error).split())
    if isinstance(error, MissingPartError | ValueError | OSError) and text:
        return text
    return textwrap.shorten(f"{type(error).__name__}: {text}", REASON_LENGTH, placeholder=" ...")


def data_folder(path: Path) -> Path:
    """Where the data of a report go: beside it."""
    return path.with_name(f"{path.stem}_data")


def write_report(path: str | Path, report: ReportData) -> Path:
    """Write the page and, in ``<stem>_data`` beside it, the numbers of its figures.

    Each file is written in one step and replaces that of an earlier report of this name; CSV and
    JSON files of parts that are missing now are removed from a run's folder.

    Returns:
        ``path``.

    Raises:
        OSError: the folder cannot be written.
    """
    path = Path(path)
    root = data_folder(path)
    for run, folder in zip(report.runs, run_folders(report)):
        _write_data(root / folder, run)
    return write_atomically(path, render_report(report, root.name).encode("utf-8", "replace"))


def _write_data(folder: Path, run: RunReport) -> None:
    """The files of one run, and none of those that an earlier report left."""
    found = [part.content for part in run.sections if isinstance(part.content, Content)]
    files = {name: content for part in found for name, content in part.data.items()}
    for name, content in files.items():
        write_atomically(folder / name, content)
    for name in set(DATA_FILES) - set(files):
        (folder / name).unlink(missing_ok=True)


def run_folders(report: ReportData) -> list[str]:
    """A folder for the data of each run, named by its title; "." for a single one."""
    if len(report.runs) == 1:
        return ["."]
    slugs = [re.sub(r"[^a-z0-9]+", "_", run.title.lower()).strip("_") for run in report.runs]
    return [f"{number}_{slug[:40]}".rstrip("_") for number, slug in enumerate(slugs, start=1)]


def render_report(report: ReportData, data: str = "report_data") -> str:
    """The page as HTML.

    Args:
        report: what it shows.
        data: name of the folder of its data, for the hints below the sections.
    """
    parts = [
        _run(run, data if folder == "." else f"{data}/{folder}")
        for run, folder in zip(report.runs, run_folders(report))
    ]
    parts.append(f"<h2>Versions</h2>\n{values_table(report.versions, str)}")
    title, body = escape(report.title), "\n".join(parts)
    return PAGE.format(style=STYLE, title=title, body=body)


def _run(run: RunReport, folder: str) -> str:
    """One run: its heading and sections."""
    body = "\n".join(_section(part, folder) for part in run.sections)
    return f"<article>\n<h2>{escape(run.title)}</h2>\n{body}\n</article>"


def _section(part: Section, folder: str) -> str:
    """A heading and its part, or why the part is missing."""
    content = part.content
    if isinstance(content, NotAvailable):
        body = missing(content.reason)
    else:
        files = ", ".join(f"{folder}/{name}" for name in content.data)
        body = content.html + (f"\n{paragraph(f'Data: {files}', 'data')}" if files else "")
    return f"<section>\n<h3>{escape(part.heading)}</h3>\n{body}\n</section>"
