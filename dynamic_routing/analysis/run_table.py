"""A table of runs: what they reached and what it cost, from the files in their folders."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from dynamic_routing.analysis.compared_curves import run_names

ABSENT = "n/a"
METRICS = {
    "sem_seg/mIoU": "mIoU",
    "bbox/AP": "box AP",
    "segm/AP": "mask AP",
    "keypoints/AP": "keypoint AP",
    "panoptic_seg/PQ": "PQ",
    "classification/top1": "top-1",
}
"""Main metrics of the tasks; those that any run has become columns."""

ROUTING = {
    "routing/gmacs_avg": "GMACs avg",
    "routing/gmacs_max": "GMACs max",
    "routing/gmacs_min": "GMACs min",
    "routing/ms_avg": "ms",
    "routing/divdr_inter": "inter",
    "routing/divdr_intra_pair": "intra",
}
PARAMETERS = "params (M)"
COLUMNS = ("GMACs avg", "GMACs max", "GMACs min", "ms", PARAMETERS, "inter", "intra")
CHECKPOINT = "model_final.pth"
BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "gate.strength")
"""Ends of names in a state dict that are no parameters."""

LOSS_PREFIX = "routing_losses."
"""Losses on routes keep centres and the like, no parameters."""


@dataclass(frozen=True)
class RunRow:
    """One run.

    Attributes:
        name: of the run.
        values: column -> number; those that are missing are in ``reasons``.
        reasons: column -> why it is not available.
    """

    name: str
    values: Mapping[str, float]
    reasons: Mapping[str, str]


def read_row(name: str, folder: Path) -> RunRow:
    """What the files of a run say of it.

    Raises:
        ValueError: there is no such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"run {folder} is no folder; give the OUTPUT_DIR of a training")
    values: dict[str, float] = {}
    reasons: dict[str, str] = {}
    results = _results(folder / "results.json")
    for key, title in {**METRICS, **ROUTING}.items():
        number = math.nan if isinstance(results, str) else results.get(key, math.nan)
        if math.isfinite(number):
            values[title] = number
        else:
            reasons[title] = results if isinstance(results, str) else _why(key, folder)
    parameters = parameters_of(folder / CHECKPOINT)
    if isinstance(parameters, str):
        reasons[PARAMETERS] = parameters
    else:
        values[PARAMETERS] = parameters / 1e6
    return RunRow(name, values, reasons)


def _results(path: Path) -> dict[str, float] | str:
    """``group/metric`` -> number, or why there is none."""
    try:
        groups = json.loads(path.read_text(encoding="utf-8"))
        return {
            f"{group}/{name}": float(value)
            for group, metrics in groups.items()
            for name, value in metrics.items()
            if isinstance(value, int | float)
        }
    except FileNotFoundError:
        return f"no {path.name}: the run was not evaluated to its end"
    except (OSError, ValueError, AttributeError, RecursionError, OverflowError) as error:
        return f"{path.name} cannot be read ({type(error).__name__})"


def _why(key: str, folder: Path) -> str:
    """Why results have no value for a key, as far as the settings tell."""
    if key.startswith("routing/divdr"):
        clusters = _setting(folder, "MODEL", "DYNAMIC_ROUTING", "DIVDR", "NUM_CLUSTERS")
        if clusters == 0:
            return "trained without clusters (DIVDR.NUM_CLUSTERS 0)"
    sets = _setting(folder, "DATASETS", "TEST")
    if isinstance(sets, list | tuple) and len(sets) > 1:
        return f"results of {len(sets)} test sets; evaluate with one"
    return "not in results.json"


def _setting(folder: Path, *keys: str) -> Any:
    """A value of ``config.yaml``, None if there is none."""
    try:
        node = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None
    for key in keys:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node


def parameters_of(path: Path) -> int | str:
    """Number of parameters in a checkpoint, or why it is unknown.

    Buffers are left out by their names: running statistics, strengths of fixed gates, centres of
    clusters, and all of norms that do not count their batches, which are frozen ones.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        state = content["model"]
        frozen = {
            name.removesuffix("running_mean")
            for name in state
            if name.endswith(".running_mean")
            and name.replace("running_mean", "num_batches_tracked") not in state
        }
        return sum(
            tensor.numel()
            for name, tensor in state.items()
            if not name.endswith(BUFFERS)
            and not name.startswith(LOSS_PREFIX)
            and name[: name.rfind(".") + 1] not in frozen
        )
    except FileNotFoundError:
        return f"no {path.name}: the training is not complete"
    except Exception as error:  # damaged files raise a dozen types in zipfile, pickle and torch
        return f"{path.name} cannot be read ({type(error).__name__})"


def read_rows(runs: Sequence[str | Path]) -> list[RunRow]:
    """The rows of a table.

    Raises:
        ValueError: a folder that is not there or given twice.
    """
    folders = [Path(run) for run in runs]
    return [read_row(name, folder) for name, folder in zip(run_names(folders), folders)]


def table_columns(rows: Sequence[RunRow]) -> list[str]:
    """The metrics that any run has, then costs and diversity; one metric column at least."""
    found = [title for title in METRICS.values() if any(title in row.values for row in rows)]
    return [*(found or [METRICS["sem_seg/mIoU"]]), *COLUMNS]


def reasons(rows: Sequence[RunRow]) -> list[str]:
    """Why cells are not available: a line for each run and reason."""
    lines = []
    for row in rows:
        grouped: dict[str, list[str]] = {}
        for column in table_columns(rows):
            if column not in row.values:
                grouped.setdefault(row.reasons[column], []).append(column)
        lines += [f"{row.name}: {', '.join(names)}: {why}" for why, names in grouped.items()]
    return lines


def as_markdown(rows: Sequence[RunRow]) -> str:
    """The table, with the reasons below."""
    columns = table_columns(rows)
    lines = ["| run | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    for row in rows:
        cells = [_shown(row, column) for column in columns]
        lines.append(f"| {row.name.replace('|', '/')} | " + " | ".join(cells) + " |")
    why = [f"- {line}" for line in reasons(rows)]
    return "\n".join([*lines, "", *([f"{ABSENT}:", "", *why] if why else [])]).rstrip() + "\n"


def as_csv(rows: Sequence[RunRow]) -> str:
    """The table in full precision; reasons as lines that begin with #."""
    columns, text = table_columns(rows), io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", *columns])
    for row in rows:
        writer.writerow([row.name, *(row.values.get(column, ABSENT) for column in columns)])
    return text.getvalue() + "".join(f"# {line}\n" for line in reasons(rows))


def _shown(row: RunRow, column: str) -> str:
    return f"{row.values[column]:.4g}" if column in row.values else ABSENT
