"""Data loaders by config: which mapper and augmentations a data set gets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sized
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, build_detection_test_loader
from detectron2.data.detection_utils import build_augmentation

from dynamic_routing.data.augmentation import build_sem_seg_augmentations, keep_a_pixel
from dynamic_routing.data.catalog import register_datasets
from dynamic_routing.data.checks import check_datasets
from dynamic_routing.data.classification_mapper import (
    ClassificationMapper,
    build_classification_augmentations,
)
from dynamic_routing.data.custom import register_custom_datasets
from dynamic_routing.data.detection_mapper import DetectionDatasetMapper
from dynamic_routing.data.image_folder import is_classification
from dynamic_routing.data.mapper import SemSegDatasetMapper
from dynamic_routing.engine import train_loader
from dynamic_routing.engine.dataset_checks import (
    SEM_SEG_TYPES,
    check_classes,
    check_fit,
    is_sem_seg,
)
from dynamic_routing.engine.train_loader import TrainLoader
from dynamic_routing.engine.workers import with_quick_workers

__all__ = [
    "SEM_SEG_TYPES",
    "build_mapper",
    "build_test_loader",
    "build_train_loader",
    "check_classes",
    "count_images",
    "is_sem_seg",
    "prepare_datasets",
    "worker_message",
]

_FROM_WORKER = re.compile(r"Caught \w+ in \w+ worker process \d+\.\nOriginal Traceback")
_ERROR_TYPE = re.compile(r"^[\w.]+: ")


def prepare_datasets(cfg: CfgNode) -> None:
    """Register what the config names and check that it is there.

    Raises:
        DatasetError: a path is missing, a name unknown, an annotation file broken, or model and
            data set do not fit each other; one line each with what is expected.
    """
    register_datasets()
    register_custom_datasets(cfg.DATASETS.CUSTOM)
    names = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    check_datasets(names)
    check_fit(cfg)


def build_mapper(
    cfg: CfgNode, dataset_name: str, *, train: bool
) -> DatasetMapper | ClassificationMapper:
    """From a data set's dict to the model's input."""
    if is_classification(dataset_name):
        return _classification_mapper(cfg, train=train)
    if not is_sem_seg(dataset_name):
        return DetectionDatasetMapper(cfg, is_train=train)
    if train:
        augmentations = build_sem_seg_augmentations(
            train=True,
            crop_size=tuple(cfg.INPUT.SEM_SEG_CROP),
            scale_range=tuple(cfg.INPUT.SCALE_RANGE),
            flip=cfg.INPUT.RANDOM_FLIP != "none",
            pixel_mean=cfg.MODEL.PIXEL_MEAN,
            ignore_label=cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
        )
    else:
        augmentations = keep_a_pixel(build_augmentation(cfg, is_train=False))
    return SemSegDatasetMapper(
        is_train=train, augmentations=augmentations, image_format=cfg.INPUT.FORMAT
    )


def _classification_mapper(cfg: CfgNode, *, train: bool) -> ClassificationMapper:
    """Read ``INPUT.CLASSIFICATION``, RANDOM_FLIP and FORMAT."""
    node = cfg.INPUT.CLASSIFICATION
    augmentations = build_classification_augmentations(
        train=train,
        size=(node.SIZE, node.SIZE),
        scale=tuple(node.SCALE_RANGE),
        resize=node.TEST_RESIZE,
        flip=cfg.INPUT.RANDOM_FLIP != "none",
    )
    return ClassificationMapper(augmentations=augmentations, image_format=cfg.INPUT.FORMAT)


def build_train_loader(cfg: CfgNode) -> TrainLoader:
    """Endless shuffled batches of ``DATASETS.TRAIN``."""
    mapper = build_mapper(cfg, cfg.DATASETS.TRAIN[0], train=True)
    return train_loader.build_train_loader(cfg, mapper=mapper)


def count_images(loader: object) -> int | None:
    """How many images a training loader draws from; None for one that does not say.

    Args:
        loader: of :func:`build_train_loader`: loaders around data sets around a list.
    """
    while hasattr(loader, "dataset"):
        loader = loader.dataset
    return len(loader) if isinstance(loader, Sized) else None


def build_test_loader(cfg: CfgNode, dataset_name: str) -> Iterable[list[dict[str, Any]]]:
    """One pass over a data set, image by image."""
    mapper = build_mapper(cfg, dataset_name, train=False)
    return with_quick_workers(build_detection_test_loader(cfg, dataset_name, mapper=mapper))


def worker_message(error: BaseException) -> str:
    """What an error says, also if it comes from a worker process of a data loader.

    PyTorch raises such an error again with the worker's traceback as its message. The last lines
    of that are the original error's, behind its type.

    Args:
        error: any.

    Returns:
        The original message.
    """
    text = str(error)
    if not _FROM_WORKER.match(text):
        return text
    lines = text.rstrip().splitlines()
    indented = [number for number, line in enumerate(lines) if line.startswith("  ")]
    original = "\n".join(lines[indented[-1] + 1 :]) if indented else lines[-1]
    return _ERROR_TYPE.sub("", original)
