"""Matching the images and label maps of a user's own folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .images import read_image
from .mapper import load_label_map

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
SAMPLED = 8
"""How many label maps of a data set are read at start-up."""
_SHOWN = 3


@dataclass(frozen=True)
class Pair:
    """An image and its label map.

    Attributes:
        key: what their paths have in common, relative to their folders and without suffix.
        image: path of the image.
        label: path of the label map.
    """

    key: str
    image: Path
    label: Path


def list_pairs(entry: Mapping[str, Any]) -> list[Pair]:
    """All pairs of a complete "sem_seg" entry, sorted by key.

    Args:
        entry: with name, images, labels, image_suffix ("" for any image) and label_suffix.

    Returns:
        At least one pair.

    Raises:
        ValueError: if there is no image, an image without label or a label without image (the first
            three are named), or if two images have one key.
    """
    name, suffix = entry["name"], entry["image_suffix"]
    images = _files(Path(entry["images"]), (suffix,) if suffix else IMAGE_SUFFIXES, name)
    labels = _files(Path(entry["labels"]), (entry["label_suffix"],), name)
    if not images:
        wanted = suffix or ", ".join(IMAGE_SUFFIXES)
        raise ValueError(f"data set {name!r}: no image ({wanted}) in {entry['images']}")
    _refuse(name, "image", images, without="label", others=labels, folder=entry["labels"])
    _refuse(name, "label", labels, without="image", others=images, folder=entry["images"])
    return [Pair(key, images[key], labels[key]) for key in sorted(images)]


def _files(folder: Path, suffixes: Sequence[str], name: str) -> dict[str, Path]:
    """Files with one of the suffixes by their key; case is ignored."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder).as_posix()
        suffix = next((s for s in suffixes if relative.lower().endswith(s.lower())), None)
        if suffix is None or path.name.startswith(".") or not path.is_file():
            continue
        key = relative[: -len(suffix)]
        if key in found:
            raise ValueError(f"data set {name!r}: {found[key]} and {path} have one name")
        found[key] = path
    return found


def _refuse(
    name: str,
    kind: str,
    files: Mapping[str, Path],
    *,
    without: str,
    others: Mapping[str, Path],
    folder: str,
) -> None:
    """Raise if some files have no counterpart."""
    alone = [str(files[key]) for key in sorted(files) if key not in others]
    if alone:
        more = ", ..." if len(alone) > _SHOWN else ""
        raise ValueError(
            f"data set {name!r}: {len(alone)} of {len(files)} {kind}s without {without} in "
            f"{folder}: {', '.join(alone[:_SHOWN])}{more}"
        )


def check_label_sample(
    pairs: Sequence[Pair], *, classes: int, ignore_label: int, name: str
) -> None:
    """Read some label maps, spread over the data set, and check values and sizes.

    Args:
        pairs: at least one.
        classes: number of classes; labels must be below, or the ignored one.
        ignore_label: value that is allowed besides.
        name: of the data set, for the message.

    Raises:
        ValueError: for a label outside the classes, a colour image, a size other than the image's,
            or a file that cannot be read, with the file.
    """
    chosen = np.unique(np.linspace(0, len(pairs) - 1, min(SAMPLED, len(pairs))).round())
    for pair in (pairs[int(number)] for number in chosen):
        labels = load_label_map(str(pair.label), np.int64)
        values = np.unique(labels)
        wrong = values[((values < 0) | (values >= classes)) & (values != ignore_label)]
        if wrong.size:
            raise ValueError(
                f"data set {name!r}: {pair.label} holds {wrong[:_SHOWN].tolist()}, but labels must "
                f"be 0..{classes - 1} or {ignore_label} (ignored)"
            )
        size = read_image(str(pair.image), "RGB").shape[:2]
        if size != labels.shape:
            raise ValueError(
                f"data set {name!r}: {pair.label} is {labels.shape}, but {pair.image} is "
                f"{size} (height, width)"
            )


def load_custom_sem_seg(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Read an entry in Detectron2's standard form: file_name, sem_seg_file_name, image_id, sorted.

    Raises:
        ValueError: if images and labels do not match.
    """
    return [
        {
            "file_name": str(pair.image),
            "sem_seg_file_name": str(pair.label),
            "image_id": pair.key,
        }
        for pair in list_pairs(entry)
    ]
