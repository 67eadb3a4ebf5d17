"""The eight COCO categories that generated pictures hold, each drawn so that it can be learned.

Each builder takes a generator and returns one `Shape` in units of its own. Where a thing may stand
is its habitat:

    ground   stands on the ground
    post     hangs on a pole that stands on the ground; the pole has no label, as often in COCO
    sky      flies
    any      anywhere
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .actors import DARK, PAINTS, PANE
from .canvas import Colour
from .coco_person import person
from .coco_shapes import Part, Shape, arc, box, disc, merged, plain, polygon
from .street import pick, shade

WHITE: Colour = (238, 238, 234)

Build = Callable[[np.random.Generator], Shape]


@dataclass(frozen=True)
class Kind:
    """A category that is drawn.

    Attributes:
        name: COCO's name of it.
        build: draws one.
        habitat: "ground", "post", "sky" or "any", see above.
        weight: how often it occurs, relative to the others.
    """

    name: str
    build: Build
    habitat: str
    weight: float = 1.0


def car(generator: np.random.Generator) -> Shape:
    """A car from the side."""
    paint = pick(generator, PAINTS)
    body = [
        (0.0, 0.72), (0.0, 0.42), (0.08, 0.36), (0.26, 0.32), (0.4, 0.04), (0.46, 0.0),
        (0.72, 0.0), (0.8, 0.05), (0.95, 0.32), (1.1, 0.36), (1.14, 0.42), (1.14, 0.72),
    ]  # fmt: skip
    parts = [
        polygon(body, paint),
        polygon([(0.34, 0.32), (0.45, 0.08), (0.57, 0.08), (0.57, 0.32)], PANE),
        polygon([(0.62, 0.32), (0.62, 0.08), (0.74, 0.08), (0.86, 0.32)], PANE),
        box(0.0, 0.6, 1.14, 0.72, shade(paint, 0.6)),
        box(0.0, 0.42, 0.06, 0.54, (250, 240, 190)),
        box(1.08, 0.42, 1.14, 0.54, (214, 40, 36)),
    ]
    for u in (0.27, 0.88):
        parts += [disc((u, 0.7), 0.15, DARK), disc((u, 0.7), 0.07, (168, 168, 172), 12)]
    return _either_way(plain(parts), generator).turned(generator.uniform(-5, 5))


def traffic_light(generator: np.random.Generator) -> Shape:
    """A dark or yellow box with three lamps, one of them lit."""
    case = pick(generator, ((34, 36, 38), (46, 52, 44), (196, 158, 34)), 10)
    lamps = ((244, 40, 34), (250, 186, 34), (40, 226, 96))
    lit = int(generator.integers(3))
    parts = [box(-0.24, 0.0, 0.24, 1.06, case), box(-0.2, 0.04, 0.2, 1.02, (24, 26, 28))]
    for number, lamp in enumerate(lamps):
        centre = (0.0, 0.2 + 0.33 * number)
        if number == lit:
            parts.append(disc(centre, 0.165, shade(lamp, 0.7)))
        parts.append(disc(centre, 0.135, shade(lamp, 1.0 if number == lit else 0.3), 14))
    return plain(parts).turned(generator.uniform(-6, 6))


def stop_sign(generator: np.random.Generator) -> Shape:
    """A red octagon with a white rim and a white bar where the word would stand."""
    red = pick(generator, ((196, 26, 34),), 20)
    octagon = arc((0.0, 0.0), 1.0, 22.5, 382.5, 9)[:-1]
    parts = [Part(octagon, WHITE), Part(0.88 * octagon, red)]
    parts.append(box(-0.62, -0.2, 0.62, 0.2, WHITE))
    parts += [box(u - 0.035, -0.2, u + 0.035, 0.2, red) for u in (-0.31, 0.0, 0.31)]
    return plain(parts).turned(generator.uniform(-12, 12))


def umbrella(generator: np.random.Generator) -> Shape:
    """A canopy of stripes in two colours, and a shaft with a hook."""
    first = pick(generator, ((206, 40, 52), (36, 92, 196), (232, 142, 36), (126, 52, 160)), 18)
    second = WHITE if generator.random() < 0.6 else shade(first, 0.5)
    shaft = (92, 66, 44)
    parts = [box(-0.045, -0.2, 0.045, 0.78, shaft), box(-0.045, 0.7, 0.2, 0.78, shaft)]
    spokes = np.linspace(-1.0, 1.0, 7)
    dome = arc((0.0, 0.0), 1.0, 270, 360, 9)  # from the top to the rim, as seen at u = 1
    for number, (left, right) in enumerate(zip(spokes, spokes[1:])):
        scallop = np.array([((left + right) / 2, -0.08)])
        stripe = np.concatenate([dome * (right, 1), scallop, dome[::-1] * (left, 1)])
        parts.append(Part(stripe, first if number % 2 == 0 else second))
    return plain(parts).turned(generator.uniform(-24, 24))


def sports_ball(generator: np.random.Generator) -> Shape:
    """An orange ball with dark seams, or a white one with dark patches."""
    parts: list[Part]
    if generator.random() < 0.5:
        orange, seam = pick(generator, ((226, 112, 34),), 18), (70, 38, 22)
        parts = [disc((0.0, 0.0), 1.0, seam, 28), disc((0.0, 0.0), 0.93, orange, 28)]
        parts += [box(-0.95, -0.05, 0.95, 0.05, seam), box(-0.05, -0.95, 0.05, 0.95, seam)]
        parts += [_band(sign, seam) for sign in (-1, 1)]
    else:
        white = pick(generator, ((232, 232, 230),), 10)
        parts = [disc((0.0, 0.0), 1.0, (120, 120, 124), 28), disc((0.0, 0.0), 0.94, white, 28)]
        parts.append(disc((0.0, 0.0), 0.32, DARK, 5))
        parts += [Part(_patch(angle), DARK) for angle in range(36, 396, 72)]
    return plain(parts).turned(generator.uniform(0, 360))


def _band(sign: float, colour: Colour) -> Part:
    """A curved seam on one side of a ball."""
    inner, outer = (arc((sign * 1.25, 0.0), r, 135, 225, 9) for r in (0.78, 0.88))
    if sign < 0:
        inner, outer = (arc((sign * 1.25, 0.0), r, -45, 45, 9) for r in (0.78, 0.88))
    return Part(np.concatenate([inner, outer[::-1]]), colour)


def _patch(angle: float) -> np.ndarray:
    """A dark patch at the rim of a ball."""
    return np.concatenate([arc((0, 0), 0.95, angle - 17, angle + 17, 5),
                           arc((0, 0), 0.68, angle, angle, 1)])  # fmt: skip


def kite(generator: np.random.Generator) -> Shape:
    """A diamond of two colours in four fields, with two bows below."""
    colours = ((226, 44, 120), (40, 176, 90), (246, 206, 40), (60, 84, 210), (240, 110, 30))
    first, second = (pick(generator, [colours[i]], 14) for i in generator.permutation(5)[:2])
    top, right, bottom, left = (0.0, -0.6), (0.52, 0.0), (0.0, 0.85), (-0.52, 0.0)
    middle = (0.0, 0.0)
    parts = [
        polygon([top, right, middle], first), polygon([right, bottom, middle], second),
        polygon([bottom, left, middle], first), polygon([left, top, middle], second),
    ]  # fmt: skip
    parts.append(box(-0.03, 0.8, 0.03, 1.2, DARK))
    for v, tone in ((0.98, first), (1.16, second)):
        parts.append(
            polygon(
                [(-0.16, v - 0.07), (0.16, v + 0.07), (0.16, v - 0.07), (-0.16, v + 0.07)], tone
            )
        )
    return plain(parts).turned(generator.uniform(-40, 40))


def banana(generator: np.random.Generator) -> Shape:
    """A yellow crescent with brown ends."""
    yellow = pick(generator, ((240, 208, 44),), 14)
    brown = (92, 62, 30)
    outer = arc((0.0, 0.0), 1.0, 20, 160, 24)
    inner = arc((0.0, -0.42), 0.98, 150, 30, 24)
    parts = [Part(np.concatenate([outer, inner]), yellow)]
    ridge = np.concatenate([arc((0, -0.16), 0.96, 40, 140), arc((0, -0.24), 0.96, 140, 40)])
    parts.append(Part(ridge, shade(yellow, 0.78)))
    parts += [disc((u, 0.22), 0.13, brown, 10) for u in (-0.9, 0.9)]
    return plain(parts).turned(generator.uniform(0, 360))


def _either_way(shape: Shape, generator: np.random.Generator) -> Shape:
    """The shape, or its mirror image."""
    return shape.mirrored() if generator.random() < 0.5 else shape


KINDS = (
    Kind("person", person, "ground", weight=1.6),
    Kind("car", car, "ground"),
    Kind("traffic light", traffic_light, "post"),
    Kind("stop sign", stop_sign, "post"),
    Kind("umbrella", umbrella, "ground"),
    Kind("sports ball", sports_ball, "any"),
    Kind("kite", kite, "sky"),
    Kind("banana", banana, "ground"),
)
"""What is drawn, in the order of COCO's ids; the other 72 categories never occur."""

CROWDS = ("person", "sports ball", "banana")
"""Categories of which a cluster is annotated as one crowd."""


def crowd(kind: Kind, generator: np.random.Generator) -> Shape:
    """Two staggered rows of a thing, close together.

    Args:
        kind: what the crowd consists of.
        generator: all randomness.

    Returns:
        One shape without keypoints; a member is about 1 large.
    """
    columns = int(generator.integers(4, 7))
    step = np.array([0.62, 0.5])
    members = []
    for row, column in np.ndindex(2, columns):
        jitter = generator.uniform(-0.1, 0.1, size=2)
        centre = (np.array([column + 0.5 * row, row]) + jitter) * step
        members.append(kind.build(generator).normalised().placed(centre, 1.0))
    return merged(members)
