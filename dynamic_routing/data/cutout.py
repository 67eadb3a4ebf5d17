"""An upright rectangle in the world, on which the things of a street are drawn.

Outlines are given in units of the thing's own width (u, -0.5 to 0.5) and height (v, 0 at the ground
to 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .canvas import Canvas, Colour, Point
from .street import Camera


@dataclass(frozen=True)
class Cutout:
    """An upright rectangle in the world in which a thing is drawn.

    Attributes:
        canvas: what to draw on.
        camera: how the world is seen.
        x: middle of the thing, metres from the road's middle.
        z: distance in metres.
        width: metres.
        height: metres.
        base: metres above the ground at which v = 0 lies.
        mirror: whether left and right are swapped.
    """

    canvas: Canvas
    camera: Camera
    x: float
    z: float
    width: float
    height: float
    base: float = 0.0
    mirror: bool = False

    def point(self, u: float, v: float) -> Point:
        """(column, row) of a point of the cut-out."""
        across = -u if self.mirror else u
        return self.camera.project(
            self.x + across * self.width, self.base + v * self.height, self.z
        )

    def add(
        self,
        label: str,
        outline: Sequence[Point],
        colour: Colour,
        *,
        is_instance: bool = False,
    ) -> bool:
        """Draw a labelled outline; returns whether anything of it is in the picture."""
        points = [self.point(u, v) for u, v in outline]
        haze = self.camera.haze(self.z)
        return self.canvas.add(label, points, colour, haze=haze, is_instance=is_instance)

    def detail(self, outline: Sequence[Point], colour: Colour) -> None:
        """Paint a part without a label of its own."""
        self.canvas.detail([self.point(u, v) for u, v in outline], colour)

    def disc(self, u: float, v: float, radius: float, colour: Colour) -> None:
        """Paint a circle; the radius is in metres."""
        pixels = radius * self.camera.focal / self.z
        self.canvas.disc(self.point(u, v), (pixels, pixels), colour)

    def shadow(self) -> None:
        """Darken the ground under the thing."""
        scale = self.camera.focal / self.z
        radii = (0.54 * self.width * scale, max(1.0, 0.09 * self.width * scale))
        self.canvas.disc(self.point(0.0, 0.0), radii, (52, 52, 56))


def box(left: float, bottom: float, right: float, top: float) -> list[Point]:
    """A rectangle's outline in the cut-out's own units."""
    return [(left, bottom), (left, top), (right, top), (right, bottom)]


def ring(u: float, v: float, wide: float, high: float, count: int = 12) -> list[Point]:
    """An ellipse's outline in the cut-out's own units."""
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return [(u + wide * float(np.cos(a)), v + high * float(np.sin(a))) for a in angles]
