"""The files of a run that grow or repeat: metrics that a resumed run continues without a seam."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import hooks
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter

from dynamic_routing.files import write_atomically

METRICS, CONFIG, RESULTS = "metrics.json", "config.yaml", "results.json"
"""Files in OUTPUT_DIR."""

WRITING_PERIOD = 20
"""Iterations between two lines of metrics, Detectron2's."""

logger = logging.getLogger(__name__)


def write_config(cfg: CfgNode, folder: str | Path) -> Path:
    """Write the whole config into ``folder``."""
    return write_atomically(Path(folder) / CONFIG, cfg.dump().encode("utf-8"))


def prepare_metrics(path: Path, *, start_iter: int) -> None:
    """Make ``metrics.json`` ready for a training that starts at ``start_iter``.

    A run that starts anew gets its own file; that of the run before is kept under another name. A
    resumed one drops what the killed run wrote about iterations that come again, and a line that
    was cut short.

    Raises:
        OSError: the folder cannot be written.
    """
    if not path.is_file() or not path.stat().st_size:
        return
    if start_iter == 0:
        kept = next(p for n in count(1) if not (p := path.with_name(f"{path.name}.{n}")).exists())
        path.rename(kept)
        logger.info("%s of an earlier run is now %s", path.name, kept.name)
        return
    content = path.read_text(encoding="utf-8", errors="replace")
    lines = [line for i, line in numbered_lines(content) if i < start_iter]
    wanted = "".join(f"{line}\n" for line in lines)
    if wanted != content:
        write_atomically(path, wanted.encode("utf-8"))
        dropped = len(content.splitlines()) - len(lines)
        logger.info("%d lines of %s come again from %d on", dropped, path.name, start_iter)


def numbered_lines(content: str) -> Iterator[tuple[int, str]]:
    """(iteration, line) of each whole line of ``metrics.json``."""
    for line in content.splitlines():
        try:
            iteration = json.loads(line)["iteration"]
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
        if isinstance(iteration, int | float) and math.isfinite(iteration):
            yield int(iteration), line


def is_evaluated(path: Path, done: int) -> bool:
    """Whether the evaluation after ``done`` iterations is complete, for all processes alike.

    It is if ``metrics.json`` has a line of that iteration, which is written afterwards.
    """
    found = False
    if comm.is_main_process() and path.is_file():
        content = path.read_text(encoding="utf-8", errors="replace")
        found = any(i == done - 1 for i, _ in numbered_lines(content))
    return bool(comm.all_gather(found)[0])


def build_writers(folder: str | Path, *, max_iter: int, start_iter: int) -> list[EventWriter]:
    """Detectron2's writers; TensorBoard forgets what a killed run wrote and comes again."""
    return [
        CommonMetricPrinter(max_iter),
        JSONWriter(str(Path(folder) / METRICS)),
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
        prepare_metrics(self._path, start_iter=self.trainer.start_iter)
        self._writers = self._build()
        if self.trainer.storage.latest():  # an evaluation that the killed run owed
            self._write()

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
