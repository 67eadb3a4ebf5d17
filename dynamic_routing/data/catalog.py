"""Where data sets lie, and the registration of those that Detectron2 knows or should know.

Detectron2 reads DETECTRON2_DATASETS once, when ``detectron2.data`` is first imported.
`register_datasets` reads it when called, so that a program may set it late. Nothing is registered
by importing this module.
"""

from __future__ import annotations

import os
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import builtin

from .image_folder import register_imagenet
from .voc import register_voc

VARIABLE = "DETECTRON2_DATASETS"

_BUILTIN = (
    builtin.register_all_coco,
    builtin.register_all_lvis,
    builtin.register_all_cityscapes,
    builtin.register_all_cityscapes_panoptic,
    builtin.register_all_pascal_voc,
    builtin.register_all_ade20k,
)
"""What Detectron2 itself runs when it is imported."""


def datasets_root() -> Path:
    """The folder of all data sets: DETECTRON2_DATASETS as it is now, or ./datasets."""
    return Path(os.environ.get(VARIABLE, "datasets")).expanduser()


def describe_root() -> str:
    """What the variable holds, for messages."""
    if VARIABLE in os.environ:
        return f"{VARIABLE} is {os.environ[VARIABLE]!r}"
    return f"{VARIABLE} is not set, so ./datasets in {Path.cwd()}"


def forget(name: str) -> None:
    """Take a data set out of both of Detectron2's catalogues, if it is there."""
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)
    if name in MetadataCatalog:
        MetadataCatalog.remove(name)


def register_datasets(root: str | Path | None = None) -> None:
    """Register VOC 2012 segmentation and ImageNet, and point Detectron2's own names to the root.

    Names that the user registered stay as they are. Calling it again with the same root does
    nothing.

    Args:
        root: folder that holds ``cityscapes``, ``VOC2012``, ``imagenet``, ``coco``; by default
            the present value of DETECTRON2_DATASETS.
    """
    base = datasets_root() if root is None else Path(root).expanduser()
    present = MetadataCatalog.get("cityscapes_fine_sem_seg_train").get("image_dir")
    if present is None or Path(present) != base / "cityscapes" / "leftImg8bit" / "train":
        _move_builtin(base)
    register_voc(base)
    register_imagenet(base)


def _move_builtin(base: Path) -> None:
    """Register Detectron2's own data sets anew, below another root."""
    saved = DatasetCatalog.data, MetadataCatalog.data
    DatasetCatalog.data, MetadataCatalog.data = {}, {}  # registering a known name is refused
    try:
        for register in _BUILTIN:
            register(str(base))
        loaders, metadata = DatasetCatalog.data, MetadataCatalog.data
    finally:
        DatasetCatalog.data, MetadataCatalog.data = saved
    DatasetCatalog.data.update(loaders)
    MetadataCatalog.data.update(metadata)
