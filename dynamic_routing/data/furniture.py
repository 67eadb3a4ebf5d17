"""What stands along a generated street: poles, signs, traffic lights and litter."""

from __future__ import annotations

import numpy as np

from .canvas import Colour, Point
from .cutout import Cutout, box, ring
from .street import pick, shade

SIGNS: tuple[Colour, ...] = ((206, 30, 36), (32, 80, 190), (236, 196, 30))
LAMPS: tuple[Colour, ...] = ((250, 60, 50), (250, 190, 60), (80, 240, 130))


def draw_pole(view: Cutout, generator: np.random.Generator) -> None:
    """A bare pole, or one with a sign or a traffic light; the cut-out's width is the pole's."""
    level = int(generator.integers(92, 150))
    view.add("pole", box(-0.5, 0.0, 0.5, 1.0), (level, level, level + 4))
    kind = generator.random()
    if kind < 0.45:
        sign = Cutout(view.canvas, view.camera, view.x, view.z, 0.85, 0.85, base=view.height - 0.75)
        _draw_sign(sign, generator)
    elif kind < 0.75:
        light = Cutout(view.canvas, view.camera, view.x, view.z, 0.45, 1.15, base=view.height - 1.0)
        _draw_light(light, generator)


def _draw_sign(view: Cutout, generator: np.random.Generator) -> None:
    """A round, square or triangular sign in a bright colour with a pale middle."""
    shapes: tuple[list[Point], ...] = (
        ring(0.0, 0.5, 0.5, 0.5),
        box(-0.48, 0.05, 0.48, 0.95),
        [(-0.5, 0.05), (0.0, 0.98), (0.5, 0.05)],
    )
    outline = shapes[int(generator.integers(len(shapes)))]
    if view.add("traffic sign", outline, pick(generator, SIGNS, 12)):
        view.detail([(0.55 * u, 0.45 + 0.5 * (v - 0.5)) for u, v in outline], (236, 236, 230))


def _draw_light(view: Cutout, generator: np.random.Generator) -> None:
    """A dark case with three lamps, one of them lit."""
    if not view.add("traffic light", box(-0.5, 0.0, 0.5, 1.0), (34, 36, 34)):
        return
    lit = int(generator.integers(3))
    for number, colour in enumerate(LAMPS):
        level = 0.82 - 0.32 * number
        view.disc(0.0, level, 0.15, colour if number == lit else shade(colour, 0.3))


def draw_litter(view: Cutout, generator: np.random.Generator) -> None:
    """A thing without a class (a bin, a pushchair): static or dynamic, ignored in training."""
    label = "static" if generator.random() < 0.7 else "dynamic"
    colour = pick(generator, ((90, 80, 60), (60, 90, 70), (120, 110, 120)))
    if view.add(
        label, [(-0.5, 0.0), (-0.42, 0.9), (-0.3, 1.0), (0.3, 1.0), (0.42, 0.9), (0.5, 0.0)], colour
    ):
        view.detail(box(-0.38, 0.55, 0.38, 0.65), shade(colour, 1.4))
