"""Reading images that may be broken, huge or of another size than their annotations say.

Whatever is wrong with a file becomes one `ImageError` of one line that names it, so that a run of
days does not end with a message of Pillow that leaves the file to be guessed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from detectron2.data import detection_utils
from detectron2.utils.file_io import PathManager
from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 178_956_970
"""Largest image that is decoded, in pixels: where Pillow suspects a decompression bomb."""

DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "F")
"""Pillow's modes of more than 8 bits, which a conversion to 8 bits clips, mostly to white."""


class ImageError(ValueError):
    """An image file that cannot be used; its message is one line and names the file."""


def read_image(path: str, image_format: str) -> np.ndarray:
    """Read an image as Detectron2 does, turned as its EXIF data says.

    Args:
        path: of the file.
        image_format: "BGR", "RGB", "L" or another one of Detectron2's ``INPUT.FORMAT``.

    Returns:
        (H, W, C), uint8 for the three formats named.

    Raises:
        ImageError: the file is missing, no image, truncated, larger than `MAX_PIXELS` or of more
            than 8 bits a channel. Size and depth are read from its header, before any pixel.
    """
    check_header(path, deep=False)
    with named_errors(path):
        return detection_utils.read_image(path, format=image_format)


def check_header(path: str, *, deep: bool) -> None:
    """Look at the header of an image file.

    Args:
        path: of the file.
        deep: whether more than 8 bits a channel are allowed.

    Raises:
        ImageError: it cannot be read, is larger than `MAX_PIXELS`, or too deep.
    """
    with named_errors(path), PathManager.open(path, "rb") as file, Image.open(file) as image:
        (width, height), mode = image.size, image.mode
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"image {path} is {width} x {height} (width x height); allowed are {MAX_PIXELS} pixels"
        )
    if mode in DEEP_MODES and not deep:
        raise ImageError(f"image {path} has pixels of more than 8 bits (mode {mode}); convert it")


def check_declared_size(record: Mapping[str, Any], image: np.ndarray) -> None:
    """Compare an image with the size in its data set entry, where that has one.

    Args:
        record: with file_name and, optionally, height and width in pixels.
        image: (H, W, ...).

    Raises:
        ImageError: they differ; boxes and masks would lie elsewhere.
    """
    height, width = image.shape[:2]
    declared = record.get("height", height), record.get("width", width)
    if declared != (height, width):
        raise ImageError(
            f"image {record['file_name']} is {width} x {height} (width x height, turned by its "
            f"EXIF data if there are any), but its annotations say {declared[1]} x {declared[0]}"
        )


@contextmanager
def named_errors(path: str) -> Iterator[None]:
    """Turn what goes wrong with a file inside the ``with`` into an `ImageError` with its name."""
    try:
        yield
    except Exception as error:  # Pillow raises a dozen types on damaged files
        if isinstance(error, ValueError) and path in str(error):
            raise  # a ValueError of this project has said it all
        raise ImageError(f"image {path} cannot be read: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """What went wrong, in a few words without line breaks."""
    if isinstance(error, UnidentifiedImageError):
        return "no image, or a damaged one"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
