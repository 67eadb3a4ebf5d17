"""One training a folder: a lock that the operating system releases, however a run ends."""

from __future__ import annotations

import errno
import logging
import os
import socket
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TextIO

from dynamic_routing.files import WriteError

LOCK_NAME = ".lock"
"""File in OUTPUT_DIR; it stays, empty, when no training runs."""

TAKEN = (errno.EACCES, errno.EAGAIN)

logger = logging.getLogger(__name__)


class FolderInUseError(ValueError):
    """Another training writes into the folder; its message is one line."""


class RunLock:
    """Holds a folder for one training.

    The lock is the kernel's: it is gone with the process, also after SIGKILL, and a file that is
    left over means nothing. It is of the kind that children do not inherit (lockf, not flock): the
    workers of a data loader outlive a killed run for some seconds.

    Args:
        folder: the run's OUTPUT_DIR, made if missing.

    Raises:
        FolderInUseError: names process and host of the run that holds it.
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: str | Path) -> None:
        path = Path(folder) / LOCK_NAME
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: TextIO | None = open(path, "a+", encoding="utf-8")
        except OSError as error:
            raise WriteError(error.errno, os.strerror(error.errno or 0), str(path)) from None
        try:
            self._take(self._file)
        except BaseException:
            self._file.close()
            raise

    def _take(self, file: TextIO) -> None:
        """Lock, and write who did."""
        if find_spec("fcntl") is None:  # Windows
            return
        import fcntl

        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in TAKEN:  # a file system without locks
                logger.warning("%s cannot be locked (%s)", file.name, error)
                return
            file.seek(0)
            owner = file.read().strip() or "another process"
            raise FolderInUseError(
                f"OUTPUT_DIR {Path(file.name).parent} is in use by {owner}; wait for it, or set "
                "another OUTPUT_DIR"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()

    def release(self) -> None:
        """Let others train there."""
        if self._file is not None:
            self._file.truncate(0)
            self._file.close()
            self._file = None

    def __enter__(self) -> RunLock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()
