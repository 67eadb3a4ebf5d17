"""What lies behind the objects of a generated COCO picture: surfaces that are COCO's stuff.

Five settings (park, street, beach, snow, room), each with a horizon above which nothing stands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .canvas import Colour, Material
from .coco_painter import Painter
from .coco_shapes import Part, box
from .street import FACADES, GLASS, GRASS, LEAVES, SKIES, pick, shade

SURFACES = {
    "building-other-merged": Material(0.02, 0.03, 0.02, 0.0),
    "floor-wood": Material(0.02, 0.03, 0.0, 0.07),
    "grass-merged": Material(0.05, 0.05, 0.0, 0.0),
    "mountain-merged": Material(0.03, 0.06, 0.0, 0.0),
    "pavement-merged": Material(0.03, 0.02, 0.0, 0.0),
    "road": Material(0.03, 0.03, 0.0, 0.02),
    "sand": Material(0.03, 0.04, 0.0, 0.02),
    "sea": Material(0.01, 0.02, 0.0, 0.07),
    "sky-other-merged": Material(0.005, 0.015, 0.0, 0.012),
    "snow": Material(0.01, 0.02, 0.0, 0.01),
    "tree-merged": Material(0.07, 0.09, 0.0, 0.0),
    "wall-other-merged": Material(0.01, 0.02, 0.04, 0.0),
}
"""COCO's stuff classes that occur, and how much texture each shows."""

NAMES = tuple(SURFACES)


@dataclass(frozen=True)
class Backdrop:
    """The painted background.

    Attributes:
        surfaces: (H, W) uint8: 1 + index into NAMES of the class of each pixel.
        horizon: row in pixels at which the ground begins.
    """

    surfaces: np.ndarray
    horizon: float


class _Scenery:
    """Paints surfaces and remembers which lies where."""

    def __init__(self, painter: Painter, horizon: float) -> None:
        self.painter = painter
        self.height, self.width = painter.size
        self.horizon = horizon
        self.surfaces = np.zeros(painter.size, dtype=np.uint8)

    def add(self, name: str, outline: np.ndarray, colour: Colour) -> None:
        """Paint one surface over those before it; (P, 2) corners in pixels."""
        part = Part(outline, colour)
        self.painter.paint([part])
        self.surfaces[self.painter.covered([part])] = 1 + NAMES.index(name)

    def rows(self, name: str, top: float, bottom: float, colour: Colour) -> None:
        """A surface from one row to another over the whole width."""
        self.add(name, box(-1, top, self.width + 1, bottom, colour).outline, colour)

    def hill(self, name: str, tops: np.ndarray, bottom: float, colour: Colour) -> None:
        """A surface from a ragged upper edge, whose rows are given left to right, to a row."""
        columns = np.linspace(-1, self.width + 1, len(tops))
        edge = np.stack([columns, tops], axis=1)
        ends = np.array([[self.width + 1, bottom], [-1, bottom]])
        self.add(name, np.concatenate([edge, ends]), colour)


def draw_backdrop(painter: Painter, generator: np.random.Generator) -> Backdrop:
    """Paint one of the settings.

    Args:
        painter: an empty picture.
        generator: all randomness.

    Returns:
        Which surface lies where; every pixel has one.
    """
    horizon = painter.size[0] * generator.uniform(0.36, 0.52)
    scenery = _Scenery(painter, horizon)
    settings: tuple[Callable[[_Scenery, np.random.Generator], None], ...]
    settings = (_park, _street, _beach, _snow, _room)
    settings[int(generator.integers(len(settings)))](scenery, generator)
    assert scenery.surfaces.all(), "the background must have no hole"
    return Backdrop(scenery.surfaces, horizon)


def _sky(scenery: _Scenery, generator: np.random.Generator) -> None:
    """Sky down to a little below the horizon."""
    scenery.rows("sky-other-merged", -1, scenery.horizon + 2, pick(generator, SKIES, 10))


def _park(scenery: _Scenery, generator: np.random.Generator) -> None:
    """Grass, mostly with a row of trees at its far end."""
    _sky(scenery, generator)
    if generator.random() < 0.75:
        height = scenery.height * generator.uniform(0.06, 0.22)
        tops = scenery.horizon - height * generator.uniform(0.55, 1.2, size=16)
        scenery.hill("tree-merged", tops, scenery.horizon + 2, pick(generator, LEAVES[:3], 10))
    scenery.rows(
        "grass-merged", scenery.horizon, scenery.height + 1, pick(generator, GRASS[:2], 14)
    )


