"""Pieces of a report's HTML: tables, figures, notes. Whatever comes from a run is escaped here."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape

Values = Mapping[str, float | int | str]
"""Name -> value, a table of two columns."""

Columns = Mapping[str, Mapping[str, float]]
"""Column heading -> row name -> value; a cell without a value stays empty."""

MIME = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}
"""First bytes of a picture -> its type; nothing else goes into a page."""


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of text.

    Args:
        text: shown as it is.
        kind: a class of the style sheet: "", "note", "warning", "missing" or "data".
    """
    opening = f'<p class="{kind}">' if kind else "<p>"
    return f"{opening}{escape(text)}</p>"


def missing(reason: str) -> str:
    """Stands where a part is missing, and says why."""
    return paragraph(f"not available: {reason}", "missing")


def heading(text: str) -> str:
    """Of a part of a section."""
    return f"<h4>{escape(text)}</h4>"


def folded(summary: str, content: str) -> str:
    """HTML to be opened by whoever wants it."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


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


def values_table(values: Values, form: Callable[[float | int | str], str] = format_value) -> str:
    """Names and values."""
    rows = [
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(form(value))}</td></tr>'
        for name, value in values.items()
    ]
    return f'<div class="scroll"><table>{"".join(rows)}</table></div>'


def columns_table(
    corner: str, columns: Columns, form: Callable[[float], str] = format_value
) -> str:
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


# Pictures ---------------------------------------------------------------------------------------


def picture(content: bytes, caption: str, kind: str = "wide", *, width: int = 1120) -> str:
    """A PNG or JPEG inside the page.

    Args:
        content: the file's bytes.
        caption: what it shows; also what a screen reader says.
        kind: "wide" for a figure of the page's width, which scrolls on a phone; "half" for one of
            half the width, the full one on a phone; "tile" and "thumb" for photographs in rows.
        width: pixels that a wide figure takes where there is room.

    Raises:
        ValueError: neither PNG nor JPEG.
    """
    mime = next((m for start, m in MIME.items() if content.startswith(start)), None)
    if mime is None:
        raise ValueError(f"no PNG or JPEG: {content[:8]!r}")
    data, text = base64.b64encode(content).decode("ascii"), escape(caption)
    image = f'<img alt="{text}" src="data:{mime};base64,{data}">'
    if kind == "wide":
        image = f'<div class="scroll">{image}</div>'
    style = f' style="--w:{int(width)}px"' if kind == "wide" else ""
    return f'<figure class="{kind}"{style}>{image}<figcaption>{text}</figcaption></figure>'


def row_of(pictures: Iterable[str]) -> str:
    """Figures side by side where there is room."""
    return f'<div class="row">{"".join(pictures)}</div>'


def colour_legend(entries: Sequence[tuple[str, tuple[int, int, int]]]) -> str:
    """Names beside patches of their colours (red, green, blue of 0 to 255)."""
    items = "".join(
        f'<li><span style="background:rgb({int(r)},{int(g)},{int(b)})"></span>{escape(name)}</li>'
        for name, (r, g, b) in entries
    )
    return f'<ul class="legend">{items}</ul>' if items else ""
