"""A canvas that paints a picture and its Cityscapes polygons together, so that the two agree.

The picture is flat colour first; texture, haze, lighting and sensor noise are added once at the end
from a map of attributes (material, haze) that is painted beside the colours. A scene of 150 objects
then costs some 15 ms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Point = tuple[float, float]
Pixel = tuple[int, int]
Colour = tuple[int, int, int]

SMALLEST_AREA = 3.0
"""Polygons of fewer square pixels are not drawn: nobody would annotate them."""


@dataclass(frozen=True)
class Material:
    """How much of each noise a surface shows, as a fraction of its brightness.

    Attributes:
        fine: white noise, one value a pixel.
        blob: smooth noise, blobs of about 1/16 of the height.
        vertical: streaks that run up and down.
        horizontal: streaks that run across.
    """

    fine: float = 0.05
    blob: float = 0.04
    vertical: float = 0.0
    horizontal: float = 0.0


MATERIALS = {
    "default": Material(),
    "road": Material(0.06, 0.05, 0.0, 0.02),
    "sidewalk": Material(0.07, 0.04, 0.0, 0.09),
    "building": Material(0.05, 0.07, 0.04, 0.04),
    "wall": Material(0.08, 0.08, 0.0, 0.16),
    "fence": Material(0.10, 0.04, 0.34, 0.0),
    "vegetation": Material(0.22, 0.26, 0.0, 0.0),
    "terrain": Material(0.16, 0.12, 0.20, 0.0),
    "sky": Material(0.01, 0.06, 0.0, 0.03),
    "person": Material(0.09, 0.10, 0.0, 0.0),
    "rider": Material(0.09, 0.10, 0.0, 0.0),
}
_MATERIAL_NAMES = tuple(MATERIALS)


@dataclass(frozen=True)
class SceneObject:
    """One annotated polygon.

    Attributes:
        label: Cityscapes class name, or one ending in ``group`` for a crowd without instances.
        polygon: integer (column, row) corners, all inside the image.
        is_instance: whether the object is counted on its own (a car), or part of stuff (a road).
    """

    label: str
    polygon: tuple[Pixel, ...]
    is_instance: bool


@dataclass(frozen=True)
class Light:
    """How a finished picture is lit.

    Attributes:
        gain: (3,) factor of red, green and blue.
        haze: colour that far things fade to.
        gamma: exponent on the brightness; above 1 is darker.
        noise: standard deviation of the sensor noise, in grey levels.
    """

    gain: tuple[float, float, float]
    haze: Colour
    gamma: float
    noise: float


def clip_polygon(points: Sequence[Point], *, width: int, height: int) -> list[Pixel]:
    """Cut a polygon to the image and round it to pixels (Sutherland-Hodgman).

    Args:
        points: (column, row) corners, which may lie outside.
        width: image width in pixels; columns end at ``width - 1``.
        height: image height in pixels; rows end at ``height - 1``.

    Returns:
        Corners without consecutive repetitions; empty if fewer than three are left.
    """
    corners = list(points)
    for axis, limit in ((0, width - 1.0), (1, height - 1.0)):
        if any(point[axis] < 0 for point in corners):
            corners = _cut(corners, axis=axis, limit=0.0, sign=1.0)
        if any(point[axis] > limit for point in corners):
            corners = _cut(corners, axis=axis, limit=limit, sign=-1.0)
    pixels: list[Pixel] = []
    for column, row in corners:
        pixel = (round(column), round(row))
        if not pixels or pixel != pixels[-1]:
            pixels.append(pixel)
    if len(pixels) > 1 and pixels[0] == pixels[-1]:
        pixels.pop()
    return pixels if len(pixels) >= 3 else []


def _cut(points: Sequence[Point], *, axis: int, limit: float, sign: float) -> list[Point]:
    """Keep the part of a polygon where ``sign * (coordinate - limit) >= 0``."""
    kept: list[Point] = []
    for start, end in zip([*points[-1:], *points[:-1]], points, strict=True):
        before, after = sign * (start[axis] - limit), sign * (end[axis] - limit)
        if (before < 0) != (after < 0):
            part = before / (before - after)
            kept.append(
                (start[0] + part * (end[0] - start[0]), start[1] + part * (end[1] - start[1]))
            )
        if after >= 0:
            kept.append(end)
    return kept


def polygon_area(points: Sequence[Point]) -> float:
    """Area of a simple polygon, in square pixels (shoelace formula)."""
    following = [*points[1:], *points[:1]]
    return abs(sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(points, following, strict=True))) / 2


class Canvas:
    """Collects coloured polygons from far to near and turns them into a picture.

    Args:
        size: (height, width) in pixels.
        background: colour where nothing is drawn.
    """

    def __init__(self, size: tuple[int, int], background: Colour) -> None:
        self.height, self.width = size
        self._colours = Image.new("RGB", (self.width, self.height), background)
        self._attributes = Image.new("RGB", (self.width, self.height), 0)
        self._colour_pen = ImageDraw.Draw(self._colours)
        self._attribute_pen = ImageDraw.Draw(self._attributes)
        self._objects: list[SceneObject] = []

    def add(
        self,
        label: str,
        points: Sequence[Point],
        colour: Colour,
        *,
        haze: float = 0.0,
        on_ground: bool = False,
        is_instance: bool = False,
    ) -> bool:
        """Draw one labelled object over everything drawn so far.

        Args:
            label: Cityscapes class name.
            points: (column, row) corners; what lies outside the image is cut off.
            colour: its base colour.
            haze: share of the haze colour, in [0, 1].
            on_ground: take the haze from the row instead (the object spans all distances).
            is_instance: see `SceneObject`.

        Returns:
            Whether anything was drawn.
        """
        pixels = clip_polygon(points, width=self.width, height=self.height)
        if not pixels or polygon_area(pixels) < SMALLEST_AREA:
            return False
        material = _MATERIAL_NAMES.index(label if label in MATERIALS else "default")
        self._colour_pen.polygon(pixels, fill=colour)
        self._attribute_pen.polygon(pixels, fill=(material, int(255 * haze), int(on_ground)))
        self._objects.append(SceneObject(label, tuple(pixels), is_instance))
        return True

    def detail(self, points: Sequence[Point], colour: Colour) -> None:
        """Paint a part (a window, a shadow) that has no label of its own; (column, row) corners."""
        if len(points) >= 3:
            self._colour_pen.polygon(points, fill=colour)

    def disc(self, centre: Point, radii: Point, colour: Colour) -> None:
        """Paint an axis-aligned ellipse without a label; centre and radii in pixels."""
        (column, row), (wide, high) = centre, radii
        box = (column - wide, row - high, column + wide, row + high)
        self._colour_pen.ellipse(box, fill=colour)

    def visible_objects(self) -> list[SceneObject]:
        """The objects in drawing order, without those that later ones cover completely."""
        index = Image.new("I", (self.width, self.height), 0)
        pen = ImageDraw.Draw(index)
        for number, item in enumerate(self._objects, start=1):
            pen.polygon(item.polygon, fill=number)
        counts = np.bincount(np.asarray(index).ravel(), minlength=len(self._objects) + 1)
        return [item for item, count in zip(self._objects, counts[1:], strict=True) if count > 0]

    def render(
        self, generator: np.random.Generator, *, light: Light, row_haze: np.ndarray
    ) -> np.ndarray:
        """Add texture, haze, lighting and noise.

        Args:
            generator: source of the noise.
            light: how the picture is lit.
            row_haze: (H,) share of haze of the ground at each row.

        Returns:
            (H, W, 3) uint8 RGB.
        """
        attributes = np.asarray(self._attributes)
        material = attributes[..., 0]
        image = np.asarray(self._colours, dtype=np.float32)
        image *= (1 + self._texture(generator, material))[..., None]
        ground = attributes[..., 2] > 0
        haze = np.where(ground, row_haze[:, None], attributes[..., 1] / 255.0).astype(np.float32)
        image += haze[..., None] * (np.asarray(light.haze, dtype=np.float32) - image)
        image *= np.asarray(light.gain, dtype=np.float32)
        curve = 255 * (np.arange(256) / 255.0) ** light.gamma
        bright = curve.astype(np.uint8)[np.clip(image, 0, 255).astype(np.uint8)]
        soft = Image.fromarray(bright).filter(ImageFilter.GaussianBlur(self.height / 512))
        noise = generator.standard_normal(bright.shape, dtype=np.float32) * light.noise
        return np.clip(np.asarray(soft) + noise, 0, 255).astype(np.uint8)

    def _texture(self, generator: np.random.Generator, material: np.ndarray) -> np.ndarray:
        """(H, W) relative brightness, zero on average, for an (H, W) map of materials."""
        height, width = self.height, self.width
        coarse_height, coarse_width = max(2, height // 16), max(2, width // 16)
        total = np.zeros((height, width), dtype=np.float32)
        for name, grid in (
            ("fine", (height, width)),
            ("blob", (coarse_height * 2, coarse_height * 2 * width // height + 1)),
            ("vertical", (coarse_height, max(2, width // 2))),
            ("horizontal", (max(2, height // 2), coarse_width)),
        ):
            field = generator.standard_normal(grid, dtype=np.float32)
            if grid != (height, width):
                stretched = Image.fromarray(field).resize((width, height), Image.Resampling.BICUBIC)
                field = np.asarray(stretched)
            amounts = [getattr(MATERIALS[key], name) for key in _MATERIAL_NAMES]
            total += np.asarray(amounts, dtype=np.float32)[material] * field
        return total
