"""Augmentations of semantic segmentation: random scale, random crop with padding, flip.

Like all of Detectron2's augmentations they draw from NumPy's global generator, which our loader
seeds anew for each sample.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from detectron2.data import transforms as T
from fvcore.transforms.transform import CropTransform, PadTransform, Transform, TransformList
from PIL import Image

IGNORE_LABEL = 255


class ShortestEdge(T.ResizeShortestEdge):
    """Detectron2's ResizeShortestEdge, which leaves no pixel of a very long image; one stays."""

    def get_transform(self, image: np.ndarray) -> Transform:
        """A resize for an (H, W, C) image, to at least one pixel a side."""
        found = super().get_transform(image)
        if not isinstance(found, T.ResizeTransform):
            return found
        height, width = max(1, found.new_h), max(1, found.new_w)
        return T.ResizeTransform(found.h, found.w, height, width, found.interp)


def keep_a_pixel(augmentations: Sequence[T.Augmentation]) -> list[T.Augmentation]:
    """The same augmentations with :class:`ShortestEdge` for Detectron2's own."""
    return [
        ShortestEdge(a.short_edge_length, a.max_size, ("choice", "range")[a.is_range], a.interp)
        if type(a) is T.ResizeShortestEdge
        else a
        for a in augmentations
    ]


class RandomScale(T.Augmentation):
    """Resize by one random factor on the image's own size, the same for both sides.

    Args:
        min_scale: smallest factor, above 0.
        max_scale: largest factor.

    Raises:
        ValueError: if the factors are not positive or in the wrong order.
    """

    def __init__(self, min_scale: float, max_scale: float) -> None:
        if not 0 < min_scale <= max_scale:
            raise ValueError(
                f"scales must be positive and ordered, got {min_scale} and {max_scale}"
            )
        super().__init__()
        self.min_scale = min_scale
        self.max_scale = max_scale

    def get_transform(self, image: np.ndarray) -> Transform:
        """A resize for an (H, W, C) image: bilinear, labels by nearest neighbour."""
        height, width = image.shape[:2]
        scale = np.random.uniform(self.min_scale, self.max_scale)
        new_height, new_width = max(1, round(height * scale)), max(1, round(width * scale))
        return T.ResizeTransform(height, width, new_height, new_width, Image.Resampling.BILINEAR)


class ColourPadTransform(PadTransform):
    """Pad right and bottom with one value a channel; labels with the ignored value.

    Args:
        right: columns to add.
        bottom: rows to add.
        size: (height, width) before padding.
        colour: one value a channel of the image.
        ignore_label: value of padded labels.
    """

    def __init__(
        self,
        *,
        right: int,
        bottom: int,
        size: tuple[int, int],
        colour: Sequence[float],
        ignore_label: int,
    ) -> None:
        super().__init__(0, 0, right, bottom, size[1], size[0], 0, ignore_label)
        self.colour = tuple(colour)

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """Pad an (H, W, C) image, keeping its type; the colour is rounded for integers."""
        height, width, channels = img.shape
        values = np.broadcast_to(np.asarray(self.colour, dtype=np.float64), (channels,))
        if np.issubdtype(img.dtype, np.integer):
            values = np.rint(values)
        padded = np.empty((height + self.y1, width + self.x1, channels), dtype=img.dtype)
        padded[:] = values.astype(img.dtype)
        padded[:height, :width] = img
        return padded


class RandomCropWithPadding(T.Augmentation):
    """Cut a window of fixed size at a random place; pad smaller images right and bottom.

    Detectron2's FixedSizeCrop draws one number for both axes, so that its windows lie on the
    diagonal, and pads all channels with one value.

    Args:
        crop_size: (height, width) in pixels.
        pad_value: one value a channel, in the image's own order and scale (the pixel mean gives 0
            after normalisation).
        ignore_label: value of padded labels.

    Raises:
        ValueError: if the size is not positive.
    """

    def __init__(
        self,
        crop_size: tuple[int, int],
        *,
        pad_value: Sequence[float],
        ignore_label: int = IGNORE_LABEL,
    ) -> None:
        if len(crop_size) != 2 or min(crop_size) < 1:
            raise ValueError(f"crop_size must be a positive (height, width), got {crop_size}")
        super().__init__()
        self.crop_size = crop_size
        self.pad_value = tuple(pad_value)
        self.ignore_label = ignore_label

    def get_transform(self, image: np.ndarray) -> TransformList:
        """A crop and a padding for an (H, W, C) image."""
        height, width = image.shape[:2]
        cut = (min(height, self.crop_size[0]), min(width, self.crop_size[1]))
        top = np.random.randint(height - cut[0] + 1)
        left = np.random.randint(width - cut[1] + 1)
        crop = CropTransform(left, top, cut[1], cut[0], width, height)
        pad = ColourPadTransform(
            right=self.crop_size[1] - cut[1],
            bottom=self.crop_size[0] - cut[0],
            size=cut,
            colour=self.pad_value,
            ignore_label=self.ignore_label,
        )
        return TransformList([crop, pad])


def build_sem_seg_augmentations(
    *,
    train: bool,
    crop_size: tuple[int, int] = (768, 768),
    scale_range: tuple[float, float] = (0.5, 2.0),
    flip: bool = True,
    pixel_mean: Sequence[float] = (103.53, 116.28, 123.675),
    ignore_label: int = IGNORE_LABEL,
    test_size: tuple[int, int] | None = None,
) -> list[T.Augmentation]:
    """The augmentations of the Dynamic Routing recipe.

    Args:
        train: random scale, crop and flip if true; else only `test_size`.
        crop_size: (height, width) of the training crop in pixels.
        scale_range: smallest and largest scale.
        flip: whether to mirror half of the training images.
        pixel_mean: value of padding, one a channel, in the order of the image (BGR by default).
        ignore_label: value of padded labels.
        test_size: (height, width) that test images are resized to; None leaves them as they are.

    Returns:
        A list for Detectron2's DatasetMapper; empty for testing at the images' own size.

    Raises:
        ValueError: for scales or sizes that are not positive.
    """
    if not train:
        if test_size is None:
            return []
        if min(test_size) < 1:
            raise ValueError(f"test_size must be a positive (height, width), got {test_size}")
        return [T.Resize(test_size)]
    augmentations: list[T.Augmentation] = [
        RandomScale(*scale_range),
        RandomCropWithPadding(crop_size, pad_value=pixel_mean, ignore_label=ignore_label),
    ]
    if flip:
        augmentations.append(T.RandomFlip(prob=0.5, horizontal=True))
    return augmentations
