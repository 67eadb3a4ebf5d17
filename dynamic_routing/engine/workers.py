"""Workers of data loaders: quick to start in every process of a job, and gone with it."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from typing import Any, TypeVar

from torch.utils.data import DataLoader

PR_SET_PDEATHSIG = 1
"""Linux: the signal that a process gets when the one that started it is gone."""

Loader = TypeVar("Loader", bound=DataLoader[Any])


def with_quick_workers(loader: Loader) -> Loader:
    """Let the workers of a loader be forked and end with their process, however that ends.

    In the processes that torch.multiprocessing starts, workers else are started as those were:
    each imports everything anew, several seconds for every pass over a data set. And by itself a
    worker looks only every 5 seconds whether its process is there; one whose process was killed
    while the worker started never ends.

    Args:
        loader: changed in place before its first pass. On other systems than Linux it stays as it
            is, since forking is not safe there.
    """
    if loader.num_workers and sys.platform == "linux":
        loader.multiprocessing_context = "fork"
        loader.worker_init_fn = end_with_process
    return loader


def end_with_process(_worker: int) -> None:
    """End this worker as soon as its process is gone; Linux only."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None and os.getppid() != parent.pid:  # gone before the line above
        os._exit(1)
