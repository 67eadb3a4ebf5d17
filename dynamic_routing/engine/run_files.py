"""The files of a run that grow or repeat: metrics that a resumed run continues without a seam."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import hooks
from detectron2.utils import comm
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
)

from dynamic_routing.engine.bad_numbers import POST_MORTEM
from dynamic_routing.engine.checkpoint_history import HISTORY, TAG
from dynamic_routing.files import strict_json, write_atomically

METRICS, CONFIG, RESULTS = "metrics.json", "config.yaml", "results.json"
"""Files in OUTPUT_DIR."""

BEST = "model_best"
"""Name of the checkpoint with the best metric."""

OF_ONE_RUN = (TAG, HISTORY, f"{BEST}.pth", METRICS, POST_MORTEM)
"""What a later run in the same folder must not take for its own; the tag first, see there."""

EVALUATED = "evaluation_seconds"
"""Scalar that comes with each evaluation."""

WRITING_PERIOD = 20
"""Iterations between two lines of metrics, Detectron2's."""

logger = logging.getLogger(__name__)


def write_config(cfg: CfgNode, folder: str | Path) -> Path:
    """Write the whole config into ``folder``."""
    return write_atomically(Path(folder) / CONFIG, cfg.dump().encode("utf-8"))


def put_earlier_run_aside(folder: str | Path) -> None:
    """Keep an earlier run's tag, best checkpoint, metrics and post-mortem under other names.

    Killed before its first checkpoint and resumed, the new run would else go on with the earlier
    one, and hold its best metric for its own. Without a tag it starts anew, and comes here again
    if this was cut short.
    """
    for name in OF_ONE_RUN:
        move_aside(Path(folder) / name)


def move_aside(path: Path) -> None:
    """Keep a file of an earlier run under another name."""
    if not path.is_file() or not path.stat().st_size:
        return
    kept = next(p for n in count(1) if not (p := path.with_name(f"{path.name}.{n}")).exists())
    path.rename(kept)
    logger.info("%s of an earlier run is now %s", path.name, kept.name)


def drop_lines(path: Path, *, start: int) -> None:
    """Drop what a killed run wrote about iterations from ``start`` on, and lines cut short.

    Raises:
        OSError: the folder cannot be written.
    """
    if not path.is_file():
        return
    content = path.read_text(encoding="utf-8", errors="replace")
    lines = [line for i, line in numbered_lines(content) if i < start]
    wanted = "".join(f"{line}\n" for line in lines)
    if wanted != content:
        write_atomically(path, wanted.encode("utf-8"))
        dropped = len(content.splitlines()) - len(lines)
        logger.info("%d lines of %s come again from %d on", dropped, path.name, start)


def numbered_lines(content: str) -> Iterator[tuple[int, str]]:
    """(iteration, line) of each whole line of ``metrics.json``."""
    for line in content.splitlines():
        try:
            iteration = json.loads(line)["iteration"]
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
        if isinstance(iteration, int | float) and math.isfinite(iteration):
            yield int(iteration), line


def scalars_of(path: Path, iteration: int) -> dict[str, float]:
    """What ``metrics.json`` says about an iteration; empty without such a line."""
    if not path.is_file():
        return {}
    content = path.read_text(encoding="utf-8", errors="replace")
    found: dict[str, float] = {}
    for i, line in numbered_lines(content):
        if i == iteration:
            found.update(json.loads(line))
    found.pop("iteration", None)
    return {name: float(v) for name, v in found.items() if isinstance(v, int | float)}


def add_to_line(path: Path, iteration: int, scalars: Mapping[str, float]) -> None:
    """Make ``metrics.json`` end with a line of this iteration: what it said so far, and more.

    Raises:
        OSError: the folder cannot be written.
    """
    line = {**scalars_of(path, iteration), **scalars, "iteration": iteration}
    drop_lines(path, start=iteration)
    content = path.read_bytes() if path.is_file() else b""
    write_atomically(path, content + json_line(line).encode("utf-8"))


def json_line(scalars: Mapping[str, float]) -> str:
    """One line of ``metrics.json``: strict JSON, null for what is no finite number."""
    return strict_json(dict(sorted(scalars.items())), indent=None) + "\n"


class MetricsFile(JSONWriter):
    """Detectron2's JSONWriter, whose lines are strict JSON and ascend within a call.

    An absent class has no score; ``NaN``, which Python writes for that, is no JSON.
    """

    _last_write: int

    def write(self) -> None:
        """A line for each iteration with scalars that have not been written."""
        latest = get_event_storage().latest_with_smoothing_hint(self._window_size)
        rows: dict[int, dict[str, float]] = {}
        for name, (value, iteration) in latest.items():
            if iteration > self._last_write:
                rows.setdefault(iteration, {"iteration": iteration})[name] = value
        self._file_handle.writelines(json_line(rows[iteration]) for iteration in sorted(rows))
        self._file_handle.flush()
        os.fsync(self._file_handle.fileno())
        self._last_write = max(rows, default=self._last_write)


def is_evaluated(path: Path, done: int) -> bool:
    """Whether the evaluation after ``done`` iterations is complete, for all processes alike.

    It is if ``metrics.json`` says how long it took, which is written after everything else.
    """
    found = comm.is_main_process() and EVALUATED in scalars_of(path, done - 1)
    return bool(comm.all_gather(found)[0])


def build_writers(folder: str | Path, *, max_iter: int, start_iter: int) -> list[EventWriter]:
    """Detectron2's writers; TensorBoard forgets what a killed run wrote and comes again."""
    return [
        CommonMetricPrinter(max_iter),
        MetricsFile(str(Path(folder) / METRICS)),
        TensorboardXWriter(str(folder), purge_step=start_iter or None),
    ]


class MetricsWriters(hooks.PeriodicWriter):
    """Detectron2's PeriodicWriter, whose files are opened when the training starts.

    It also writes after each evaluation, so that a line of such an iteration says that its
    evaluation is complete. Has to be the last hook.

    Args:
        build: makes the writers.
        path: of ``metrics.json``.
        eval_period: iterations between evaluations; 0: at the end only.
        config: written beside it when the training starts.
    """

    def __init__(
        self,
        build: Callable[[], list[EventWriter]],
        *,
        path: Path,
        eval_period: int,
        config: CfgNode,
    ) -> None:
        super().__init__([], period=WRITING_PERIOD)
        self._build = build
        self._path = path
        self._eval_period = eval_period
        self._config = config

    def before_train(self) -> None:
        """Open the files; everything that could refuse the training has happened."""
        write_config(self._config, self._path.parent)
        start = self.trainer.start_iter
        if start == 0:
            put_earlier_run_aside(self._path.parent)
        else:
            drop_lines(self._path, start=start)
        # Of an evaluation that the killed run had not finished.
        owed = {name: value for name, (value, _) in self.trainer.storage.latest().items()}
        if owed:
            add_to_line(self._path, start - 1, owed)
        self._writers = self._build()
        for writer in self._writers if owed else ():
            if isinstance(writer, JSONWriter):
                writer._last_write = start - 1  # has just been written
            else:
                writer.write()

    def after_step(self) -> None:
        """Write where it is time."""
        done = self.trainer.iter + 1
        periods = [p for p in (self._period, self._eval_period) if p > 0]
        if done >= self.trainer.max_iter or any(done % period == 0 for period in periods):
            self._write()

    def _write(self) -> None:
        for writer in self._writers:
            writer.write()

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the files are their own memory."""
        return {}
