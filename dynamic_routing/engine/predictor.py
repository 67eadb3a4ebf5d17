"""Predictions for arrays: Detectron2's DefaultPredictor for batches, with routes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.data.detection_utils import convert_PIL_to_numpy
from detectron2.modeling import build_model
from PIL import Image

from dynamic_routing.engine.checkpoint import CheckpointError, RoutingCheckpointer
from dynamic_routing.modeling.config import ConfigError, resolve_device
from dynamic_routing.modeling.image_classifier import PlainImageClassifier
from dynamic_routing.modeling.prepared import prepare_model

CONFIDENCE_KEYS = (
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST",
    "MODEL.RETINANET.SCORE_THRESH_TEST",
    "MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH",
)
"""Where R-CNN, RetinaNet and Panoptic FPN read the least score of an instance."""


def confidence_overrides(confidence: float) -> list[str]:
    """Keys and values that make a config drop instances of a lower score.

    Raises:
        ValueError: ``confidence`` outside [0, 1].
    """
    if not 0 <= confidence <= 1:
        raise ValueError(f"confidence must be in [0, 1], got {confidence}")
    return [word for key in CONFIDENCE_KEYS for word in (key, str(float(confidence)))]


class Predictor:
    """A trained model that takes images as they are.

    Each image is brought to ``INPUT.FORMAT`` and resized by ``INPUT.MIN_SIZE_TEST`` and
    ``MAX_SIZE_TEST`` as in evaluation; results have the size of the image. With a DynamicRouting
    meta-architecture the result of an image does not depend on its batch; Detectron2's own pad
    every image to the largest.

    Args:
        cfg: config of the model, with this project's keys; not changed.
        weights: a checkpoint; ``MODEL.WEIGHTS`` by default.

    Raises:
        CheckpointError: no weights, or those of another network.
        ConfigError: ``MODEL.DEVICE`` asks for a GPU that is not there, ``TEST.AUG.ENABLED``, or a
            classifier.

    Example:
        >>> predictor = Predictor(get_config("config.yaml"), weights="model_final.pth")
        >>> predictor([cv2.imread("street.png")])[0]["routes"]
    """

    def __init__(self, cfg: CfgNode, *, weights: str | None = None) -> None:
        self.cfg = cfg.clone()
        self.cfg.defrost()
        resolve_device(self.cfg)
        if self.cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
            raise ConfigError(f"MODEL.DEVICE {self.cfg.MODEL.DEVICE}: no GPU here; use auto or cpu")
        if self.cfg.TEST.AUG.ENABLED:
            raise ConfigError("predictions have no test-time augmentation: TEST.AUG.ENABLED False")
        weights = weights or self.cfg.MODEL.WEIGHTS
        if not weights:
            raise CheckpointError("no weights: give a checkpoint, or name one in MODEL.WEIGHTS")
        self.model = build_model(self.cfg).eval()
        if isinstance(self.model, PlainImageClassifier):
            raise ConfigError(
                f"MODEL.META_ARCHITECTURE {self.cfg.MODEL.META_ARCHITECTURE} sees cut squares, not "
                "whole images: build it with dynamic_routing.load_pretrained"
            )
        RoutingCheckpointer(self.model, strict=True).load(weights)
        self._prepared = prepare_model(self.model, graphs=cfg.MODEL.DYNAMIC_ROUTING.CUDA_GRAPHS)

    @torch.no_grad()
    def __call__(self, images: Sequence[np.ndarray]) -> list[dict[str, Any]]:
        """Predict on a batch.

        Args:
            images: (H, W, 3) uint8 each, BGR, of any sizes.

        Returns:
            The model's output for each image, on the model's device: ``sem_seg`` (K, H, W) scores,
            ``instances``, ``panoptic_seg``; of routed models also ``routes`` (N = 1, on the CPU)
            and ``milliseconds``.

        Raises:
            ValueError: an array that is no such image.
        """
        inputs = [self._model_input(image, i) for i, image in enumerate(images)]
        return self._prepared(inputs) if inputs else []

    def _model_input(self, image: np.ndarray, index: int) -> dict[str, Any]:
        """Bring one image to the format and size that the model expects."""
        check_image(image, f"image {index}")
        rgb = Image.fromarray(np.ascontiguousarray(image[:, :, ::-1]))
        pixels = self._resized(convert_PIL_to_numpy(rgb, self.cfg.INPUT.FORMAT))
        tensor = torch.as_tensor(np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32))
        return {"image": tensor, "height": image.shape[0], "width": image.shape[1]}

    def _resized(self, image: np.ndarray) -> np.ndarray:
        """Detectron2's ResizeShortestEdge, which would leave no pixel of a very long image."""
        height, width = image.shape[:2]
        shorter, longer = self.cfg.INPUT.MIN_SIZE_TEST, self.cfg.INPUT.MAX_SIZE_TEST
        if not shorter:
            return image
        size = T.ResizeShortestEdge.get_output_shape(height, width, shorter, longer)
        new_height, new_width = (max(1, side) for side in size)
        return T.ResizeTransform(height, width, new_height, new_width).apply_image(image)


def check_image(image: object, name: str) -> None:
    """ValueError unless ``image`` is an (H, W, 3) uint8 array with at least one pixel."""
    if not isinstance(image, np.ndarray):
        raise ValueError(f"{name} must be an (H, W, 3) uint8 array, got {type(image).__name__}")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(
            f"{name} must be (H, W, 3) uint8 with at least one pixel, got {image.shape} "
            f"{image.dtype}"
        )
