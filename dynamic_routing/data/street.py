"""The still part of a generated street: camera, sky, ground, facades, fences and trees.

World coordinates in metres: x to the right of the road's middle, y above the ground, z away from
the camera.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .canvas import Canvas, Colour, Point

SKIES: tuple[Colour, ...] = (
    (118, 170, 226),
    (164, 196, 226),
    (206, 208, 212),
    (232, 214, 190),
    (96, 140, 200),
)
FACADES: tuple[Colour, ...] = (
    (158, 96, 76),
    (196, 178, 146),
    (172, 168, 164),
    (214, 206, 190),
    (140, 124, 116),
    (186, 140, 96),
)
LEAVES: tuple[Colour, ...] = (
    (58, 96, 40),
    (78, 116, 52),
    (44, 82, 50),
    (104, 118, 48),
    (122, 96, 44),
)
GRASS: tuple[Colour, ...] = ((124, 152, 70), (146, 156, 84), (154, 142, 92))
GLASS: tuple[Colour, ...] = ((56, 66, 82), (84, 98, 116), (40, 44, 54), (150, 164, 178))


@dataclass(frozen=True)
class Camera:
    """A pinhole camera that looks along the road.

    Attributes:
        height: image height in pixels.
        width: image width in pixels.
        horizon: row of the horizon.
        centre: column of the road's vanishing point.
        elevation: metres above the ground.
        focal: focal length in pixels.
        fog: distance in metres at which 63 % of a thing is haze.
    """

    height: int
    width: int
    horizon: float
    centre: float
    elevation: float
    focal: float
    fog: float

    @property
    def nearest(self) -> float:
        """Distance in metres of the ground seen in the last row."""
        return self.elevation * self.focal / (self.height - self.horizon)

    def project(self, x: float, y: float, z: float) -> Point:
        """(column, row) of a point in the world; z must be positive."""
        scale = self.focal / z
        return self.centre + x * scale, self.horizon + (self.elevation - y) * scale

    def haze(self, z: float) -> float:
        """Share of haze, in [0, 1), of what is z metres away."""
        return 1 - math.exp(-z / self.fog)

    def row_haze(self) -> np.ndarray:
        """(H,) share of haze of the ground in each row; at the horizon's value above it."""
        below = np.maximum(np.arange(self.height) - self.horizon, 1.0)
        return 1 - np.exp(-self.elevation * self.focal / below / self.fog)


@dataclass(frozen=True)
class Street:
    """Where the parts of a street lie, in metres from the road's middle.

    Attributes:
        road: half the width of the road.
        pavement: outer edge of the sidewalks.
        front: distance of the facades.
        far: distance along z at which the street ends.
    """

    road: float
    pavement: float
    front: float
    far: float


