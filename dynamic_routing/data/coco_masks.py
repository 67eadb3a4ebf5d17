"""Masks as COCO writes them: polygons along the edges of pixels, and run lengths.

The polygons are exact: rasterised by pycocotools they give back every pixel of the mask and no
other. Coordinates are those of COCO: pixel (column, row) reaches from (column, row) to
(column + 1, row + 1).
"""

from __future__ import annotations

import cv2
import numpy as np


def mask_box(mask: np.ndarray) -> list[int]:
    """The tight box of a mask.

    Args:
        mask: (H, W) bool with at least one pixel.

    Returns:
        [left, top, width, height] in pixels.

    Raises:
        ValueError: for an empty mask.
    """
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not columns.size:
        raise ValueError(f"mask of shape {mask.shape} has no pixel")
    left, top = int(columns[0]), int(rows[0])
    return [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top]


def mask_polygons(mask: np.ndarray) -> list[list[float]]:
    """Polygons that cover a mask exactly.

    A mask with a hole, which COCO's polygons cannot express, is cut through the hole into parts
    that have none.

    Args:
        mask: (H, W) bool with at least one pixel.

    Returns:
        Polygons [x0, y0, x1, y1, ...], each of four corners at least, in multiples of 0.5 pixels.

    Raises:
        ValueError: for an empty mask.
    """
    left, top, width, height = mask_box(mask)
    polygons = _outlines(mask[top : top + height, left : left + width])
    return [(polygon + (left, top)).ravel().tolist() for polygon in polygons]


def _outlines(mask: np.ndarray) -> list[np.ndarray]:
    """(P, 2) corners of each part of a mask, holes cut open."""
    found, tree = cv2.findContours(_half_pixels(mask), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if not found:
        return []
    parents = tree[0, :, 3]
    holes = [contour for contour, parent in zip(found, parents, strict=True) if parent >= 0]
    if not holes:
        return [contour[:, 0] / 2.0 for contour in found]
    # the contour of a hole runs on the pixels around it, half a pixel outside
    cut = int(holes[0][:, 0, 0].min()) // 2 + 1
    right = [polygon + (cut, 0.0) for polygon in _outlines(mask[:, cut:])]
    return _outlines(mask[:, :cut]) + right


def _half_pixels(mask: np.ndarray) -> np.ndarray:
    """(2H + 1, 2W + 1) uint8: corners, edges and middles of the pixels of an (H, W) mask."""
    twice = mask.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    rows, columns = twice.shape
    points = np.zeros((rows + 1, columns + 1), dtype=np.uint8)
    for row, column in np.ndindex(2, 2):
        points[row : row + rows, column : column + columns] |= twice
    return points


def mask_runs(mask: np.ndarray) -> dict[str, list[int]]:
    """A mask as COCO's uncompressed run lengths.

    Args:
        mask: (H, W) bool.

    Returns:
        {"counts": lengths of runs down the columns, the first one of zeros, "size": [H, W]}.
    """
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    edges = np.concatenate([[0], changes, [flat.size]])
    counts = np.diff(edges).tolist()
    if flat.size and flat[0]:
        counts.insert(0, 0)
    return {"counts": counts, "size": [int(side) for side in mask.shape]}
