"""Samples of a data set as the network sees them: augmented by the config's mapper, with labels."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.structures import Instances, PolygonMasks
from detectron2.utils.visualizer import GenericMask

from dynamic_routing.analysis.sample_figure import Sample
from dynamic_routing.data.image_folder import class_names
from dynamic_routing.divdr.sources import choose_subset
from dynamic_routing.engine.loaders import build_mapper
from dynamic_routing.evaluation.examples import class_palette
from dynamic_routing.evaluation.instance_tiles import drawn_instances
from dynamic_routing.evaluation.prediction_pictures import display_size
from dynamic_routing.modeling.config import ConfigError
from dynamic_routing.randomness import kept_random_state

SPLITS = ("train", "test")


@dataclass(frozen=True)
class MappedImage:
    """One entry of a data set after the mapper.

    Attributes:
        dataset_name: where it is from.
        seed: of its augmentation.
        inputs: what the model gets.
    """

    dataset_name: str
    seed: int
    inputs: dict[str, Any]


def mapped_images(cfg: CfgNode, *, split: str, count: int, seed: int) -> Iterator[MappedImage]:
    """Images of the first data set of a split, chosen by the seed, each augmented by its own.

    Args:
        cfg: the config; its data sets are prepared.
        split: "train" or "test".
        count: how many, at most as many as there are.
        seed: chooses the images; image i is augmented with ``seed + i``.

    Raises:
        ConfigError: the config names no data set of this split, or a count below 1.
    """
    names: Sequence[str] = cfg.DATASETS.TRAIN if split == "train" else cfg.DATASETS.TEST
    if not names:
        raise ConfigError(f"DATASETS.{split.upper()} names no data set")
    if count < 1:
        raise ConfigError(f"--count must be at least 1, got {count}")
    train = split == "train"
    filtered = train and cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    records = get_detection_dataset_dicts(names[0], filter_empty=filtered)
    mapper = build_mapper(cfg, names[0], train=train)
    for i, position in enumerate(choose_subset(len(records), count, seed=seed)):
        with kept_random_state():
            seed_everything(seed + i)
            inputs = mapper(records[position])
        yield MappedImage(names[0], seed + i, inputs)


def seed_everything(seed: int) -> None:
    """Seed the generators that augmentations draw from."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def draw_sample(image: MappedImage, *, image_format: str) -> Sample:
    """What the network sees of an image beside its labels.

    Args:
        image: of :func:`mapped_images`.
        image_format: of the tensor, ``INPUT.FORMAT``.
    """
    inputs, tiles = image.inputs, {}
    rgb = convert_image_to_rgb(inputs["image"].permute(1, 2, 0), image_format)
    rgb = np.ascontiguousarray(rgb).astype(np.uint8)
    height, width = rgb.shape[:2]
    title = [Path(str(inputs.get("file_name", "?"))).name, f"{height} x {width} pixels"]
    title.append(f"seed {image.seed}")
    tiles["image"] = _enlarged(rgb)
    legend = []
    if "sem_seg" in inputs:
        palette, labels = class_palette(image.dataset_name), inputs["sem_seg"].numpy()
        tiles["label map"] = _enlarged(palette.paint(labels))
        legend = palette.legend([labels])
        title.append(f"{(labels == palette.ignore_label).mean():.0%} ignored")
    if "instances" in inputs:
        names = list(MetadataCatalog.get(image.dataset_name).thing_classes)
        shown = shown_instances(inputs["instances"])
        tiles["instances"] = drawn_instances(rgb, shown, names, image.dataset_name)
        title.append(f"instances: {len(shown)}")
        if shown.has("pred_keypoints"):
            title.append(f"keypoints: {int((shown.pred_keypoints[..., 2] > 0).sum())}")
    if "class_id" in inputs:
        title.append(f"class {_class_name(image)}")
    elif len(tiles) == 1:
        title.append("no labels: the network gets none here")
    return Sample(tiles, ", ".join(title), legend)


def _class_name(image: MappedImage) -> str:
    """The class of a classification sample."""
    names, index = class_names(image.dataset_name), int(image.inputs["class_id"])
    return names[index] if index < len(names) else str(index)


def _enlarged(picture: np.ndarray) -> np.ndarray:
    """The picture at a size at which it can be seen; pixels stay squares."""
    height, width = display_size(*picture.shape[:2])
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


def shown_instances(truth: Instances) -> Instances:
    """Training instances in the form of a prediction."""
    height, width = truth.image_size
    shown = Instances(
        truth.image_size,
        pred_boxes=truth.gt_boxes,
        scores=torch.ones(len(truth)),
        pred_classes=truth.gt_classes,
    )
    if truth.has("gt_masks") and len(truth):
        if isinstance(truth.gt_masks, PolygonMasks):
            polygons = truth.gt_masks.polygons
            masks = [GenericMask(item, height, width).mask for item in polygons]
            shown.pred_masks = torch.from_numpy(np.stack(masks)).bool()
        else:
            shown.pred_masks = truth.gt_masks.tensor
    if truth.has("gt_keypoints"):
        shown.pred_keypoints = truth.gt_keypoints.tensor
    return shown
