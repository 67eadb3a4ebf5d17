"""From an image of a classification data set to the model's input."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms as T
from fvcore.transforms.transform import CropTransform, TransformList
from PIL import Image

from .images import read_image

ATTEMPTS = 10
"""Random windows that are tried before the whole image is taken (Inception's augmentation)."""


class RandomResizedCrop(T.Augmentation):
    """A random part of the image in a random shape, resized to one size.

    Args:
        size: (height, width) of the result in pixels.
        scale: smallest and largest share of the image's area, in (0, 1].
        ratio: smallest and largest width / height of the window.

    Raises:
        ValueError: values outside these bounds or in the wrong order.
    """

    def __init__(
        self,
        size: tuple[int, int],
        *,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
    ) -> None:
        if min(size) < 1:
            raise ValueError(f"size must be a positive (height, width), got {size}")
        if not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(f"scale must be two ordered shares in (0, 1], got {scale}")
        if not 0 < ratio[0] <= ratio[1]:
            raise ValueError(f"ratio must be two ordered positive numbers, got {ratio}")
        super().__init__()
        self.size = tuple(size)
        self.scale = tuple(scale)
        self.ratio = tuple(ratio)

    def get_transform(self, image: np.ndarray) -> TransformList:
        """A crop and a bilinear resize for an (H, W, C) image."""
        height, width = image.shape[:2]
        h, w = self._window(height, width)
        top, left = np.random.randint(height - h + 1), np.random.randint(width - w + 1)
        return TransformList(
            [
                CropTransform(left, top, w, h, width, height),
                T.ResizeTransform(h, w, *self.size, Image.Resampling.BILINEAR),
            ]
        )

    def _window(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of a window that fits; the largest of a fitting shape if none does."""
        for _ in range(ATTEMPTS):
            area = height * width * np.random.uniform(self.scale[0], self.scale[1])
            ratio = math.exp(np.random.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                return h, w
        ratio = min(max(width / height, self.ratio[0]), self.ratio[1])
        w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
        return max(h, 1), max(w, 1)


class CenterCrop(T.Augmentation):
    """The middle of an image, or all of a side that is shorter.

    Args:
        size: (height, width) in pixels.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = tuple(size)

    def get_transform(self, image: np.ndarray) -> CropTransform:
        """A crop for an (H, W, C) image."""
        height, width = image.shape[:2]
        h, w = min(height, self.size[0]), min(width, self.size[1])
        return CropTransform((width - w) // 2, (height - h) // 2, w, h, width, height)


def build_classification_augmentations(
    *,
    train: bool,
    size: tuple[int, int],
    scale: tuple[float, float],
    resize: int,
    flip: bool,
) -> list[T.Augmentation]:
    """ImageNet's usual augmentations.

    Args:
        train: random part, resized, and flip; else shorter side to ``resize`` and centre.
        size: (height, width) of the result in pixels.
        scale: smallest and largest share of the image's area in training.
        resize: shorter side before the centre crop in testing, in pixels.
        flip: whether to mirror half of the training images.
    """
    if train:
        found: list[T.Augmentation] = [RandomResizedCrop(size, scale=scale)]
        return [*found, T.RandomFlip(prob=0.5, horizontal=True)] if flip else found
    return [T.ResizeShortestEdge(resize, max_size=1 << 30), CenterCrop(size)]


class ClassificationMapper:
    """Reads, augments and returns one image as a dictionary with image (C, H, W) and class_id.

    Args:
        augmentations: applied in order.
        image_format: "BGR", "RGB" or "L".
    """

    def __init__(self, *, augmentations: Sequence[T.Augmentation], image_format: str) -> None:
        self.augmentations = T.AugmentationList(list(augmentations))
        self.image_format = image_format

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Read and augment one image; ``dataset_dict`` is not changed.

        Raises:
            ImageError: the file cannot be used; one line that names it.
        """
        record = dict(dataset_dict)
        image = read_image(record["file_name"], self.image_format)
        aug_input = T.AugInput(image)
        self.augmentations(aug_input)
        pixels = np.ascontiguousarray(aug_input.image.transpose(2, 0, 1))
        height, width = pixels.shape[1:]  # Detectron2's loader groups images by these
        return {**record, "image": torch.as_tensor(pixels), "height": height, "width": width}
