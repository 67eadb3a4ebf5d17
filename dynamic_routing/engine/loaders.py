"""Data loaders by config: which mapper and augmentations a data set gets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import (
    DatasetMapper,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.data.detection_utils import build_augmentation

from dynamic_routing.data.augmentation import build_sem_seg_augmentations
from dynamic_routing.data.catalog import register_datasets
from dynamic_routing.data.checks import DatasetError, check_datasets
from dynamic_routing.data.classification_mapper import (
    ClassificationMapper,
    build_classification_augmentations,
)
from dynamic_routing.data.custom import register_custom_datasets
from dynamic_routing.data.image_folder import class_names, is_classification
from dynamic_routing.data.mapper import SemSegDatasetMapper

SEM_SEG_TYPES = ("sem_seg", "cityscapes_sem_seg")
"""``evaluator_type`` of data sets whose labels are maps of classes."""


def prepare_datasets(cfg: CfgNode) -> None:
    """Register what the config names and check that it is there.

    Raises:
        DatasetError: a path is missing or a name unknown; one line with what is expected.
    """
    register_datasets()
    register_custom_datasets(cfg.DATASETS.CUSTOM)
    names = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    check_datasets(names)
    for name in names:
        if is_sem_seg(name):
            check_classes(cfg, name)
    check_classifier(cfg, [name for name in names if is_classification(name)])


def check_classes(cfg: CfgNode, dataset_name: str) -> None:
    """Classes and ignored label of a data set must be those of the head.

    Raises:
        DatasetError: they are not; names both values.
    """
    metadata, head = MetadataCatalog.get(dataset_name), cfg.MODEL.SEM_SEG_HEAD
    classes = len(metadata.stuff_classes)
    if classes != head.NUM_CLASSES:
        raise DatasetError(
            f"data set {dataset_name} has {classes} classes, MODEL.SEM_SEG_HEAD.NUM_CLASSES is "
            f"{head.NUM_CLASSES}"
        )
    ignored = metadata.get("ignore_label", head.IGNORE_VALUE)
    if ignored != head.IGNORE_VALUE:
        raise DatasetError(
            f"data set {dataset_name} ignores label {ignored}, MODEL.SEM_SEG_HEAD.IGNORE_VALUE is "
            f"{head.IGNORE_VALUE}"
        )


def check_classifier(cfg: CfgNode, dataset_names: Sequence[str]) -> None:
    """Classification data sets must have the classifier's number of classes, and the same ones.

    Raises:
        DatasetError: they have not; names both values.
    """
    wanted = cfg.MODEL.CLASSIFIER.NUM_CLASSES
    first: list[str] | None = None
    for name in dataset_names:
        classes = class_names(name)
        if len(classes) != wanted:
            raise DatasetError(
                f"data set {name} has {len(classes)} classes, MODEL.CLASSIFIER.NUM_CLASSES is "
                f"{wanted}"
            )
        if first is not None and classes != first:
            raise DatasetError(f"data sets {dataset_names[0]} and {name} have other classes")
        first = classes


def is_sem_seg(dataset_name: str) -> bool:
    """Whether a data set is for semantic segmentation."""
    return MetadataCatalog.get(dataset_name).get("evaluator_type") in SEM_SEG_TYPES


def build_mapper(
    cfg: CfgNode, dataset_name: str, *, train: bool
) -> DatasetMapper | ClassificationMapper:
    """From a data set's dict to the model's input."""
    if is_classification(dataset_name):
        return _classification_mapper(cfg, train=train)
    if not is_sem_seg(dataset_name):
        return DatasetMapper(cfg, is_train=train)
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
        augmentations = build_augmentation(cfg, is_train=False)
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


def build_train_loader(cfg: CfgNode) -> Iterable[list[dict[str, Any]]]:
    """Endless shuffled batches of ``DATASETS.TRAIN``."""
    mapper = build_mapper(cfg, cfg.DATASETS.TRAIN[0], train=True)
    return build_detection_train_loader(cfg, mapper=mapper)


def build_test_loader(cfg: CfgNode, dataset_name: str) -> Iterable[list[dict[str, Any]]]:
    """One pass over a data set, image by image."""
    mapper = build_mapper(cfg, dataset_name, train=False)
    return build_detection_test_loader(cfg, dataset_name, mapper=mapper)
