"""Tables as bytes of CSV and JSON files, for the data beside a report's figures."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def csv_bytes(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """A table with a header; None and NaN are empty cells, floats have every digit."""
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return content.getvalue().encode("utf-8", errors="replace")


def columns_csv(corner: str, columns: Mapping[str, Mapping[str, float]]) -> bytes:
    """Column heading -> row name -> value, as a table whose first column is ``corner``."""
    names = dict.fromkeys(name for column in columns.values() for name in column)
    rows = [[name, *(column.get(name) for column in columns.values())] for name in names]
    return csv_bytes([corner, *columns], rows)


def json_bytes(content: Any) -> bytes:
    """JSON as people read it.

    Raises:
        ValueError: NaN or infinity.
    """
    return json.dumps(content, indent=1, allow_nan=False).encode("utf-8")


def _cell(value: Any) -> Any:
    """A value as a CSV cell; numpy's numbers become Python's."""
    value = value.item() if hasattr(value, "item") else value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return repr(value) if isinstance(value, float) else value
