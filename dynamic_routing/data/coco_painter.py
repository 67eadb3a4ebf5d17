"""A picture painted from outlines at a finer grid than its pixels, and what each outline covers.

A pixel belongs to an outline that reaches more than half of its painted points. Colours are
averages over the same points, so edges are smooth and lie where the masks end.
"""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np

from .canvas import Colour, Material
from .coco_shapes import Part

FINER = 2
"""Painted points along one side of a pixel."""

_FRACTION_BITS = 4
"""Corners are rounded to 1/16 of a painted point."""


class Painter:
    """Paints outlines given in pixels: (0, 0) is the corner of the picture, (0.5, 0.5) the middle
    of its first pixel.

    Args:
        size: (height, width) in pixels.
        background: colour where nothing is painted.
    """

    def __init__(self, size: tuple[int, int], background: Colour) -> None:
        self.size = size
        shape = (FINER * size[0], FINER * size[1], 3)
        self._colours = np.full(shape, background, dtype=np.uint8)

    def paint(self, parts: Iterable[Part]) -> None:
        """Paint parts over everything painted so far."""
        for part in parts:
            _fill(self._colours, part.outline, part.colour)

    def covered(self, parts: Iterable[Part]) -> np.ndarray:
        """Which pixels parts cover by more than half, without painting them.

        Args:
            parts: outlines; together they count as one.

        Returns:
            (H, W) bool.
        """
        mask = np.zeros(self.size, dtype=bool)
        outlines = [part.outline for part in parts]
        if not outlines:
            return mask
        corners = np.concatenate(outlines)
        low = np.maximum(np.floor(corners.min(axis=0)) - 1, 0).astype(int)  # edges are painted too
        high = np.maximum(np.ceil(corners.max(axis=0)) + 1, 0).astype(int)
        window = mask[low[1] : high[1], low[0] : high[0]]  # a view
        if not window.size:
            return mask
        points = np.zeros((FINER * window.shape[0], FINER * window.shape[1]), dtype=np.uint8)
        for outline in outlines:
            _fill(points, outline - low, 1)
        count = np.zeros(window.shape, dtype=np.uint8)
        for row, column in np.ndindex(FINER, FINER):
            count += points[row::FINER, column::FINER]
        window[:] = 2 * count > FINER**2
        return mask

    def picture(self) -> np.ndarray:
        """What was painted: (H, W, 3) float32 RGB, 0 to 255."""
        height, width = self.size
        fine = self._colours.astype(np.float32)
        return cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA)


def _fill(target: np.ndarray, outline: np.ndarray, colour: Colour | int) -> None:
    """Fill a polygon, corners in pixels, on an array of painted points."""
    fine = np.round((FINER * outline - 0.5) * 2**_FRACTION_BITS).astype(np.int32)
    cv2.fillPoly(target, [fine], colour, shift=_FRACTION_BITS)  # type: ignore[call-overload]


def texture(
    generator: np.random.Generator, surfaces: np.ndarray, materials: list[Material]
) -> np.ndarray:
    """Relative changes of brightness, zero on average.

    Args:
        generator: source of the noise.
        surfaces: (H, W) index into materials of each pixel.
        materials: how much of each noise a surface shows.

    Returns:
        (H, W) float32.
    """
    height, width = surfaces.shape
    coarse_height, coarse_width = max(2, height // 10), max(2, width // 10)
    total = np.zeros((height, width), dtype=np.float32)
    for name, (rows, columns) in (
        ("fine", (height, width)),
        ("blob", (coarse_height, coarse_width)),
        ("vertical", (2, max(2, width // 3))),
        ("horizontal", (max(2, height // 3), 4)),
    ):
        noise = generator.standard_normal((rows, columns), dtype=np.float32)
        field = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
        amounts = np.array([getattr(material, name) for material in materials], dtype=np.float32)
        total += amounts[surfaces] * field
    return total
