"""Data sets: generated ones, registration by config, checks at start-up, and what reads them right.

    scenes         street-like pictures with polygons, from a seed
    cityscapes     writes them as a Cityscapes tree
    voc            writes them as a PASCAL VOC 2012 tree; registers VOC 2012 for segmentation
    coco           pictures of things in all sizes, as a COCO 2017 tree
    custom         registers the user's own data sets from plain dictionaries
    catalog        where data sets lie (DETECTRON2_DATASETS) and what is registered there
    checks         finds wrong paths and bad annotations before training starts
    images         reads image files safely; mapper, detection_mapper use it
    augmentation   random scale, crop with padding, flip

Names are imported on first use: the generators work without Detectron2, and DETECTRON2_DATASETS may
still be set after this package is imported.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_LAZY = {
    "DatasetError": "checks",
    "RandomCropWithPadding": "augmentation",
    "RandomScale": "augmentation",
    "Scene": "scenes",
    "SceneObject": "canvas",
    "SemSegDatasetMapper": "mapper",
    "build_sem_seg_augmentations": "augmentation",
    "check_datasets": "checks",
    "datasets_root": "catalog",
    "draw_scene": "scenes",
    "generate_cityscapes": "cityscapes",
    "generate_coco": "coco",
    "generate_patches": "patches",
    "generate_voc": "voc",
    "load_label_map": "mapper",
    "register_custom_datasets": "custom",
    "register_datasets": "catalog",
    "register_image_folder": "image_folder",
    "register_voc": "voc",
}

__all__ = sorted(_LAZY)


def __getattr__(name: str) -> Any:
    """Import a public name from the module that owns it (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
