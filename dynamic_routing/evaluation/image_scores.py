"""How good each image's prediction was, kept beside its gates.

``inference/scores_<data set>.json`` lets a report name the best and the worst images, and the
accuracy of each cluster, without a second pass over the data. Its entries, version 1:

=================  ================================================================================
``format``         ``"dynamic_routing image scores"``
``version``        1
``file_names``     N names, as in the gates file
``metrics``        name -> N numbers in [0, 1], null where a metric is undefined for an image
``classes``        K names of the rows and columns of ``confusion``, or []
``confusion``      K rows of K counts, or null; row: truth, column: prediction
=================  ================================================================================

The metrics that evaluators write (:data:`METRICS`):

``iou``             of semantic segmentation: IoU averaged over the classes that occur in the truth
                    or in the prediction of the image; pixels without truth do not count
``pixel_accuracy``  share of the pixels with truth that are right
``mask_f1``         of detectors: F1 at IoU 0.5 of the detections with a score of at least 0.5;
``box_f1``          null for an image that has no object and where none was found
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dynamic_routing.files import write_atomically

FORMAT = "dynamic_routing image scores"
VERSION = 1
MAX_BYTES = 1 << 30
"""Largest file that is read: some 10 million images."""

METRICS = {
    "mask_f1": "mask F1",
    "iou": "IoU",
    "box_f1": "box F1",
    "pixel_accuracy": "pixel accuracy",
}
"""Metric -> what it is called; the first one that is there ranks the images."""

NOTHING = "(nothing)"
"""Class of a missed object's prediction and of a false detection's truth."""


class ImageScoresError(ValueError):
    """A file that holds no image scores that this version can read."""


@dataclass(frozen=True, eq=False)
class ImageScores:
    """Scores of N images.

    Attributes:
        file_names: N names, no two alike.
        metrics: name -> (N,) float64 in [0, 1], NaN where undefined.
        classes: K names, those of ``confusion``.
        confusion: (K, K) int64 counts over the data set, row truth, column prediction; of pixels,
            or of objects and then with the class :data:`NOTHING`. None where there is none.

    Raises:
        ValueError: lengths that differ, a name that occurs twice, a score outside [0, 1].
    """

    file_names: tuple[str, ...]
    metrics: Mapping[str, np.ndarray]
    classes: tuple[str, ...] = ()
    confusion: np.ndarray | None = None
    _rows: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        rows = {name: row for row, name in enumerate(self.file_names)}
        object.__setattr__(self, "_rows", rows)
        if len(rows) != len(self.file_names):
            raise ValueError(f"{len(self.file_names)} file names, {len(rows)} different ones")
        for name, values in self.metrics.items():
            if values.shape != (len(rows),):
                raise ValueError(f"{name} of {len(rows)} images has shape {values.shape}")
            wrong = values[np.isinf(values) | (values < 0) | (values > 1)]
            if len(wrong):
                raise ValueError(f"{name} must lie in [0, 1], got {wrong[0]}")
        self._check_confusion()

    def _check_confusion(self) -> None:
        """ValueError unless the matrix has a row and a column for each class."""
        found, count = self.confusion, len(self.classes)
        if found is not None and (found.shape != (count, count) or found.min(initial=0) < 0):
            raise ValueError(f"confusion of {count} classes: shape {found.shape}, or negative")

    def __len__(self) -> int:
        return len(self.file_names)

    @property
    def ranking(self) -> str:
        """The metric by which images are ranked, "" without any."""
        return next((name for name in METRICS if name in self.metrics), "")

    def of(self, metric: str, file_names: tuple[str, ...]) -> np.ndarray:
        """One metric of the named images, NaN for those without a score."""
        values = self.metrics[metric]
        rows = [self._rows.get(name, -1) for name in file_names]
        return np.array([values[row] if row >= 0 else math.nan for row in rows], dtype=np.float64)

    def joined(self, other: ImageScores) -> ImageScores:
        """Both evaluators' metrics of the same data set; the confusion is the first one's."""
        names = tuple(dict.fromkeys([*self.file_names, *other.file_names]))
        metrics = {m: scores.of(m, names) for scores in (other, self) for m in scores.metrics}
        kept = other if self.confusion is None else self
        return ImageScores(names, metrics, kept.classes, kept.confusion)


def scores_path(folder: str | Path, dataset_name: str) -> Path:
    """Where a data set's scores are kept, beside its gates."""
    return Path(folder) / f"scores_{dataset_name.replace('/', '_')}.json"


