"""Watching the processes of a job: when one fails, the others are ended and it is named."""

from __future__ import annotations

import json
import logging
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from dynamic_routing.engine.loaders import worker_message
from dynamic_routing.engine.stopping import LOOK_SECONDS, end
from dynamic_routing.files import write_atomically

SETTLE_SECONDS = 1.0
"""After a failure others fail too, of broken connections; so long their reports are awaited."""

USER_ERRORS = (ValueError, OSError)
"""What a user can mend: reported in one line, without a traceback."""


class RankError(RuntimeError):
    """A process of the job failed; one line that names its rank.

    Attributes:
        user: whether it is something that the user has to mend.
    """

    def __init__(self, message: str, *, user: bool = False) -> None:
        super().__init__(message)
        self.user = user


def report(folder: Path, rank: int, error: BaseException) -> None:
    """Say in ``folder`` why this process failed."""
    user = isinstance(error, USER_ERRORS)
    message = worker_message(error) if user else f"{type(error).__name__}: {error}"
    content = {
        "time": time.time(),
        "rank": rank,
        "user": user,
        # What a user has to mend may be a list of lines; everything else is one.
        "message": message if user else message.strip().split("\n", 1)[0],
        "traceback": "" if user else "".join(traceback.format_exception(error)),
    }
    try:
        write_atomically(folder / f"rank_{rank}.json", json.dumps(content).encode("utf-8"))
    except OSError:  # the parent ended first and took its folder along
        pass
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()


def watch(processes: Sequence[BaseProcess], folder: Path, *, first_rank: int = 0) -> None:
    """Wait until all processes are done; if one fails, end the others.

    Args:
        processes: started, rank by rank.
        folder: where they :func:`report`.
        first_rank: rank of the first one.

    Raises:
        RankError: names the process that failed first and what it said.
    """
    try:
        running = list(processes)
        while running:
            # What a process forked may hold its sentinel open after it.
            wait([process.sentinel for process in running], timeout=LOOK_SECONDS)
            # Asked once: one that ends between two questions would be taken for one that is done.
            codes = [process.exitcode for process in running]
            if any(codes):
                time.sleep(SETTLE_SECONDS)
                raise _cause(processes, folder, first_rank)
            running = [process for process, code in zip(running, codes) if code is None]
    finally:
        end(processes)


def _cause(processes: Sequence[BaseProcess], folder: Path, first_rank: int) -> RankError:
    """Of several failures the first.

    That is one without a report, if there is any: it died at once, the others of its silence.
    """
    codes = {first_rank + i: process.exitcode or 0 for i, process in enumerate(processes)}
    failed = {rank: code for rank, code in codes.items() if code}
    reports = [json.loads(path.read_bytes()) for path in folder.glob("rank_*.json")]
    silent = failed.keys() - {entry["rank"] for entry in reports}
    # A library that lost its peers may abort; that follows from another failure.
    dead = sorted(silent, key=lambda rank: (failed[rank] == -signal.SIGABRT, rank))
    if dead and (failed[dead[0]] != -signal.SIGABRT or not reports):
        return RankError(f"rank {dead[0]} {_ending(failed[dead[0]])}; the others were ended too")
    first = min(reports, key=lambda entry: entry["time"])
    if first["traceback"]:
        print(f"rank {first['rank']}:\n{first['traceback']}", file=sys.stderr)
    return RankError(f"rank {first['rank']}: {first['message']}", user=first["user"])


def _ending(code: int) -> str:
    """An exit code in words."""
    if code > 0:
        return f"ended with exit status {code}"
    hint = " (out of memory?)" if code == -signal.SIGKILL else ""
    return f"was ended by {signal.Signals(-code).name}{hint}"
