"""Where the objects of a generated COCO picture stand, and which of their pixels are seen.

Objects are placed from front to back: one that would be hidden too much behind those before it is
put elsewhere, or left out. So whatever is drawn is visible enough to be annotated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .coco_objects import CROWDS, KINDS, Kind, crowd
from .coco_painter import Painter
from .coco_shapes import Part, Shape, box

LEAST_VISIBLE = 0.6
"""Share of an object's pixels inside the picture that must be seen past those in front of it."""

LEAST_PIXELS = 24
"""An object with fewer visible pixels is not drawn."""

LEAST_SIZE = 8.0
"""Square root of the smallest box area in pixels, in pictures where the profile asks for less."""

CUT = 0.15
"""Share of objects that reach beyond an edge of the picture, by a quarter at most."""

POLE = -1
"""Mark of a pole's pixels, which belong neither to an object nor to a surface with a name."""

_TRIES = 12
_POLE_COLOUR = (128, 130, 134)
_ROOM = 0.94  # largest width and height of an object as a share of the picture's


@dataclass(frozen=True)
class Recipe:
    """What a profile holds. Sizes are square roots of box areas over the picture's shorter side.

    Attributes:
        near: fewest and most near objects.
        near_size: smallest and largest of them.
        far: fewest and most far objects.
        far_size: smallest and largest of them.
        crowd: how often a picture has a crowd besides.
    """

    near: tuple[int, int]
    near_size: tuple[float, float]
    far: tuple[int, int]
    far_size: tuple[float, float]
    crowd: float


RECIPES = {
    "large": Recipe((1, 3), (0.42, 0.85), (0, 0), (0.1, 0.2), 0.0),
    "small": Recipe((0, 0), (0.4, 0.8), (6, 13), (0.085, 0.2), 0.3),
    "mixed": Recipe((1, 2), (0.38, 0.7), (3, 7), (0.09, 0.22), 0.15),
}


@dataclass(frozen=True)
class Wish:
    """An object that is to be placed.

    Attributes:
        kind: what it is.
        size: square root of its box area in pixels; for a crowd that of each member.
        is_crowd: whether it is a cluster of things.
    """

    kind: Kind
    size: float
    is_crowd: bool


@dataclass(frozen=True)
class Placed:
    """An object at its place.

    Attributes:
        wish: what was asked for.
        shape: its parts in pixels.
        pole: what carries it, painted behind it; often nothing.
    """

    wish: Wish
    shape: Shape
    pole: tuple[Part, ...]


@dataclass(frozen=True)
class Spot:
    """A place in the picture, in pixels.

    Attributes:
        column: of the middle of the object's box.
        row: of the middle of the object's box.
        foot: row at which it, or its pole, stands on the ground.
    """

    column: float
    row: float
    foot: float


def sample_wishes(recipe: Recipe, side: int, generator: np.random.Generator) -> list[Wish]:
    """What a picture is to hold, from near to far; large things are mostly near.

    Args:
        recipe: what the profile holds.
        side: the picture's shorter side in pixels.
        generator: all randomness.

    Returns:
        The objects in the order in which they are to be placed.
    """
    sizes = _sizes(recipe.near, recipe.near_size, side, generator)
    sizes += _sizes(recipe.far, recipe.far_size, side, generator)
    sizes.sort(key=lambda size: -size * generator.uniform(0.5, 2.0))
    weights = np.array([kind.weight for kind in KINDS])
    picks = generator.choice(len(KINDS), size=len(sizes), p=weights / weights.sum())
    wishes = [Wish(KINDS[pick], size, False) for pick, size in zip(picks, sizes, strict=True)]
    if generator.random() < recipe.crowd:
        kinds = [kind for kind in KINDS if kind.name in CROWDS]
        kind = kinds[int(generator.integers(len(kinds)))]
        wishes.append(Wish(kind, max(LEAST_SIZE, side * generator.uniform(0.07, 0.1)), True))
    return wishes


