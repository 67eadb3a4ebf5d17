"""Classification data in ImageNet's layout: ``<split>/<class>/<image>``.

The class names are those of the sub-folders, sorted, as torchvision's ImageFolder takes them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
"""Files that count as images; ImageNet's own end in .JPEG."""

EVALUATOR_TYPE = "classification"
IMAGENET = {"imagenet_train": "train", "imagenet_val": "val"}
"""Names of ImageNet's splits and their folders below ``imagenet``."""

IMAGENET_TREE = """\
  imagenet/
    {train,val}/<class>/<image>.JPEG      (the same 1000 classes in both)"""


def class_folders(folder: str | Path) -> list[str]:
    """Sorted names of the sub-folders.

    Raises:
        ValueError: the folder does not exist or has no sub-folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"{root} is no folder")
    names = sorted(e.name for e in os.scandir(root) if e.is_dir() and e.name[0] not in "._")
    if not names:
        raise ValueError(f"{root} has no class folders (<class>/<image>.jpg)")
    return names


def load_image_folder(
    folder: str | Path, classes: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """One dictionary an image, sorted: file_name, image_id and class_id.

    Args:
        folder: holds one sub-folder a class.
        classes: names in order of their ids; by default the sub-folders, sorted.

    Raises:
        ValueError: no such folder, a class without folder or images, or a folder without class.
    """
    root = Path(folder)
    present = class_folders(root)
    names = list(classes) if classes is not None else present
    if set(names) != set(present):
        odd = sorted(set(names) ^ set(present))
        raise ValueError(f"classes and sub-folders of {root} differ: {', '.join(odd[:3])}")
    records = []
    for class_id, name in enumerate(names):
        files = sorted(
            entry.name
            for entry in os.scandir(root / name)
            if entry.name.lower().endswith(IMAGE_SUFFIXES) and entry.name[0] != "."
        )
        if not files:
            raise ValueError(f"class folder {root / name} holds no image")
        records += [
            {
                "file_name": str(root / name / file),
                "image_id": f"{name}/{file}",
                "class_id": class_id,
            }
            for file in files
        ]
    return records


def register_image_folder(
    name: str, folder: str | Path, *, classes: Sequence[str] | None = None, **metadata: Any
) -> None:
    """Register a folder with Detectron2; images are listed when the data set is read.

    Args:
        name: of the data set.
        folder: holds one sub-folder a class.
        classes: names in order of their ids; by default the sub-folders, sorted.
        **metadata: further entries of the metadata.
    """
    DatasetCatalog.register(name, partial(load_image_folder, str(folder), classes))
    MetadataCatalog.get(name).set(image_root=str(folder), evaluator_type=EVALUATOR_TYPE, **metadata)


def register_imagenet(root: str | Path) -> None:
    """Register ``imagenet_train`` and ``imagenet_val`` below a root, or move them there."""
    from .catalog import forget

    for name, split in IMAGENET.items():
        folder = Path(root).expanduser() / "imagenet" / split
        if name in DatasetCatalog:
            if MetadataCatalog.get(name).get("image_root") == str(folder):
                continue
            forget(name)
        register_image_folder(name, folder)


def class_names(dataset_name: str) -> list[str]:
    """Class names of a registered classification data set, in order of their ids.

    Raises:
        ValueError: its folder is missing or empty.
    """
    metadata = MetadataCatalog.get(dataset_name)
    entry: Mapping[str, Any] = metadata.get("custom_entry") or {}
    return list(entry.get("classes") or class_folders(metadata.image_root))


def is_classification(dataset_name: str) -> bool:
    """Whether a data set is for classification."""
    return MetadataCatalog.get(dataset_name).get("evaluator_type") == EVALUATOR_TYPE
