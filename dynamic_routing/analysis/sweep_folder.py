"""What a sweep keeps on disk: whose folder it is, the results of its runs, tables, picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from dynamic_routing.analysis.panel import encode_png
from dynamic_routing.analysis.report import NotAvailable
from dynamic_routing.analysis.run_folder import flatten, read_results
from dynamic_routing.analysis.sweep import Point, differences
from dynamic_routing.analysis.sweep_figure import sweep_figure
from dynamic_routing.analysis.sweep_table import Outcome, SweepTable
from dynamic_routing.files import write_atomically

RECORD = "sweep.json"
"""Holds the settings that all runs of a folder share."""

IGNORED = ("OUTPUT_DIR", "SEED", "MODEL.DEVICE")
"""Config keys that may differ between two calls for one folder."""


def claim(folder: Path, settings: Mapping[str, str]) -> None:
    """Make the folder, or see that it is a sweep's with the same config.

    Runs are found again by the settings in their names, which say nothing of the rest of the
    config: one that was changed meanwhile would mix two experiments in one table.

    Args:
        folder: where the sweep goes.
        settings: key -> value of the config before anything is swept, and what else has to stay.

    Raises:
        ValueError: it is a sweep's of another config, or holds something else.
    """
    kept = {key: value for key, value in settings.items() if key not in IGNORED}
    record = folder / RECORD
    if record.exists():
        changed = differences(json.loads(record.read_text(encoding="utf-8")), kept)
        if changed:
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            raise ValueError(f"{folder} holds a sweep with {changed[0]}{more}; choose another one")
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not empty and was not made by sweep.py; choose another one")
    write_atomically(record, json.dumps(kept, indent=1).encode("utf-8"))


def outcome_of(point: Point, folder: Path) -> Outcome:
    """What the folder of a point's run holds."""
    found = read_results(folder / point.name)
    if isinstance(found, NotAvailable):
        return Outcome(point, {}, f"no results: {found.reason}")
    return Outcome(point, flatten(found))


def write_table(folder: Path, table: SweepTable) -> None:
    """points.csv, table.csv, table.md and, once there is a result, plot.png."""
    write_atomically(folder / "points.csv", table.points_csv().encode("utf-8"))
    write_atomically(folder / "table.csv", table.to_csv().encode("utf-8"))
    write_atomically(folder / "table.md", table.to_markdown().encode("utf-8"))
    if any(row.means for row in table.rows()):
        write_atomically(folder / "plot.png", encode_png(sweep_figure(table)))
