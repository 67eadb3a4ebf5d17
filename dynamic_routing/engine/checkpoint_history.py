"""Which checkpoints a run has written, so that a damaged newest one is no dead end."""

from __future__ import annotations

import json
import os
from pathlib import Path

from dynamic_routing.engine.weight_files import CheckpointError
from dynamic_routing.files import write_atomically, write_json

TAG, HISTORY = "last_checkpoint", "checkpoints.json"
"""Files that name the newest checkpoint, and all of the run from the oldest on."""

LASTING = ("model_final.pth", "model_best.pth")
"""What may be left of a run whose folder was tidied or copied in part."""


def checkpoint_of(folder: str | Path) -> Path:
    """The checkpoint that a run's folder stands for: the newest, else one of ``LASTING``.

    Raises:
        CheckpointError: there is none, or ``last_checkpoint`` names something outside the folder.
    """
    folder = Path(folder)
    newest = CheckpointHistory(folder).newest()
    candidates = [folder / name for name in LASTING]
    if newest is not None:
        candidates.insert(0, newest)
    for path in candidates:
        if path.is_file():
            return path
    raise CheckpointError(f"{folder} holds no checkpoint ({TAG}, {' or '.join(LASTING)})")


class CheckpointHistory:
    """The checkpoints of one run, oldest first; empty until something is added or gone on from.

    The folder may hold those of an earlier run as well, which are no way back for this one.

    Args:
        folder: the run's OUTPUT_DIR.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        self._names: list[str] = []

    def add(self, name: str) -> None:
        """Make a checkpoint the newest.

        Raises:
            WriteError: the folder cannot be written.
        """
        self._names = [n for n in self._names if n != name] + [name]
        write_atomically(self._folder / TAG, name.encode("utf-8"))
        write_json(self._folder / HISTORY, self._names)

    def newest(self) -> Path | None:
        """What a resumed run takes if it can be read; None if there is nothing.

        Raises:
            CheckpointError: the tag names something outside the folder.
        """
        tag = self._folder / TAG
        if not tag.is_file():
            return None
        return self._inside(tag.read_text(encoding="utf-8", errors="replace").strip(), tag)

    def newest_first(self) -> list[Path]:
        """The checkpoints of the run in the folder, as far as its files tell.

        Raises:
            CheckpointError: one of them lies outside the folder.
        """
        newest = self.newest()
        return [] if newest is None else [newest, *reversed(self._before(newest.name))]

    def go_on_from(self, path: Path) -> None:
        """Take over the history of the run in the folder, up to one of its checkpoints."""
        oldest_first = [p.name for p in reversed(self.newest_first())]
        self._names = oldest_first[: oldest_first.index(path.name) + 1]

    def _before(self, newest: str) -> list[Path]:
        """Those before ``newest`` that are there; none if that is not known."""
        file = self._folder / HISTORY
        try:
            stored = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return []
        if not isinstance(stored, list):
            return []
        names = [name for name in stored if isinstance(name, str)]
        if newest in names:  # else the run was killed between tag and history
            del names[names.index(newest) :]
        return [path for name in names if (path := self._inside(name, file)).is_file()]

    def _inside(self, name: str, source: Path) -> Path:
        """The path of a checkpoint that a file of the folder names."""
        if not name or name != os.path.basename(name) or "\0" in name:
            raise CheckpointError(f"{source} must hold a bare file name, it holds {name!r}")
        path = self._folder / name
        if path.resolve().parent != self._folder.resolve():
            raise CheckpointError(f"{source} names {name}, which is a link to a file outside")
        return path
