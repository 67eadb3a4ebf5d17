"""Photographs and predictions of single images, small enough for a page."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from detectron2.data import detection_utils
from PIL import Image

from dynamic_routing.analysis.html import colour_legend, picture, row_of
from dynamic_routing.analysis.report import MissingPartError
from dynamic_routing.routing.routes import Routes

TILE_WIDTHS = (640, 480, 320, 200)
"""Widths in pixels of a picture beside others; tried one after the other until it is small."""

THUMB_WIDTH = 208
TILE_BYTES = 40_000
JPEG_QUALITY = 80
MAX_FILE_BYTES = 1 << 28
"""Larger files are not opened as images."""


@dataclass(frozen=True, eq=False)
class ImageTiles:
    """What is shown of one image.

    Attributes:
        tiles: name -> (H, W, 3) uint8 RGB.
        flat: names of the tiles that are label maps, whose colours must stay exact.
        legend: what these colours mean.
        routes: the route that the network took for this prediction (N = 1); None without one.
    """

    tiles: Mapping[str, np.ndarray]
    flat: frozenset[str] = frozenset()
    legend: tuple[tuple[str, tuple[int, int, int]], ...] = ()
    routes: Routes | None = None

    def to_html(self) -> str:
        """The pictures side by side above their legend."""
        figures = [
            picture(encode_tile(tile, flat=name in self.flat), name, "tile")
            for name, tile in self.tiles.items()
        ]
        return row_of(figures) + colour_legend(self.legend)


class StoredImages:
    """The images of a run as files, without predictions.

    Args:
        reason: why there are no predictions; "" where there are.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def locate(self, file_name: str) -> Path:
        """The file of an image, by the name in the gates file."""
        return Path(file_name)

    def photo(self, file_name: str) -> np.ndarray:
        """The image, (H, W, 3) uint8 RGB.

        Raises:
            MissingPartError: it is not there, or no image.
        """
        path = self.locate(file_name)
        if not path.is_file():
            raise MissingPartError(f"no file {file_name}")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise MissingPartError(f"{file_name} is too large for an image")
        try:
            return np.asarray(detection_utils.read_image(str(path), format="RGB"))
        except Exception as error:  # PIL raises a dozen types for what is no image
            raise MissingPartError(f"{file_name} cannot be read: {error}") from error

    def tiles(self, file_name: str) -> ImageTiles:
        """What can be shown of an image.

        Raises:
            MissingPartError: the image is not there.
        """
        return ImageTiles({"image": self.photo(file_name)})


def encode_tile(tile: np.ndarray, *, flat: bool = False) -> bytes:
    """A picture of at most :data:`TILE_BYTES`: PNG for exact colours, else JPEG.

    Args:
        tile: (H, W, 3) uint8 RGB.
        flat: whether it is a label map.
    """
    for width in TILE_WIDTHS:
        content = _encode(reduced(tile, width, smooth=not flat), flat=flat)
        if len(content) <= TILE_BYTES:
            break
    return content


def encode_thumb(photo: np.ndarray) -> bytes:
    """A photograph as a small JPEG."""
    return _encode(reduced(photo, THUMB_WIDTH, smooth=True), flat=False)


def reduced(tile: np.ndarray, width: int, *, smooth: bool) -> np.ndarray:
    """The picture at no more than this width, and no taller than twice that."""
    height, present = tile.shape[:2]
    scale = min(1.0, width / present, 2 * width / height)
    size = (max(1, round(scale * present)), max(1, round(scale * height)))
    how = cv2.INTER_AREA if smooth else cv2.INTER_NEAREST
    return cv2.resize(tile, size, interpolation=how)


def _encode(tile: np.ndarray, *, flat: bool) -> bytes:
    """PNG with a palette, or JPEG."""
    content = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(tile))
    if flat:
        image = image.quantize(256, dither=Image.Dither.NONE)
        image.save(content, format="PNG", optimize=True)
    else:
        image.save(content, format="JPEG", quality=JPEG_QUALITY)
    return content.getvalue()
