"""Running a test's function in several gloo processes."""

from __future__ import annotations

import faulthandler
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from detectron2.utils import comm

from dynamic_routing.engine import launch as launching
from dynamic_routing.engine.launch import launch

HANG_SECONDS = 200
"""After which a process says where it is and ends; before the time limit of a test."""


def in_processes(count: int, function: Callable[..., Any], *args: Any, folder: Path) -> list[Any]:
    """What ``function(*args)`` returned in each of ``count`` processes, rank by rank.

    Forked, since importing everything anew takes seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    patience = mock.patch.object(launching, "TIMEOUT", timedelta(seconds=1.5 * HANG_SECONDS))
    with mock.patch.dict(os.environ), patience:
        for name in ("MASTER_ADDR", "RANK", "WORLD_SIZE", "LOCAL_RANK"):
            os.environ.pop(name, None)
        launch(
            keep_result,
            function,
            args,
            folder,
            processes=count,
            device="cpu",
            start_method="fork",
        )
    return [torch.load(folder / f"result_{rank}.pt", weights_only=False) for rank in range(count)]


def keep_result(function: Callable[..., Any], args: tuple[Any, ...], folder: Path) -> None:
    """Store what the function returned."""
    faulthandler.dump_traceback_later(HANG_SECONDS, exit=True, file=sys.__stderr__)
    try:
        result = function(*args)
    finally:  # a job of one process is the test run itself
        faulthandler.cancel_dump_traceback_later()
    torch.save(result, folder / f"result_{comm.get_rank()}.pt")


def is_running(pid: int) -> bool:
    """Whether a process is there, and not just waiting for its parent to ask how it ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
