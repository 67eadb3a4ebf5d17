"""Trainings as child processes: several at a time, which end with their parent, or one alone.

Only a parent killed with SIGKILL leaves them running; their folders are then refused.
"""

from __future__ import annotations

import fcntl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from dynamic_routing.analysis.run_folder import RESULTS_FILE

CONSOLE = "console.txt"
"""What a training prints, in its folder; a continued one appends."""

PATIENCE = 10.0
"""Seconds that a child has to end when it is told to."""


@dataclass(frozen=True)
class Ended:
    """A training that is over.

    Attributes:
        name: which one.
        seconds: wall time.
        problem: one line on why it failed, empty if it did not.
    """

    name: str
    seconds: float
    problem: str


class ChildTrainings:
    """Runs ``train_net.py --resume ... OUTPUT_DIR folder`` for many folders.

    Args:
        program: the training program.
        config_file: the config of all.
        folders: where the trainings go, a folder each, by name.
        jobs: how many run at a time, at least 1.

    Attributes:
        jobs: the same.

    Raises:
        ValueError: fewer than one job.
    """

    def __init__(self, program: Path, config_file: Path, *, folders: Path, jobs: int) -> None:
        if jobs < 1:
            raise ValueError(f"--jobs must be at least 1, got {jobs}")
        self._start = [sys.executable, str(program), "--config-file", str(config_file), "--resume"]
        self._folders = folders
        self.jobs = jobs
        self._children: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def run(self, overrides: Mapping[str, Sequence[str]]) -> Iterator[Ended]:
        """Train all, and tell of each when it is over.

        Whoever leaves the iteration early, by an exception too, ends those that still run.

        Args:
            overrides: name -> alternating keys and values.
        """
        self._stopped = False
        with ThreadPoolExecutor(self.jobs) as pool:
            futures = [pool.submit(self._train, name, more) for name, more in overrides.items()]
            try:
                for future in as_completed(futures):
                    yield future.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
                self._stop()

    def _train(self, name: str, overrides: Sequence[str]) -> Ended:
        """One training, from start to end."""
        folder, start = self._folders / name, time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        command = [*self._start, *overrides, "OUTPUT_DIR", str(folder)]
        with (folder / CONSOLE).open("ab") as log:
            if not _locked(log):
                return Ended(name, 0.0, f"another training is at work in {folder}")
            with self._lock:
                if self._stopped:
                    return Ended(name, 0.0, "not started")
                child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
                self._children.add(child)
            status = child.wait()
        with self._lock:
            self._children.discard(child)
        problem = f"status {status}: {last_line(folder / CONSOLE)}" if status else ""
        return Ended(name, time.monotonic() - start, problem)

    def _stop(self) -> None:
        """End what still runs; start nothing more."""
        with self._lock:
            self._stopped = True
            children = list(self._children)
        for child in children:
            child.terminate()
        for child in children:
            try:
                child.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                child.kill()


def train_once(program: Path, config_file: Path, folder: Path, options: Sequence[str]) -> None:
    """One training in the foreground, unless its results are there already.

    Args:
        program: the training program.
        config_file: of the training.
        folder: where ``options`` make it write; what it prints replaces what an earlier one did.
        options: more of the program's arguments, ``OUTPUT_DIR`` and the folder among them.

    Raises:
        RuntimeError: the training failed; names what it printed.
    """
    if (folder / RESULTS_FILE).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(program), "--config-file", str(config_file), *options]
    with (folder / CONSOLE).open("w", encoding="utf-8") as log:
        status = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode
    if status:
        raise RuntimeError(f"training failed (log: {folder / CONSOLE})")


def _locked(log: BinaryIO) -> bool:
    """Take a folder by its open log; False if another training holds it.

    The child inherits the open file and with it the lock. So a training that outlives a parent
    killed with SIGKILL, which ends nothing, keeps its folder until it is over.
    """
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def last_line(path: Path) -> str:
    """The last line with text, where a program says why it ended."""
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