def _street(scenery: _Scenery, generator: np.random.Generator) -> None:
    """Houses, a pavement in front of them, and a road across."""
    _sky(scenery, generator)
    left = -generator.uniform(0, 0.1) * scenery.width
    while left < scenery.width:
        right = left + scenery.width * generator.uniform(0.18, 0.4)
        top = scenery.horizon * generator.uniform(0.15, 0.7)
        _house(scenery, (left, top, right), generator)
        left = right
    kerb = scenery.horizon + (scenery.height - scenery.horizon) * generator.uniform(0.18, 0.4)
    grey = int(generator.integers(146, 176))
    scenery.rows("pavement-merged", scenery.horizon, kerb + 1, (grey + 4, grey, grey - 6))
    tone = int(generator.integers(84, 112))
    scenery.rows("road", kerb, scenery.height + 1, (tone, tone, tone + 3))
    scenery.painter.paint([box(-1, kerb, scenery.width + 1, kerb + 1.2, (204, 204, 200))])


def _house(
    scenery: _Scenery, edges: tuple[float, float, float], generator: np.random.Generator
) -> None:
    """One front with rows of dim windows; edges are its left, top and right in pixels."""
    left, top, right = edges
    colour = pick(generator, FACADES, 12)
    outline = box(left, top, right, scenery.horizon + 2, colour).outline
    scenery.add("building-other-merged", outline, colour)
    tint = pick(generator, GLASS[:2], 6)
    glass = tuple((2 * c + t) // 3 for c, t in zip(colour, tint, strict=True))
    step = scenery.height / 11
    for v in np.arange(top + 0.4 * step, scenery.horizon - 0.9 * step, step):
        for u in np.arange(left + 0.4 * step, right - 0.7 * step, step):
            pane = box(u, v, u + 0.5 * step, v + 0.6 * step, (glass[0], glass[1], glass[2]))
            scenery.painter.paint([pane])


def _beach(scenery: _Scenery, generator: np.random.Generator) -> None:
    """Sea up to the horizon and a shore of sand that slopes a little."""
    _sky(scenery, generator)
    water = pick(generator, ((46, 120, 158), (60, 140, 150), (38, 94, 140)), 12)
    scenery.rows("sea", scenery.horizon, scenery.height + 1, water)
    ground = scenery.height - scenery.horizon
    tops = scenery.horizon + ground * (
        generator.uniform(0.2, 0.45) + np.linspace(0, generator.uniform(-0.12, 0.12), 7)
    )
    tops += generator.uniform(-0.015, 0.015, size=7) * scenery.height
    sand = pick(generator, ((218, 196, 150), (206, 182, 140)), 12)
    scenery.hill("sand", tops, scenery.height + 1, sand)


def _snow(scenery: _Scenery, generator: np.random.Generator) -> None:
    """Mountains behind a field of snow."""
    _sky(scenery, generator)
    height = scenery.horizon * generator.uniform(0.3, 0.7)
    tops = scenery.horizon - height * generator.uniform(0.2, 1.0, size=7)
    rock = pick(generator, ((112, 116, 132), (128, 120, 116), (96, 110, 120)), 12)
    scenery.hill("mountain-merged", tops, scenery.horizon + 2, rock)
    scenery.rows(
        "snow", scenery.horizon, scenery.height + 1, pick(generator, ((212, 220, 230),), 8)
    )


def _room(scenery: _Scenery, generator: np.random.Generator) -> None:
    """A wall with a skirting board above a wooden floor."""
    paint = pick(
        generator, ((196, 188, 172), (170, 186, 180), (186, 168, 176), (150, 164, 186)), 14
    )
    scenery.rows("wall-other-merged", -1, scenery.horizon + 2, paint)
    wood = pick(generator, ((158, 112, 72), (132, 92, 60), (182, 142, 98)), 10)
    scenery.rows("floor-wood", scenery.horizon, scenery.height + 1, wood)
    skirting = box(
        -1, scenery.horizon - 1.5, scenery.width + 1, scenery.horizon, shade(paint, 1.15)
    )
    scenery.painter.paint([skirting])
