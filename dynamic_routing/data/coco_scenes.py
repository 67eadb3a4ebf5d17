"""Generated pictures for COCO: objects in front of a background, and which pixel belongs to what.

Three profiles are three hidden subsets of one data set, with the same categories in other sizes:

    large   one to three near objects that fill much of the picture
    small   many far objects, sometimes a crowd
    mixed   one or two near objects and some far ones
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .canvas import Material
from .coco_backdrop import NAMES, SURFACES, draw_backdrop
from .coco_layout import RECIPES, Layout, Placed, sample_wishes
from .coco_painter import Painter, texture
from .profiles import check_picture

EMPTY = 0.05
"""Share of pictures without any object."""

_OBJECT = Material(fine=0.01, blob=0.02)


@dataclass(frozen=True)
class CocoObject:
    """One annotated object.

    Attributes:
        name: COCO category.
        is_crowd: whether it stands for a cluster of objects.
        keypoints: (17, 2) (column, row) in pixels, also of those hidden or outside; (0, 2) for
            what has none.
        height: rows of its box before anything cut or hid it.
    """

    name: str
    is_crowd: bool
    keypoints: np.ndarray
    height: float


@dataclass(frozen=True)
class CocoScene:
    """A picture and what belongs to each pixel.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        owner: (H, W) int16: 1 + index into objects of what is seen at a pixel, 0 for background.
        surfaces: (H, W) uint8: 1 + index into `coco_backdrop.NAMES` of the background seen at a
            pixel; 0 on objects and on what has no label.
        objects: from front to back; each has visible pixels.
        profile: "large", "small" or "mixed".
    """

    image: np.ndarray
    owner: np.ndarray
    surfaces: np.ndarray
    objects: tuple[CocoObject, ...]
    profile: str


def draw_coco_scene(
    generator: np.random.Generator, *, size: tuple[int, int], profile: str
) -> CocoScene:
    """Draw one picture.

    Args:
        generator: all randomness; the same state gives the same picture.
        size: (height, width) in pixels, each at least 32.
        profile: "large", "small" or "mixed".

    Returns:
        The picture with its objects.

    Raises:
        ValueError: for a side under 32 pixels or an unknown profile.
    """
    check_picture(size, profile)
    painter = Painter(size, background=(0, 0, 0))
    backdrop = draw_backdrop(painter, generator)
    layout = Layout(painter, backdrop.horizon)
    if generator.random() >= EMPTY:
        for wish in sample_wishes(RECIPES[profile], min(size), generator):
            layout.place(wish, generator)
    for item in reversed(layout.placed):  # from back to front
        painter.paint([*item.pole, *item.shape.parts])
    surfaces = np.where(layout.owner == 0, backdrop.surfaces, 0).astype(np.uint8)
    return CocoScene(
        image=_lit(painter.picture(), surfaces, generator),
        owner=layout.owner.clip(min=0),
        surfaces=surfaces,
        objects=tuple(_annotated(item) for item in layout.placed),
        profile=profile,
    )


def _annotated(item: Placed) -> CocoObject:
    """What is known about an object besides its pixels."""
    wish, shape = item.wish, item.shape
    return CocoObject(wish.kind.name, wish.is_crowd, shape.keypoints, float(shape.extent[1]))


def _lit(picture: np.ndarray, surfaces: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Add texture, colour of the light and sensor noise: (H, W, 3) uint8."""
    materials = [_OBJECT, *(SURFACES[name] for name in NAMES)]
    gain = generator.uniform(0.82, 1.1) * generator.uniform(0.95, 1.05, size=3)
    bright = picture * (1 + texture(generator, surfaces, materials))[..., None]
    noise = generator.standard_normal(picture.shape, dtype=np.float32)
    noise *= np.float32(generator.uniform(1.0, 3.5))
    lit = bright * gain.astype(np.float32) + noise
    return np.clip(np.round(lit), 0, 255).astype(np.uint8)
