"""Writing files so that a reader never meets half of one, and nothing is lost where it fails."""

from __future__ import annotations

import json
import math
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

_HOST = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())
_TEMPORARY = re.compile(r"^\..+\.(?P<host>[A-Za-z0-9-]+)\.(?P<pid>\d+)\.tmp$")
_FORGOTTEN_SECONDS = 24 * 3600
"""Age at which a temporary file is a leftover, whoever made it."""


class WriteError(OSError):
    """A file that could not be written; its message is one line."""

    def __str__(self) -> str:
        return f"cannot write {self.filename}: {self.strerror}; nothing that was there is lost"


@contextmanager
def atomic_file(path: str | Path) -> Iterator[BinaryIO]:
    """A binary file that replaces ``path`` only once it is complete and on disk.

    The bytes go to a temporary name in the same folder, which is made if missing. File and folder
    are synced, so that a power cut leaves the old or the new file.

    Raises:
        WriteError: the folder cannot be written or is full; ``path`` is then as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{_HOST}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            watched = _WatchedFile(file)
            try:
                yield watched  # type: ignore[misc]
            except Exception as error:
                # PyTorch's writer turns a full disk into a RuntimeError of its own.
                raise watched.error or error from None
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        if isinstance(error, WriteError) or error.errno is None:
            raise
        raise WriteError(error.errno, os.strerror(error.errno), str(path)) from error
    finally:
        _remove(temporary)


class _WatchedFile:
    """A file that remembers why a write failed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, content: Any) -> int:
        """As the file's."""
        try:
            return self._file.write(content)
        except OSError as error:
            self.error = error
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _remove(path: Path) -> None:
    """Remove a file that may not be there; an error here must not hide the one before."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        pass


def _sync_folder(folder: Path) -> None:
    """Make a rename last; file systems that cannot sync a folder are left alone."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def write_atomically(path: str | Path, content: bytes) -> Path:
    """Write ``content`` to ``path`` in one step and return the path.

    Raises:
        WriteError: see :func:`atomic_file`.
    """
    with atomic_file(path) as file:
        file.write(content)
    return Path(path)


def remove_leftovers(folder: str | Path) -> list[str]:
    """Remove temporary files of processes that were killed, and return their names.

    Those of a process of this machine that runs are left alone, and so are young ones of another.
    """
    own = Path(folder)
    removed = []
    for path in [*own.glob(".*.tmp"), *own.glob("*/.*.tmp")]:
        found = _TEMPORARY.match(path.name)
        if found and _is_leftover(path, host=found["host"], pid=int(found["pid"])):
            _remove(path)
            removed.append(path.name)
    return sorted(removed)


def _is_leftover(path: Path, *, host: str, pid: int) -> bool:
    try:
        old = time.time() - path.stat().st_mtime > _FORGOTTEN_SECONDS
    except OSError:
        return False
    return old or (host == _HOST and (pid == os.getpid() or not _runs(pid)))


def _runs(pid: int) -> bool:
    """Whether a process with this number exists here."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def strict_json(content: Any, *, indent: int | None = 1) -> str:
    """JSON as the standard has it: what is no finite number becomes null.

    Args:
        content: dicts, lists, text, numbers (also NumPy's and PyTorch's).
        indent: of a level; None: all on one line.
    """
    return json.dumps(_finite(content), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    number = float(value)
    return number if math.isfinite(number) else None


def write_json(path: str | Path, content: Any) -> Path:
    """Write :func:`strict_json` in one step.

    Raises:
        WriteError: see :func:`atomic_file`.
    """
    return write_atomically(path, strict_json(content).encode("utf-8"))
