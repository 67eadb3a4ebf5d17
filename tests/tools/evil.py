"""What a stranger's file might hold."""

from __future__ import annotations

from pathlib import Path


class Witness:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return Path.mkdir, (self.folder,)
