"""Writing a video that replaces its predecessor only once it is complete."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np

CONTAINERS = {".mp4": "mp4v", ".avi": "MJPG"}
"""Suffix -> codec, in the order in which they are tried; the second is part of OpenCV itself."""


class VideoFile:
    """A video under construction; :meth:`close` gives it its name.

    Args:
        stem: path without ending; what the machine can encode decides that, ``.mp4`` if possible.
        fps: frames a second.
    """

    def __init__(self, stem: Path, *, fps: float) -> None:
        self._stem = stem
        self._fps = fps
        self._writer: cv2.VideoWriter | None = None
        self._suffix = ""
        self._size = (0, 0)

    def write(self, picture: np.ndarray) -> None:
        """Append a picture; the first one decides the size of all.

        Args:
            picture: (H, W, 3) uint8, RGB.

        Raises:
            OSError: no codec can be used, or the folder cannot be written.
        """
        height, width = picture.shape[:2]
        if self._writer is None:
            self._size = (width + width % 2, height + height % 2)  # codecs want even sides
            self._writer = self._open()
        if (width, height) != self._size:
            picture = _fitted(picture, self._size)
        self._writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))

    def close(self) -> Path | None:
        """Finish and return the file; None if no picture was written."""
        if self._writer is None:
            return None
        self._writer.release()
        self._writer = None
        path = self._stem.with_name(self._stem.name + self._suffix)
        os.replace(self._temporary(self._suffix), path)
        return path

    def _open(self) -> cv2.VideoWriter:
        """A writer with the first codec that works."""
        self._stem.parent.mkdir(parents=True, exist_ok=True)
        for suffix, codec in CONTAINERS.items():
            path = self._temporary(suffix)
            fourcc = cv2.VideoWriter.fourcc(*codec)
            writer = cv2.VideoWriter(str(path), fourcc, self._fps, self._size)
            if writer.isOpened():
                self._suffix = suffix
                return writer
            path.unlink(missing_ok=True)
        raise OSError(
            f"no video can be written to {self._stem.parent}: OpenCV has none of the codecs "
            f"{', '.join(CONTAINERS.values())}; use --no-pictures"
        )

    def _temporary(self, suffix: str) -> Path:
        return self._stem.with_name(f".{self._stem.name}.{os.getpid()}.tmp{suffix}")


def _fitted(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture at (width, height): its edge repeated by one pixel, or resized."""
    margins = (size[1] - picture.shape[0], size[0] - picture.shape[1])
    if all(margin in (0, 1) for margin in margins):
        return np.pad(picture, ((0, margins[0]), (0, margins[1]), (0, 0)), mode="edge")
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
