"""What predicted class indices mean: names, colours and a data set's own ids.

Nothing here needs the files of a data set: only its metadata, or the ``classes`` of an entry of
``DATASETS.CUSTOM``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES, COCO_CATEGORIES
from detectron2.modeling import (
    META_ARCH_REGISTRY,
    GeneralizedRCNN,
    PanopticFPN,
    RetinaNet,
    SemanticSegmentor,
)

from dynamic_routing.data.catalog import register_datasets
from dynamic_routing.evaluation.examples import spread_colour
from dynamic_routing.modeling.config import ConfigError, did_you_mean

logger = logging.getLogger(__name__)

Colour = tuple[int, int, int]
OWN_COLOURS: Mapping[str, Sequence[int]] = {c["name"]: c["color"] for c in CITYSCAPES_CATEGORIES}
"""Colours of classes that bring none, by name."""

COCO_KEYPOINTS = "keypoints_coco_"
"""Data sets of COCO whose ids Detectron2 learns from their files only."""


@dataclass(frozen=True)
class ClassNames:
    """What is known of the classes 0, 1, ... of one kind.

    Attributes:
        names: of the first classes; those without a name are called ``class 3``.
        colours: RGB, 0 to 255, of the first classes; others get one of their own.
        dataset_ids: the data set's id of each index; empty if unknown, ids then are the indices.
    """

    names: tuple[str, ...] = ()
    colours: tuple[Colour, ...] = ()
    dataset_ids: Mapping[int, int] = field(default_factory=dict)

    def name(self, index: int) -> str:
        """What a class is called."""
        return self.names[index] if index < len(self.names) else f"class {index}"

    def colour(self, index: int) -> Colour:
        """The data set's own colour, that of the same name in Cityscapes, or one of the index."""
        if index < len(self.colours):
            return self.colours[index]
        red, green, blue = OWN_COLOURS.get(self.name(index), spread_colour(index))
        return red, green, blue

    def category_id(self, index: int) -> int:
        """The data set's id of a class, or its index."""
        return self.dataset_ids.get(index, index)

    def categories(self, count: int) -> list[dict[str, Any]]:
        """The first ``count`` classes as COCO lists them: id and name."""
        return [{"id": self.category_id(i), "name": self.name(i)} for i in range(count)]


@dataclass(frozen=True)
class PredictedClasses:
    """The classes of a model.

    Attributes:
        things: classes of its instances.
        stuff: classes of its label maps.
        num_things: how many of them it tells apart, 0 if it finds no instances.
        num_stuff: likewise.
        dataset_name: whose names these are, "" for nobody's.
        keypoints: ``keypoint_names`` and ``keypoint_connection_rules``, where the data set has
            them.
    """

    things: ClassNames
    stuff: ClassNames
    num_things: int
    num_stuff: int
    dataset_name: str = ""
    keypoints: Mapping[str, Any] = field(default_factory=dict)


def predicted_classes(cfg: CfgNode, dataset_name: str | None = None) -> PredictedClasses:
    """The classes of the config's model, by the names of a data set whose files need not exist.

    Args:
        cfg: config of the model.
        dataset_name: a registered data set or one of ``DATASETS.CUSTOM``; by default the first of
            ``DATASETS.TEST``. Its names are left aside, with a warning, if it has another number
            of classes than the model.

    Raises:
        ConfigError: a ``dataset_name`` that nothing has.
    """
    register_datasets()
    name = dataset_name or next(iter(cfg.DATASETS.TEST), "")
    metadata = _metadata(cfg, name)
    if metadata is None:
        if dataset_name:
            known = [*DatasetCatalog.list(), *(str(e.get("name")) for e in cfg.DATASETS.CUSTOM)]
            raise ConfigError(f"no data set {name} is known{did_you_mean(name, known)}")
        metadata = Metadata()
    num_things, num_stuff = _counts(cfg)
    return PredictedClasses(
        things=_class_names(metadata, "thing", count=num_things, dataset_name=name),
        stuff=_class_names(metadata, "stuff", count=num_stuff, dataset_name=name),
        num_things=num_things,
        num_stuff=num_stuff,
        dataset_name=name,
        keypoints={
            key: metadata.get(key)
            for key in ("keypoint_names", "keypoint_connection_rules")
            if metadata.get(key)
        },
    )


def _metadata(cfg: CfgNode, name: str) -> Metadata | None:
    """A data set's metadata; of an own one only what the config says. None if nobody knows it."""
    for entry in cfg.DATASETS.CUSTOM:
        if isinstance(entry, Mapping) and entry.get("name") == name:
            return _custom_metadata(entry)
    return MetadataCatalog.get(name) if name in DatasetCatalog else None


def _custom_metadata(entry: Mapping[str, Any]) -> Metadata:
    """Names and colours as an entry of DATASETS.CUSTOM gives them."""
    kind = "stuff" if entry.get("type") == "sem_seg" else "thing"
    metadata = Metadata()
    names = {"classes": f"{kind}_classes", "colors": f"{kind}_colors"}
    for key, name in {**names, "keypoint_names": "keypoint_names"}.items():
        if entry.get(key):
            metadata.set(**{name: list(entry[key])})
    return metadata


def _counts(cfg: CfgNode) -> tuple[int, int]:
    """How many thing and stuff classes the model tells apart."""
    architecture, model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE), cfg.MODEL
    things = stuff = 0
    if issubclass(architecture, RetinaNet):
        things = model.RETINANET.NUM_CLASSES
    if issubclass(architecture, GeneralizedRCNN):
        things = model.ROI_HEADS.NUM_CLASSES
    if issubclass(architecture, SemanticSegmentor | PanopticFPN):
        stuff = model.SEM_SEG_HEAD.NUM_CLASSES
    return things, stuff


def _class_names(metadata: Metadata, kind: str, *, count: int, dataset_name: str) -> ClassNames:
    """One kind's classes, or numbers if the data set has another number of them."""
    names = tuple(metadata.get(f"{kind}_classes") or ())
    if names and count and len(names) != count:
        logger.warning(
            f"data set {dataset_name} has {len(names)} {kind} classes, the model {count}: "
            "classes are shown by number"
        )
        return ClassNames()
    colours = tuple((int(r), int(g), int(b)) for r, g, b in metadata.get(f"{kind}_colors") or ())
    ids = metadata.get(f"{kind}_dataset_id_to_contiguous_id") or {}
    dataset_ids = {index: dataset_id for dataset_id, index in ids.items()}
    if kind == "thing" and dataset_name.startswith(COCO_KEYPOINTS):
        dataset_ids = {i: c["id"] for c in COCO_CATEGORIES for i in _places(c["name"], names)}
    return ClassNames(names, colours, dataset_ids)


def _places(name: str, names: Sequence[str]) -> list[int]:
    return [i for i, found in enumerate(names) if found == name]