def _sizes(
    counts: tuple[int, int], limits: tuple[float, float], side: int, generator: np.random.Generator
) -> list[float]:
    """Sizes in pixels, even on a logarithmic scale."""
    count = int(generator.integers(counts[0], counts[1] + 1))
    low, high = np.log(limits)
    shares = np.exp(generator.uniform(low, high, size=count))
    return [max(LEAST_SIZE, side * float(share)) for share in shares]


class Layout:
    """Places objects one behind the other.

    Args:
        painter: tells what an outline covers; nothing is painted.
        horizon: row in pixels at which the ground begins.

    Attributes:
        owner: (H, W) int16: number of the object seen at each pixel, from 1 in the order of
            `placed`; 0 where the background is seen, POLE on poles.
        placed: the objects from front to back.
    """

    def __init__(self, painter: Painter, horizon: float) -> None:
        self.owner = np.zeros(painter.size, dtype=np.int16)
        self.placed: list[Placed] = []
        self._painter = painter
        self._horizon = horizon

    def place(self, wish: Wish, generator: np.random.Generator) -> bool:
        """Put an object behind all others where enough of it is seen.

        Args:
            wish: the object.
            generator: all randomness.

        Returns:
            Whether a place was found; if not, the object is left out.
        """
        shape = self._sized(wish, generator)
        for _ in range(_TRIES):
            spot = self._spot(wish.kind.habitat, shape.extent, generator)
            moved = shape.placed((spot.column, spot.row), 1.0)
            covered = self._painter.covered(moved.parts)
            visible = covered & (self.owner == 0)
            if visible.sum() >= max(LEAST_PIXELS, LEAST_VISIBLE * covered.sum()):
                pole = _pole(spot, wish.size) if wish.kind.habitat == "post" else ()
                self._keep(Placed(wish, moved, pole), visible)
                return True
        return False

    def _keep(self, item: Placed, visible: np.ndarray) -> None:
        """Mark what is seen of an object and of its pole."""
        self.placed.append(item)
        self.owner[visible] = len(self.placed)
        if item.pole:
            self.owner[self._painter.covered(item.pole) & (self.owner == 0)] = POLE

    def _sized(self, wish: Wish, generator: np.random.Generator) -> Shape:
        """The object centred on the origin, in pixels, no larger than the picture."""
        kind = wish.kind
        shape = crowd(kind, generator) if wish.is_crowd else kind.build(generator).normalised()
        room = _ROOM * np.array(self._painter.size[::-1]) / shape.extent
        scale = min(wish.size, *room)
        low, high = shape.corners
        return shape.placed(-scale * (low + high) / 2, scale)

    def _spot(self, habitat: str, extent: np.ndarray, generator: np.random.Generator) -> Spot:
        """A random place for a box of ``extent`` (width, height), rarely cut by an edge."""
        rows, columns = self._painter.size
        width, height = extent
        column = generator.uniform(width / 2, columns - width / 2)
        nearest = min(0.9, 0.12 + 1.1 * float(np.sqrt(width * height)) / min(rows, columns))
        foot = self._horizon + (rows - self._horizon) * generator.uniform(nearest, 1.0)
        row = {
            "ground": foot - height / 2,
            "post": foot - height * generator.uniform(0.9, 1.5),
            "sky": generator.uniform(0.0, self._horizon),
            "any": generator.uniform(0.0, rows),
        }[habitat]
        row = float(np.clip(row, height / 2, rows - height / 2))
        if generator.random() >= CUT:
            return Spot(column, row, foot)
        width, height = extent * (0.5 - generator.uniform(0.08, 0.25))
        edges = [Spot(width, row, foot), Spot(columns - width, row, foot)]
        if habitat in ("ground", "any"):
            edges.append(Spot(column, rows - height, foot))
        return edges[int(generator.integers(len(edges)))]


def _pole(spot: Spot, size: float) -> tuple[Part, ...]:
    """A thin pole from the middle of an object down to where it stands."""
    half = max(0.6, 0.035 * size)
    foot = max(spot.row, spot.foot)
    return (box(spot.column - half, spot.row, spot.column + half, foot, _POLE_COLOUR),)
