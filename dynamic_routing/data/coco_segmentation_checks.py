"""What must hold of a COCO mask before pycocotools may see it.

pycocotools is C without checks: run lengths that are too short decode to uninitialised memory, and
a polygon with a corner a billion pixels away makes it ask for as much memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from .coco_structure_checks import Findings, Title, shown

TOLERANCE = 1.0
"""How far boxes and polygons may stick out of their image, in pixels. Programs differ in whether a
pixel is a point or a square, and round; more than this is a mistake."""

LEAST_COORDINATES = 6
"""Of a polygon: three corners."""

_NUMBERS = {int, float}
_FIRST_LETTER = 48
_VALUE_BITS, _SIGN_BIT, _MORE_BIT = 0x1F, 0x10, 0x20
_LETTERS = 64
_MAX_LETTERS = 7
"""Of one run length in a compressed mask: 35 bits, more than any image needs."""


def are_numbers(values: object) -> bool:
    """Whether a value is a list of finite numbers; true and false are none."""
    if not isinstance(values, list) or not {*map(type, values)} <= _NUMBERS:
        return False
    try:
        return all(map(math.isfinite, values))
    except OverflowError:  # an integer beyond all floats
        return False


def check_segmentation(segmentation: Any, title: Title, found: Findings) -> None:
    """Check polygons or run lengths.

    Args:
        segmentation: of an annotation; None and an empty list stand for no mask.
        title: of the annotation. Without its image, sizes are not checked.
        found: where problems are taken down.
    """
    if isinstance(segmentation, list):
        for polygon in segmentation:
            _check_polygon(polygon, title, found)
    elif isinstance(segmentation, dict):
        _check_run_lengths(segmentation, title, found)
    elif segmentation is not None:
        found.add(
            f"{title}: segmentation must be a list of polygons or an object with size and counts, "
            f"got {shown(segmentation)}"
        )


def _check_polygon(polygon: Any, title: Title, found: Findings) -> None:
    """Check one polygon, [x, y, x, y, ...]."""
    if not are_numbers(polygon):
        found.add(f"{title}: polygon {shown(polygon)} must be a list of finite numbers")
    elif len(polygon) % 2 or len(polygon) < LEAST_COORDINATES:
        found.add(
            f"{title}: polygon of {len(polygon)} coordinates; an even number of at least "
            f"{LEAST_COORDINATES} is allowed",
            odd=True,
        )
    elif title.image is not None:
        xs, ys = polygon[::2], polygon[1::2]
        check_extent("polygon", polygon, (min(xs), min(ys), max(xs), max(ys)), title, found)


def check_extent(
    what: str,
    numbers: list[float],
    corners: tuple[float, float, float, float],
    title: Title,
    found: Findings,
) -> None:
    """Check that something lies in its image, up to `TOLERANCE`.

    Args:
        what: is checked, for the message.
        numbers: that describe it in the file.
        corners: (left, top, right, bottom) in pixels.
        title: of the annotation, which must have an image.
        found: where it is taken down; as odd only up to the image's size, since what reaches
            further would cost memory.
    """
    assert title.image is not None, title
    width, height = title.image.width, title.image.height
    left, top, right, bottom = corners
    outside = max(-left, -top, right - width, bottom - height)
    if outside > TOLERANCE:
        found.add(
            f"{title}: {what} {shown(numbers)} reaches {shown(round(outside, 2))} pixels out of "
            f"the image of {width} x {height} (width x height); allowed is {TOLERANCE:g}",
            odd=outside <= max(width, height),
        )


def _check_run_lengths(mask: Mapping[str, Any], title: Title, found: Findings) -> None:
    """Check a mask of run lengths, {"size": [height, width], "counts": list or text}."""
    image, size = title.image, mask.get("size")
    if image is None:
        return
    if size != [image.height, image.width] or {*map(type, size)} != {int}:
        found.add(
            f"{title}: mask size must be the image's, [{image.height}, {image.width}], got "
            f"{shown(size)}"
        )
        return
    try:
        counts = _run_lengths(mask.get("counts"))
    except ValueError as error:
        found.add(f"{title}: {error}")
        return
    pixels = image.height * image.width
    if counts and not 0 <= min(counts) <= max(counts) <= pixels:
        wrong = min(counts) if min(counts) < 0 else max(counts)
        found.add(f"{title}: mask counts must be in 0..{pixels}, got {shown(wrong)}")
    elif sum(counts) != pixels:
        found.add(f"{title}: mask counts add up to {sum(counts)}, the mask has {pixels} pixels")


def _run_lengths(counts: Any) -> list[int]:
    """Run lengths of a mask, compressed or not.

    Raises:
        ValueError: they are neither integers nor a compressed text.
    """
    if isinstance(counts, str):
        return decode_counts(counts).tolist()
    if not isinstance(counts, list) or not {*map(type, counts)} <= {int}:
        raise ValueError(f"mask counts must be a list of integers or a text, got {shown(counts)}")
    return counts


def decode_counts(text: str) -> np.ndarray:
    """Run lengths of a compressed COCO mask, as ``rleFrString`` of pycocotools reads them.

    Each number is written in groups of 5 bits, lowest first, one a letter from chr(48); bit 5 says
    that more follow, bit 4 of the last letter is the sign. From the fourth number on, the
    difference to the last but one is written.

    Args:
        text: as in the file.

    Returns:
        (N,) int64, possibly negative in a malformed text.

    Raises:
        ValueError: for letters that are none, or a number that does not end or is too long.
    """
    letters = np.array([*map(ord, text)], dtype=np.int64) - _FIRST_LETTER
    if not letters.size:
        return letters
    last = (letters & _MORE_BIT) == 0
    if letters.min() < 0 or letters.max() >= _LETTERS or not last[-1]:
        raise ValueError(f"mask counts {shown(text)} are no compressed run lengths")
    ends = np.flatnonzero(last)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > _MAX_LETTERS:
        raise ValueError(f"mask counts {shown(text)} hold a number of {lengths.max()} letters")
    shifts = 5 * (np.arange(letters.size) - np.repeat(starts, lengths))
    numbers = np.add.reduceat((letters & _VALUE_BITS) << shifts, starts)
    numbers -= np.where(letters[ends] & _SIGN_BIT, 1 << (5 * lengths), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers
