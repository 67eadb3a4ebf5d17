"""Whether data sets and model of a config fit each other, found before anything is built."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.modeling import (
    META_ARCH_REGISTRY,
    GeneralizedRCNN,
    PanopticFPN,
    RetinaNet,
    SemanticSegmentor,
)

from dynamic_routing.data.checks import DatasetError, dataset_report, has_coco_file
from dynamic_routing.data.coco_annotation_checks import Tally
from dynamic_routing.data.image_folder import EVALUATOR_TYPE as CLASSIFICATION_TYPE
from dynamic_routing.data.image_folder import class_names, is_classification
from dynamic_routing.modeling.image_classifier import PlainImageClassifier

SEM_SEG_TYPES = ("sem_seg", "cityscapes_sem_seg")
"""``evaluator_type`` of data sets whose labels are maps of classes."""

PANOPTIC_TYPE = "coco_panoptic_seg"
"""``evaluator_type`` of data sets with boxes, masks and maps of classes."""

COCO_KEYPOINTS = 17
"""Keypoints for which pycocotools has its own OKS sigmas."""

LEARN_BOXES = (GeneralizedRCNN, RetinaNet)
LEARN_LABELS = (PanopticFPN, SemanticSegmentor)
LEARN_CLASSES = (PlainImageClassifier,)
"""Meta-architectures, and those derived from them, by what they learn from."""


def is_sem_seg(dataset_name: str) -> bool:
    """Whether a data set is for semantic segmentation."""
    return MetadataCatalog.get(dataset_name).get("evaluator_type") in SEM_SEG_TYPES


def check_fit(cfg: CfgNode) -> None:
    """Check registered data sets against the model and each other.

    Raises:
        DatasetError: a data set has not what the meta-architecture needs, or other numbers of
            classes or keypoints than its heads, or other classes than the first data set. One line
            for each, with both values.
    """
    names = list(dict.fromkeys([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]))
    problems = [text for name in names for text in _problems(cfg, name)]
    problems += _disagreements(cfg, names)
    if problems:
        raise DatasetError("\n".join(problems))


def check_classes(cfg: CfgNode, dataset_name: str) -> None:
    """Classes and ignored label of a data set must be those of the head for label maps.

    Raises:
        DatasetError: they are not; names both values.
    """
    for problem in _label_problems(cfg, dataset_name):
        raise DatasetError(problem)


def _label_problems(cfg: CfgNode, name: str) -> Iterator[str]:
    """Label maps against MODEL.SEM_SEG_HEAD."""
    metadata, head = MetadataCatalog.get(name), cfg.MODEL.SEM_SEG_HEAD
    classes = metadata.get("stuff_classes")
    if classes is not None and len(classes) != head.NUM_CLASSES:
        yield (
            f"data set {name} has {len(classes)} classes, MODEL.SEM_SEG_HEAD.NUM_CLASSES is "
            f"{head.NUM_CLASSES}"
        )
    ignored = metadata.get("ignore_label", head.IGNORE_VALUE)
    if ignored != head.IGNORE_VALUE:
        yield (
            f"data set {name} ignores label {ignored}, MODEL.SEM_SEG_HEAD.IGNORE_VALUE is "
            f"{head.IGNORE_VALUE}"
        )


def _problems(cfg: CfgNode, name: str) -> Iterator[str]:
    """One data set against what its meta-architecture learns from."""
    architecture = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    metadata = MetadataCatalog.get(name)
    lacking = _lacking(architecture, metadata)
    if lacking:
        yield (
            f"data set {name} has no {lacking}, which MODEL.META_ARCHITECTURE "
            f"{cfg.MODEL.META_ARCHITECTURE} needs"
        )
    elif is_classification(name):
        yield from _class_problems(cfg, name)
    elif is_sem_seg(name) or issubclass(architecture, SemanticSegmentor):
        yield from _label_problems(cfg, name)
    elif issubclass(architecture, LEARN_BOXES):
        yield from _detection_problems(cfg, name, architecture)


def _detection_problems(cfg: CfgNode, name: str, architecture: type) -> Iterator[str]:
    """Boxes, and what else a detector may learn, against its heads."""
    metadata = MetadataCatalog.get(name)
    yield from _box_problems(cfg, name, retina=issubclass(architecture, RetinaNet))
    if issubclass(architecture, PanopticFPN):
        yield from _label_problems(cfg, name)
    elif issubclass(architecture, GeneralizedRCNN) and cfg.MODEL.KEYPOINT_ON:
        yield from _keypoint_problems(cfg, name)
    if has_coco_file(metadata):
        yield from _annotation_problems(cfg, name)


def _lacking(architecture: type, metadata: Metadata) -> str:
    """What a data set of known type lacks for a meta-architecture; empty if nothing."""
    kind = metadata.get("evaluator_type")
    if kind is None:
        return ""
    if issubclass(architecture, LEARN_CLASSES):
        return "" if kind == CLASSIFICATION_TYPE else "class folders"
    needs_labels = issubclass(architecture, LEARN_LABELS)
    if needs_labels and kind not in (*SEM_SEG_TYPES, PANOPTIC_TYPE):
        return "label maps"
    if issubclass(architecture, LEARN_BOXES) and kind in (*SEM_SEG_TYPES, CLASSIFICATION_TYPE):
        return "boxes"
    if needs_labels and kind == PANOPTIC_TYPE and not metadata.get("sem_seg_root"):
        return "separate label maps (take the data set whose name ends in _separated)"
    return ""


def _thing_classes(name: str) -> list[str] | None:
    """Names of what has boxes: as registered, else as in the COCO file; None: not known yet."""
    metadata = MetadataCatalog.get(name)
    if metadata.get("thing_classes") is None and has_coco_file(metadata):
        return list(dataset_report(metadata).classes)
    return metadata.get("thing_classes")


def _class_problems(cfg: CfgNode, name: str) -> Iterator[str]:
    """Number of class folders against that of the classifier."""
    classes = len(class_names(name))
    if classes != cfg.MODEL.CLASSIFIER.NUM_CLASSES:
        yield (
            f"data set {name} has {classes} classes, MODEL.CLASSIFIER.NUM_CLASSES is "
            f"{cfg.MODEL.CLASSIFIER.NUM_CLASSES}"
        )


def _box_problems(cfg: CfgNode, name: str, *, retina: bool) -> Iterator[str]:
    """Number of classes against that of the box head."""
    classes = _thing_classes(name)
    key, node = "ROI_HEADS", cfg.MODEL.ROI_HEADS
    if retina:
        key, node = "RETINANET", cfg.MODEL.RETINANET
    if classes is not None and len(classes) != node.NUM_CLASSES:
        yield (
            f"data set {name} has {len(classes)} classes, MODEL.{key}.NUM_CLASSES is "
            f"{node.NUM_CLASSES}"
        )


def _keypoint_problems(cfg: CfgNode, name: str) -> Iterator[str]:
    """Keypoints against the head, and against what evaluation knows of them."""
    names = MetadataCatalog.get(name).get("keypoint_names")
    if names is None:
        yield f"data set {name} has no keypoint_names, which MODEL.KEYPOINT_ON needs"
        return
    head, sigmas = cfg.MODEL.ROI_KEYPOINT_HEAD, cfg.TEST.KEYPOINT_OKS_SIGMAS
    if len(names) != head.NUM_KEYPOINTS:
        yield (
            f"data set {name} has {len(names)} keypoints, MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS "
            f"is {head.NUM_KEYPOINTS}"
        )
    if name in cfg.DATASETS.TEST and (len(sigmas) or COCO_KEYPOINTS) != len(names):
        yield (
            f"data set {name} has {len(names)} keypoints, TEST.KEYPOINT_OKS_SIGMAS "
            f"{len(sigmas)} values; it needs one a keypoint, or none for COCO's {COCO_KEYPOINTS}"
        )


def _annotation_problems(cfg: CfgNode, name: str) -> Iterator[str]:
    """What the model is to learn, but the annotations of a COCO file do not hold."""
    contents, model = dataset_report(MetadataCatalog.get(name)).contents, cfg.MODEL
    train = name in cfg.DATASETS.TRAIN
    if train and not contents.usable.count:
        yield f"data set {name} has no annotation to train on (crowds are none)"
    if model.MASK_ON and contents.without_mask.count:
        yield (
            f"data set {name}: {_number(contents.without_mask)} no segmentation, which "
            "MODEL.MASK_ON needs"
        )
    if (
        train
        and model.MASK_ON
        and cfg.INPUT.MASK_FORMAT == "polygon"
        and contents.run_lengths.count
    ):
        yield (
            f"data set {name}: {_number(contents.run_lengths)} run lengths instead of polygons; "
            "set INPUT.MASK_FORMAT bitmask"
        )


def _number(tally: Tally) -> str:
    """The beginning of a sentence on some annotations."""
    if tally.count == 1:
        return f"annotation {tally.first} has"
    return f"{tally.count} annotations, the first {tally.first}, have"


def _disagreements(cfg: CfgNode, names: Sequence[str]) -> Iterator[str]:
    """Data sets whose classes are other ones than those of the first data set."""
    for key in _shared_keys(cfg):
        values = [(name, _shared(name, key)) for name in names]
        known = [(name, value) for name, value in values if value is not None]
        for name, value in known[1:]:
            first, wanted = known[0]
            if value != wanted:
                yield f"data sets {first} and {name} of one run have other {key}: " + (
                    _difference(wanted, value)
                )


def _shared_keys(cfg: CfgNode) -> list[str]:
    """Metadata, or "classes" for class folders, that all data sets of a run must share."""
    architecture = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    if issubclass(architecture, LEARN_CLASSES):
        return ["classes"]
    keys = []
    if not issubclass(architecture, SemanticSegmentor):
        keys += ["thing_classes"]
    if issubclass(architecture, LEARN_LABELS):
        keys += ["stuff_classes"]
    if cfg.MODEL.KEYPOINT_ON:
        keys += ["keypoint_names", "keypoint_flip_map"]
    return keys


def _shared(name: str, key: str) -> list[object] | None:
    """A value of the metadata, or the class folders, as a list; None if the data set has none."""
    if key == "classes":
        return list(class_names(name)) if is_classification(name) else None
    value = _thing_classes(name) if key == "thing_classes" else MetadataCatalog.get(name).get(key)
    return None if value is None else list(value)


def _difference(first: Sequence[object], second: Sequence[object]) -> str:
    """The first entries in which two different lists differ."""
    for one, other in zip(first, second):
        if one != other:
            return f"{one!r} is {other!r} there"
    return f"{len(first)} and {len(second)} entries"
