"""Coloured outlines and the points known on them: what the generated COCO objects are made of.

A shape is drawn in units of its own with u to the right and v downwards, then moved, turned and
scaled as a whole. Its parts are painted in order; together they are its silhouette.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .canvas import Colour


@dataclass(frozen=True)
class Part:
    """One outline in one colour.

    Attributes:
        outline: (P, 2) corners (u, v) of a polygon, P at least 3.
        colour: RGB.
    """

    outline: np.ndarray
    colour: Colour


@dataclass(frozen=True)
class Shape:
    """An object as coloured parts.

    Attributes:
        parts: in drawing order, later ones on top.
        keypoints: (K, 2) known points (u, v), in a fixed order; (0, 2) for what has none.
    """

    parts: tuple[Part, ...]
    keypoints: np.ndarray

    @property
    def corners(self) -> np.ndarray:
        """(2, 2): smallest (u, v) and largest (u, v) of all outlines."""
        points = np.concatenate([part.outline for part in self.parts])
        return np.stack([points.min(axis=0), points.max(axis=0)])

    @property
    def extent(self) -> np.ndarray:
        """(2,) width and height."""
        low, high = self.corners
        return high - low

    def transformed(self, matrix: np.ndarray, shift: np.ndarray) -> Shape:
        """The shape with every point p at ``matrix @ p + shift``.

        Args:
            matrix: (2, 2).
            shift: (2,).

        Returns:
            A new shape.
        """
        parts = tuple(Part(part.outline @ matrix.T + shift, part.colour) for part in self.parts)
        return Shape(parts, self.keypoints @ matrix.T + shift)

    def normalised(self) -> Shape:
        """Centred on the origin and scaled so that width times height is 1."""
        low, high = self.corners
        scale = 1 / np.sqrt(np.prod(high - low))
        return self.transformed(scale * np.eye(2), -scale * (low + high) / 2)

    def placed(self, centre: Sequence[float], size: float) -> Shape:
        """Scaled by ``size`` and moved so that the origin lies at ``centre``."""
        return self.transformed(size * np.eye(2), np.asarray(centre, dtype=float))

    def turned(self, degrees: float) -> Shape:
        """Turned clockwise (as seen in the picture) about the origin."""
        angle = np.deg2rad(degrees)
        cosine, sine = np.cos(angle), np.sin(angle)
        return self.transformed(np.array([[cosine, -sine], [sine, cosine]]), np.zeros(2))

    def mirrored(self) -> Shape:
        """Left and right swapped. Not for shapes whose keypoints know left from right."""
        assert not len(self.keypoints), "keypoints would keep the names of the other side"
        return self.transformed(np.diag([-1.0, 1.0]), np.zeros(2))


def plain(parts: Sequence[Part]) -> Shape:
    """A shape without keypoints."""
    return Shape(tuple(parts), np.zeros((0, 2)))


def merged(shapes: Sequence[Shape]) -> Shape:
    """Several shapes as one, in drawing order; their keypoints are dropped."""
    return plain([part for shape in shapes for part in shape.parts])


def polygon(points: Sequence[tuple[float, float]], colour: Colour) -> Part:
    """A part from its corners (u, v)."""
    return Part(np.array(points, dtype=float), colour)


def box(left: float, top: float, right: float, bottom: float, colour: Colour) -> Part:
    """A rectangle."""
    return polygon([(left, top), (right, top), (right, bottom), (left, bottom)], colour)


def arc(
    centre: tuple[float, float], radius: float, start: float, end: float, count: int = 16
) -> np.ndarray:
    """Points on a circle.

    Args:
        centre: (u, v).
        radius: of the circle.
        start: first angle in degrees, clockwise from the right.
        end: last angle.
        count: number of points.

    Returns:
        (count, 2) points, both ends included.
    """
    angles = np.deg2rad(np.linspace(start, end, count))
    return np.array(centre) + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def disc(centre: tuple[float, float], radius: float, colour: Colour, corners: int = 20) -> Part:
    """A circle, as a regular polygon with so many corners."""
    return Part(arc(centre, radius, 0, 360, corners + 1)[:-1], colour)


def limb(start: np.ndarray, end: np.ndarray, radius: float, colour: Colour) -> Part:
    """A bar with round ends: everything within ``radius`` of the line between two points."""
    along = np.degrees(np.arctan2(*(end - start)[::-1]))
    ends = [
        arc((end[0], end[1]), radius, along - 90, along + 90, 6),
        arc((start[0], start[1]), radius, along + 90, along + 270, 6),
    ]
    return Part(np.concatenate(ends), colour)