def save_scores(path: str | Path, scores: ImageScores) -> Path:
    """Write ``scores`` in one step, images in the order of their names.

    Raises:
        OSError: the folder cannot be written.
    """
    order = sorted(range(len(scores)), key=lambda row: scores.file_names[row])
    content = {
        "format": FORMAT,
        "version": VERSION,
        "file_names": [scores.file_names[row] for row in order],
        "metrics": {name: _with_nulls(v[order]) for name, v in sorted(scores.metrics.items())},
        "classes": list(scores.classes),
        "confusion": None if scores.confusion is None else scores.confusion.tolist(),
    }
    return write_atomically(path, json.dumps(content, allow_nan=False).encode("utf-8"))


def _with_nulls(values: np.ndarray) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values.tolist()]


def load_scores(path: str | Path) -> ImageScores:
    """Read what :func:`save_scores` wrote.

    Raises:
        ImageScoresError: the file is cut short, damaged, of another kind or of a newer version.
        OSError: there is no such file, or it cannot be read.
    """
    path = Path(path)
    size = path.stat().st_size
    try:
        if size > MAX_BYTES:
            raise ValueError(f"{size} bytes, at most {MAX_BYTES} are read")
        return _scores(json.loads(path.read_bytes()))
    except OSError:
        raise
    except (ValueError, RecursionError, OverflowError) as error:
        raise ImageScoresError(
            f"{path} holds no image scores ({type(error).__name__}: {error}); run the evaluation "
            "again to write it"
        ) from error


def _scores(content: Any) -> ImageScores:
    """Check and name the entries of a file."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError("the entry 'format' names another kind of file")
    if content.get("version") != VERSION:
        found = content.get("version")
        raise ValueError(f"version {found!r}, this package reads version {VERSION}")
    metrics = content.get("metrics")
    if not isinstance(metrics, dict):
        raise ValueError(f"the entry 'metrics' is {type(metrics).__name__}")
    return ImageScores(
        file_names=_texts(content, "file_names"),
        metrics={name: _numbers(name, values) for name, values in metrics.items()},
        classes=_texts(content, "classes"),
        confusion=_counts(content.get("confusion")),
    )


def _texts(content: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """A list of strings."""
    values = content.get(name)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"the entry {name!r} is no list of texts")
    return tuple(values)


def _numbers(name: str, values: Any) -> np.ndarray:
    """A list of numbers and nulls."""
    allowed = isinstance(values, list) and all(
        value is None or type(value) in (int, float) for value in values
    )
    if not allowed:
        raise ValueError(f"the metric {name!r} is no list of numbers")
    if any(isinstance(value, float) and math.isnan(value) for value in values):
        raise ValueError(f"the metric {name!r} holds NaN; undefined is null")
    return np.array([math.nan if v is None else v for v in values], dtype=np.float64)


def _counts(rows: Any) -> np.ndarray | None:
    """Rows of whole numbers."""
    if rows is None:
        return None
    square = isinstance(rows, list) and all(
        isinstance(row, list) and len(row) == len(rows) and all(type(v) is int for v in row)
        for row in rows
    )
    if not square:
        raise ValueError("the entry 'confusion' is no square of whole numbers")
    return np.array(rows, dtype=np.int64).reshape(len(rows), len(rows))
