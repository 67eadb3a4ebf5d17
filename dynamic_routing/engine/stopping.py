"""Ending a run by a signal: Ctrl-C, SIGTERM of a batch system, SIGHUP of a closed terminal.

One process decides: the one that was started. It ends the others of its job, which see nothing of
a Ctrl-C, and those end the workers of their data loaders. An interrupted process unwinds as after
an error, so that no file is left half written.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.util
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, NoReturn

FROM_TERMINAL = tuple(s for s in signal.Signals if s.name in ("SIGINT", "SIGHUP"))
"""What a terminal sends to all processes of a job at once; Windows has no SIGHUP."""

SIGNALS = (*FROM_TERMINAL, signal.SIGTERM)
"""What ends a run in an orderly way."""

KEPT = (signal.SIG_IGN, None)
"""Handlers that stay: a signal that is ignored, or that a library outside Python handles."""

REPEAT_SECONDS = 5.0
"""Within this time a further signal is taken for the same wish and does not disturb the ending."""

END_SECONDS = 10.0
"""How long a process has to follow SIGTERM before SIGKILL."""

AFTER_FORK_SECONDS = 0.1
"""How much later a signal that came while a process was forked comes again."""

FOLLOW_SECONDS = 0.5
"""How much later than its workers a process may get a signal that was for all of them."""

LOOK_SECONDS = 1.0
"""How often a process looks whether another one is there, beside what the system tells it."""


class Stopped(KeyboardInterrupt):
    """A signal ended the run; as KeyboardInterrupt no handler of errors takes it for one.

    Attributes:
        signal: which one.
    """

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        super().__init__(f"interrupted by {self.signal.name}")

    @property
    def status(self) -> int:
        """Exit status that shells expect."""
        return 128 + self.signal


class _Catcher:
    """Handler of signals.

    Attributes:
        stopped: the first one that came, None before.
    """

    def __init__(self) -> None:
        self.stopped: Stopped | None = None
        self._last = 0.0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Raise in the main thread, unless the process is ending already."""
        if getattr(_fork, "under_way", False):  # Python drops what is raised there
            later = threading.Timer(AFTER_FORK_SECONDS, os.kill, (os.getpid(), number))
            later.daemon = True
            later.start()
            return

        now = time.monotonic()
        if self.stopped is not None and now - self._last < REPEAT_SECONDS:
            return
        if self.stopped is None:
            _let_children_die()
        # One that a destructor swallowed is raised again when the user insists.
        self.stopped, self._last = self.stopped or Stopped(number), now
        raise self.stopped


_fork = threading.local()
"""Of a thread that forks: that it does (``under_way``), and which signals it held back before."""


def _hold_signals() -> None:
    """Keep signals until the new process has the system's handlers: a fork forgets what came."""
    _fork.under_way = True
    _fork.mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _release_signals() -> None:
    """As before the fork."""
    signal.pthread_sigmask(signal.SIG_SETMASK, _fork.mask)
    _fork.under_way = False


def _forget_in_child() -> None:
    """Give a forked process the system's SIGTERM instead of ours, and make it deaf to a terminal.

    A Python handler runs between two steps of Python. A signal that comes just before a process
    waits for a lock would wait with it, and whoever ended the process, as a pool does with its
    workers, would wait for ever. What a terminal sends the parent gets too, and ends its workers;
    if they died of it before, it would take that for an error.
    """
    for number in SIGNALS:
        if isinstance(signal.getsignal(number), _Catcher):
            deaf = number in FROM_TERMINAL
            signal.signal(number, signal.SIG_IGN if deaf else signal.SIG_DFL)
    _release_signals()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_hold_signals,
        after_in_parent=_release_signals,
        after_in_child=_forget_in_child,
    )


def _let_children_die() -> None:
    """Without an error: a data loader raises one, anywhere, when its workers end by a signal."""
    if hasattr(signal, "SIGCHLD"):
        # A function: Python warns of a signal that came just before SIG_DFL was set.
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)


@contextmanager
def stoppable() -> Iterator[_Catcher]:
    """Let :data:`SIGNALS` raise :class:`Stopped` in this process.

    An error that such a signal led to, as that of a data loader whose workers got it as well or
    before, leaves as Stopped too. A signal that is ignored stays so: SIGHUP under ``nohup``,
    SIGINT in the background of a script. Does nothing outside the main thread, which alone may
    handle signals.
    """
    catcher = _Catcher()
    with _handled(SIGNALS, catcher):
        try:
            yield catcher
        except Exception as error:
            if catcher.stopped is None and "DataLoader worker" in str(error):
                time.sleep(FOLLOW_SECONDS)  # the signal that ended the worker may be under way here
            if catcher.stopped is None:
                raise
            raise catcher.stopped from error


@contextmanager
def deaf_children() -> Iterator[None]:
    """Processes started inside ignore what a terminal sends; their parent ends them.

    For as long as this takes, some ms, the parent ignores it too: a new process inherits nothing
    else.
    """
    with _handled(FROM_TERMINAL, signal.SIG_IGN):
        yield


@contextmanager
def _handled(signals: Sequence[signal.Signals], handler: Any) -> Iterator[None]:
    """Inside, these signals have this handler, but for those in :data:`KEPT`."""
    previous: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        found = {number: signal.getsignal(number) for number in signals}
        previous = {number: old for number, old in found.items() if old not in KEPT}
    try:
        for number in previous:
            signal.signal(number, handler)
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)


def end_with_parent() -> None:
    """Send this process SIGTERM when the one that started it is gone, and SIGKILL if that fails.

    A process that was killed with SIGKILL can end nobody, and one that waits for another in a
    library does not hear a signal.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    arguments = (parent.sentinel, os.getppid())
    threading.Thread(target=_follow, args=arguments, daemon=True, name="end_with_parent").start()


def _follow(sentinel: int, parent: int) -> None:
    """Wait until the parent is gone, then end this process."""
    # A forked process may hold the sentinel of another one open.
    while os.getppid() == parent and not wait([sentinel], timeout=LOOK_SECONDS):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(END_SECONDS)
    for worker in multiprocessing.active_children():
        worker.kill()
    os.kill(os.getpid(), signal.SIGKILL)


def end(processes: Sequence[BaseProcess], *, within: float = END_SECONDS) -> None:
    """End those that still run, with SIGTERM and after so many seconds with SIGKILL."""
    for process in processes:
        if process.is_alive():
            process.terminate()
    deadline = time.monotonic() + within
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


def end_workers() -> None:
    """End the processes that this one started, and what they shared; for one that ends itself.

    The workers of a data loader would else look for their parent every 5 seconds only, and the
    resource tracker of Python would warn of semaphores that nobody gave back.
    """
    _let_children_die()
    end(multiprocessing.active_children(), within=END_SECONDS / 2)
    # What Python itself calls at the end of a process.
    multiprocessing.util._exit_function()  # type: ignore[attr-defined]


def die_of(number: int) -> NoReturn:
    """End this process by a signal, so that whoever waits for it sees which; flushes nothing."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)  # where the signal is blocked