def pick(generator: np.random.Generator, palette: Sequence[Colour], spread: int = 22) -> Colour:
    """One colour of a palette, all of it moved by up to `spread`, each channel by half of that."""
    base = palette[int(generator.integers(len(palette)))]
    shift = generator.integers(-spread, spread + 1)
    own = generator.integers(-(spread // 2), spread // 2 + 1, size=3)
    red, green, blue = (
        int(min(255, max(0, c + shift + o))) for c, o in zip(base, own, strict=True)
    )
    return red, green, blue


def shade(colour: Colour, factor: float) -> Colour:
    """A colour times a factor, kept within 0..255."""
    red, green, blue = (int(min(255, max(0, c * factor))) for c in colour)
    return red, green, blue


def draw_sky(canvas: Canvas, camera: Camera, generator: np.random.Generator) -> Colour:
    """Fill everything above the horizon; returns the sky's colour, which haze takes up."""
    colour = pick(generator, SKIES)
    bottom = camera.horizon + 2
    corners = [(0.0, 0.0), (camera.width, 0.0), (camera.width, bottom), (0.0, bottom)]
    canvas.add("sky", corners, colour, haze=0.0)
    return colour


def draw_ground(
    canvas: Canvas, camera: Camera, street: Street, generator: np.random.Generator
) -> None:
    """Terrain or paved ground everywhere, sidewalks and the road with its markings on top."""
    base = float(generator.integers(82, 118))
    tint = generator.uniform(-6, 6, size=3)
    red, green, blue = (int(base + t) for t in tint)
    wide = 40 * street.front
    _strip(canvas, camera, "terrain", (-wide, wide), street.far * 6, pick(generator, GRASS))
    _strip_pair(canvas, camera, street, generator)
    _strip(canvas, camera, "road", (-street.road, street.road), street.far, (red, green, blue))
    _draw_markings(canvas, camera, street, generator)


def _strip_pair(
    canvas: Canvas, camera: Camera, street: Street, generator: np.random.Generator
) -> None:
    """The two sidewalks (one of them sometimes missing) with light kerbs."""
    level = float(generator.integers(138, 178))
    colour = (int(level + 6), int(level - 4), int(level - 12))
    missing = int(generator.integers(6))  # 0 and 1: that side has none
    for number, side in enumerate((-1.0, 1.0)):
        if number == missing:
            continue
        edges = sorted((side * (street.road - 0.05), side * street.pavement))
        _strip(canvas, camera, "sidewalk", (edges[0], edges[1]), street.far, colour)
        kerb = [side * (street.road + offset) for offset in (0.0, 0.25)]
        near, far = camera.nearest * 0.8, street.far
        outline = [
            camera.project(x, 0, z) for x, z in zip((*kerb, *kerb[::-1]), (near, near, far, far))
        ]
        canvas.detail(outline, shade(colour, 1.12))


def _strip(
    canvas: Canvas,
    camera: Camera,
    label: str,
    edges: tuple[float, float],
    far: float,
    colour: Colour,
) -> None:
    """A band of ground between two x, from in front of the camera to ``far``."""
    near = camera.nearest * 0.8
    left, right = edges
    corners = [(left, near), (left, far), (right, far), (right, near)]
    points = [camera.project(x, 0.0, z) for x, z in corners]
    canvas.add(label, points, colour, on_ground=True)


def _draw_markings(
    canvas: Canvas, camera: Camera, street: Street, generator: np.random.Generator
) -> None:
    """Dashed middle line, or dashed lane lines on a wide road; they stay labelled road."""
    lanes = (0.0,) if street.road < 6 else (-street.road / 2, 0.0, street.road / 2)
    colour = (205, 205, 200) if generator.random() < 0.8 else (206, 176, 74)
    start = camera.nearest * 0.8 + generator.uniform(0, 3)
    for x in lanes:
        for z in np.arange(start, min(street.far, 70), 7.0):
            corners = ((x - 0.1, z), (x - 0.1, z + 3), (x + 0.1, z + 3), (x + 0.1, z))
            canvas.detail([camera.project(a, 0, float(b)) for a, b in corners], colour)


def draw_facades(
    canvas: Canvas, camera: Camera, street: Street, generator: np.random.Generator
) -> None:
    """A house across the far end, then both rows of houses from far to near, with gaps."""
    width = generator.uniform(0.4, 1.2) * street.front
    height = generator.uniform(5, 14)
    corners = ((-width, 0.0), (-width, height), (width, height), (width, 0.0))
    far = street.far * 1.05
    points = [camera.project(x, y, far) for x, y in corners]
    canvas.add("building", points, pick(generator, FACADES), haze=camera.haze(far))
    for side in (-1.0, 1.0):
        edges = [camera.nearest * 0.7]
        while edges[-1] < street.far:
            edges.append(edges[-1] + generator.uniform(7, 20) * max(1.0, edges[-1] / 30))
        for near, behind in zip(edges[-2::-1], edges[:0:-1]):
            if generator.random() < 0.82:
                _draw_house(canvas, camera, side * street.front, (near, behind), generator)


def _draw_house(
    canvas: Canvas,
    camera: Camera,
    x: float,
    span: tuple[float, float],
    generator: np.random.Generator,
) -> None:
    """One facade along the street from z = span[0] to span[1], with a grid of windows."""
    near, far = span
    floors = int(generator.integers(2, 6))
    storey = generator.uniform(2.9, 3.5)
    height = floors * storey + 0.8
    colour, glass = pick(generator, FACADES), pick(generator, GLASS)
    corners = ((0.0, near), (height, near), (height, far), (0.0, far))
    points = [camera.project(x, y, z) for y, z in corners]
    if not canvas.add("building", points, colour, haze=camera.haze((near + far) / 2)):
        return
    columns = max(2, int((far - near) / generator.uniform(2.4, 3.4)))
    step = (far - near) / columns
    if camera.focal / near * storey < 6:  # windows would be under three pixels
        return
    for floor in range(floors):
        low, high = floor * storey + 0.9, floor * storey + 2.4
        for column in range(columns):
            left, right = near + (column + 0.25) * step, near + (column + 0.78) * step
            window = ((low, left), (high, left), (high, right), (low, right))
            canvas.detail([camera.project(x, y, z) for y, z in window], glass)


def draw_barrier(
    canvas: Canvas, camera: Camera, street: Street, generator: np.random.Generator
) -> None:
    """A fence, a wall or a hedge along the outer edge of one sidewalk."""
    label = ("fence", "wall", "vegetation")[int(generator.integers(3))]
    palette = {
        "fence": ((92, 88, 84), (120, 96, 70), (70, 78, 84)),
        "wall": ((150, 142, 132), (128, 108, 96), (172, 166, 156)),
        "vegetation": LEAVES,
    }[label]
    x = float(generator.choice((-1.0, 1.0))) * (street.pavement + 0.2)
    near = camera.nearest * generator.uniform(0.8, 2.0)
    far = near + generator.uniform(10, 30)
    height = generator.uniform(1.1, 2.1)
    colour = pick(generator, palette)
    tops = [(height * generator.uniform(0.94, 1.06), z) for z in np.geomspace(near, far, 9)]
    if label != "vegetation":
        tops = [(height, near), (height, far)]
    points = [camera.project(x, y, float(z)) for y, z in [(0.0, near), *tops, (0.0, far)]]
    if canvas.add(label, points, colour, haze=camera.haze((near + far) / 2)) and label == "fence":
        _draw_bars(canvas, camera, x, (near, far), height, shade(colour, 1.5))


def _draw_bars(
    canvas: Canvas,
    camera: Camera,
    x: float,
    span: tuple[float, float],
    height: float,
    colour: Colour,
) -> None:
    """Upright bars on a fence at x from z = span[0] to span[1]."""
    for z in np.arange(span[0], span[1], 0.7):
        corners = ((0.0, z), (height, z), (height, z + 0.2), (0.0, z + 0.2))
        canvas.detail([camera.project(x, y, float(b)) for y, b in corners], colour)


def draw_tree(
    canvas: Canvas, camera: Camera, x: float, z: float, generator: np.random.Generator
) -> None:
    """Trunk and ragged crown, both labelled vegetation, at (x, z) in metres."""
    crown = generator.uniform(1.2, 2.8)
    middle = generator.uniform(3.0, 5.0)
    trunk = ((-0.16, 0.0), (-0.12, middle), (0.12, middle), (0.16, 0.0))
    points = [camera.project(x + dx, y, z) for dx, y in trunk]
    canvas.add("vegetation", points, pick(generator, ((82, 66, 50),)), haze=camera.haze(z))
    column, row = camera.project(x, middle, z)
    radius = crown * camera.focal / z
    count = int(generator.integers(12, 20))
    angles = np.linspace(0, 2 * math.pi, count, endpoint=False)
    radii = radius * generator.uniform(0.75, 1.1, size=count)
    outline = [
        (column + r * math.cos(a), row - r * math.sin(a))
        for a, r in zip(angles, radii, strict=True)
    ]
    colour = pick(generator, LEAVES)
    if canvas.add("vegetation", outline, colour, haze=camera.haze(z)) and radius > 6:
        for _ in range(6):
            dx, dy = generator.uniform(-0.45, 0.45, size=2) * radius
            size = radius * generator.uniform(0.1, 0.25)
            tone = shade(colour, generator.uniform(0.65, 1.35))
            canvas.disc((column + dx, row + dy), (size, size), tone)
