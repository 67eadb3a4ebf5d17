"""Small detectors and batches with boxes, masks and keypoints, for the tests of all packages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints
from torch import nn

from dynamic_routing.modeling import get_config
from tests.modeling.builders import CONFIGS
from tests.routing.builders import randomise

QUICK_RCNN = CONFIGS / "quick" / "Base-Quick-RCNN.yaml"
DETECTED_CLASSES = 3
SMALL_DETECTOR = (
    "MODEL.DEVICE cpu MODEL.DYNAMIC_ROUTING.SPACE.NUM_LAYERS 4 MODEL.DYNAMIC_ROUTING.WIDTH 4 "
    "MODEL.DYNAMIC_ROUTING.GATE.SMALL False MODEL.DYNAMIC_ROUTING.BUDGET.LAMBDA 0 "
    "MODEL.FPN.OUT_CHANNELS 8 MODEL.ROI_BOX_HEAD.FC_DIM 16 MODEL.ROI_MASK_HEAD.CONV_DIM 8 "
    f"MODEL.ROI_HEADS.NUM_CLASSES {DETECTED_CLASSES} "
    f"MODEL.RETINANET.NUM_CLASSES {DETECTED_CLASSES} "
    "MODEL.RPN.POST_NMS_TOPK_TEST 20 MODEL.ROI_HEADS.SCORE_THRESH_TEST 0.0"
).split()

MASK = ("MODEL.MASK_ON", "True")
FASTER: tuple[str, ...] = ()
KEYPOINT = (
    "MODEL.KEYPOINT_ON", "True", "MODEL.ROI_HEADS.NUM_CLASSES", "1",
    "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", "[8, 8]",
)  # fmt: skip
RETINA = (
    "MODEL.META_ARCHITECTURE", "DynamicRoutingRetinaNet",
    "MODEL.RETINANET.IN_FEATURES", "['p3', 'p4', 'p5', 'p6']",
    "MODEL.ANCHOR_GENERATOR.SIZES", "[[24], [48], [96], [160]]",
)  # fmt: skip
PANOPTIC = (
    "MODEL.META_ARCHITECTURE", "DynamicRoutingPanopticFPN", "MODEL.MASK_ON", "True",
    "MODEL.SEM_SEG_HEAD.NAME", "SemSegFPNHead", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "4",
    "MODEL.SEM_SEG_HEAD.CONVS_DIM", "8", "MODEL.SEM_SEG_HEAD.NORM", "BN",
)  # fmt: skip
DETECTORS = {
    "faster_rcnn": FASTER,
    "mask_rcnn": MASK,
    "keypoint_rcnn": KEYPOINT,
    "retinanet": RETINA,
    "panoptic_fpn": PANOPTIC,
}
STOCK = {
    "faster_rcnn": "GeneralizedRCNN",
    "mask_rcnn": "GeneralizedRCNN",
    "keypoint_rcnn": "GeneralizedRCNN",
    "retinanet": "RetinaNet",
    "panoptic_fpn": "PanopticFPN",
}
"""Detectron2's own meta-architecture for each of ``DETECTORS``."""


def small_detector_config(*overrides: Any, base: Path = QUICK_RCNN) -> CfgNode:
    """Four layers of width 4, five output scales, three classes, on the CPU."""
    return get_config(base, [*SMALL_DETECTOR, *overrides])


def small_detector(*overrides: Any, seed: int | None = None) -> nn.Module:
    """The model of :func:`small_detector_config`; with a seed, routes that differ by image."""
    model = build_model(small_detector_config(*overrides))
    if seed is not None:
        randomise(model.backbone.network, seed=seed)
    return model


def detection_batch(*sizes: tuple[int, int], seed: int = 0, labels: bool = True) -> list[dict]:
    """Images of these (height, width), each with two boxes, masks, keypoints and a label map."""
    generator = torch.Generator().manual_seed(seed)
    inputs = []
    for i, (height, width) in enumerate(sizes):
        image = torch.rand(3, height, width, generator=generator) * 80 * (1 + i % 3) + 10 * i
        entry: dict[str, Any] = {"image": image, "file_name": f"{seed}/{i}.jpg", "image_id": i}
        if labels:
            entry["instances"] = _instances(height, width)
            entry["sem_seg"] = (image.mean(dim=0) / 60).long().clamp(max=3)
        inputs.append(entry)
    return inputs


def _instances(height: int, width: int) -> Instances:
    """A box in the upper left and one in the lower right quarter."""
    halves = [[2.0, 2.0, width / 2, height / 2], [width / 2, height / 2, width - 2, height - 2]]
    boxes = torch.tensor(halves)
    masks = torch.zeros(2, height, width, dtype=torch.bool)
    points = torch.zeros(2, 17, 3)
    for i, (left, top, right, bottom) in enumerate(boxes.long().tolist()):
        masks[i, top:bottom, left:right] = True
        points[i, :, 0] = torch.linspace(left + 1, right - 1, 17)
        points[i, :, 1] = torch.linspace(top + 1, bottom - 1, 17)
        points[i, :, 2] = 2
    return Instances(
        (height, width),
        gt_boxes=Boxes(boxes),
        gt_classes=torch.zeros(2, dtype=torch.long),
        gt_masks=BitMasks(masks),
        gt_keypoints=Keypoints(points),
    )
