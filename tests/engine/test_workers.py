"""Workers of data loaders: forked wherever a loader is, and never there without their process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from dynamic_routing.engine.workers import end_with_process, with_quick_workers
from tests.engine.processes import is_running

FORK = multiprocessing.get_context("fork")
BY_ITSELF = 5.0
"""Seconds between two looks of PyTorch's workers for their process."""

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="Linux only"),
    pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),  # fork, 3.12
]


class ProcessIds:
    """A data set that says which process reads it."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        if index >= len(self):
            raise IndexError(index)
        return os.getpid()


def loader(workers: int) -> DataLoader:
    return with_quick_workers(DataLoader(ProcessIds(), num_workers=workers, batch_size=None))


def read_and_wait(folder: Path) -> None:
    """Says which workers it has and then waits to be killed."""
    batches = iter(loader(2))
    found = {next(batches) for _ in range(4)}
    (folder / "partial").write_text(" ".join(map(str, found)))
    (folder / "partial").rename(folder / "ids")
    time.sleep(600)


def become_worker_late(file: Path) -> None:
    """What a worker does whose process is killed while it starts."""
    while os.getppid() == multiprocessing.parent_process().pid:
        time.sleep(0.01)
    end_with_process(0)
    file.touch()


def start_late_worker(folder: Path) -> None:
    worker = FORK.Process(target=become_worker_late, args=(folder / "alive",))
    worker.start()
    (folder / "ids").write_text(str(worker.pid))
    time.sleep(600)


def kill_when_ready(target, folder: Path) -> list[int]:
    """Run ``target`` in a process that is killed once it has said its workers' ids."""
    process = FORK.Process(target=target, args=(folder,))
    process.start()
    deadline = time.monotonic() + 30
    while not (folder / "ids").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    return [int(word) for word in (folder / "ids").read_text().split()]


def seconds_until_gone(ids: list[int]) -> float:
    start = time.monotonic()
    while any(map(is_running, ids)) and time.monotonic() < start + 3 * BY_ITSELF:
        time.sleep(0.01)
    assert not any(map(is_running, ids))
    return time.monotonic() - start


def test_workers_are_others_and_forked_whatever_the_default_is():
    made = loader(2)
    assert made.multiprocessing_context.get_start_method() == "fork"
    assert os.getpid() not in set(made)


def test_loader_without_workers_stays_as_it_is():
    made = loader(0)
    assert made.multiprocessing_context is None and made.worker_init_fn is None
    assert set(made) == {os.getpid()}


def test_workers_end_at_once_with_their_killed_process(tmp_path):
    ids = kill_when_ready(read_and_wait, tmp_path)
    assert len(ids) == 2 and os.getpid() not in ids
    assert seconds_until_gone(ids) < BY_ITSELF / 2


def test_worker_whose_process_was_killed_while_it_started_ends(tmp_path):
    ids = kill_when_ready(start_late_worker, tmp_path)
    assert seconds_until_gone(ids) < BY_ITSELF / 2
    assert not (tmp_path / "alive").exists()
