"""Generated scenes whose hidden subsets are scale distributions: large, small and mixed objects.

Csaba et al. 2022 mention a controlled study in one sentence and give no data. Here a scene shows
bright, dark and striped objects on a textured background. Its subset decides how large they are
and how many, and nothing else that is visible. The stripes are bright and dark and widen with the
object, so that a striped object can only be told from the others at its own scale.

With ``plain`` labels the class is the pattern. With ``shifted`` labels the classes change places
from subset to subset: the same object means something else in another company. Only then can no
map from an object's look to its class serve all subsets, which gives routes a reason to differ.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

SIDE = 48
"""Pixels of a scene's side."""

SUBSETS = ("large", "small", "mixed")
PATTERNS = ("bright", "dark", "striped")
CLASSES = 1 + len(PATTERNS)
"""Background is class 0."""

LABELS = ("plain", "shifted")

LARGE_RADIUS = (10.0, 13.0)
SMALL_RADIUS = (3.8, 4.8)
COUNTS: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {
    "large": ((1, 2), (0, 0)),
    "small": ((0, 0), (8, 12)),
    "mixed": ((1, 1), (4, 6)),
}
"""Subset -> least and most (large, small) objects."""

PERIOD = 0.8
"""Period of the stripes as a share of the radius."""
LEAST_PERIOD = 4.0
"""Pixels; shorter stripes do not survive the stem."""
CONTRAST = 0.8
"""Brightness of bright objects and stripes; dark ones have it below the background."""
GAP = 1.0
"""Pixels between two objects."""
TRIES = 40
"""Places that are tried for an object before it is left out."""


@dataclass(frozen=True, eq=False)
class Scenes:
    """N scenes.

    Attributes:
        images: (N, 3, 48, 48) float32, about zero mean.
        targets: (N, 48, 48) int64 classes.
        subsets: (N,) int64, which a method must not see (the oracle may).
        radii: N tuples, the radius of each object in pixels.
    """

    images: Tensor
    targets: Tensor
    subsets: Tensor
    radii: tuple[tuple[float, ...], ...]

    def __len__(self) -> int:
        return len(self.images)


def generate_scenes(count: int, *, seed: int, labels: str = "shifted") -> Scenes:
    """``count`` scenes, the subsets in turn; the same for the same seed.

    Args:
        count: N, at least 1.
        seed: of everything.
        labels: one of :data:`LABELS`; images do not depend on it.

    Raises:
        ValueError: no scene, or unknown labels.
    """
    if count < 1:
        raise ValueError(f"there must be at least 1 scene, got {count}")
    if labels not in LABELS:
        raise ValueError(f"labels must be one of {LABELS}, got {labels!r}")
    generator = np.random.default_rng(seed)
    subsets = np.arange(count) % len(SUBSETS)
    images = np.empty((count, 3, SIDE, SIDE), dtype=np.float32)
    targets = np.zeros((count, SIDE, SIDE), dtype=np.int64)
    radii = []
    for n, subset in enumerate(subsets):
        images[n] = _background(generator)
        placed = _place(SUBSETS[subset], generator)
        for x, y, radius in placed:
            inside = _outline(x, y, radius, generator)
            pattern = int(generator.integers(len(PATTERNS)))
            images[n][:, inside] = _paint(PATTERNS[pattern], radius, generator)[:, inside]
            targets[n][inside] = label_of(pattern, int(subset), labels)
        radii.append(tuple(radius for _, _, radius in placed))
    return Scenes(
        torch.from_numpy(images), torch.from_numpy(targets), torch.from_numpy(subsets), tuple(radii)
    )


def label_of(pattern: int, subset: int, labels: str) -> int:
    """The class of an object with a pattern in a scene of a subset."""
    return 1 + (pattern + (subset if labels == "shifted" else 0)) % len(PATTERNS)


def _background(generator: np.random.Generator) -> np.ndarray:
    """(3, 48, 48): blotches of two sizes, fine noise and a tint; the same law in every subset."""
    tint = generator.uniform(-0.2, 0.2, size=(3, 1, 1))
    coarse, middle = (
        np.kron(generator.normal(0, strength, (SIDE // size, SIDE // size)), np.ones((size, size)))
        for size, strength in ((16, 0.06), (4, 0.05))
    )
    return tint + coarse + middle + generator.normal(0, 0.05, (3, SIDE, SIDE))


def _place(subset: str, generator: np.random.Generator) -> list[tuple[float, float, float]]:
    """Centre and radius of each object, large ones first; none overlap or leave the scene."""
    (large_min, large_max), (small_min, small_max) = COUNTS[subset]
    sizes = [LARGE_RADIUS] * int(generator.integers(large_min, large_max + 1))
    sizes += [SMALL_RADIUS] * int(generator.integers(small_min, small_max + 1))
    placed: list[tuple[float, float, float]] = []
    for least, most in sizes:
        radius = float(generator.uniform(least, most))
        for _ in range(TRIES):
            x, y = generator.uniform(radius, SIDE - radius, size=2)
            if all(np.hypot(x - a, y - b) > radius + r + GAP for a, b, r in placed):
                placed.append((float(x), float(y), radius))
                break
    return placed


def _outline(x: float, y: float, radius: float, generator: np.random.Generator) -> np.ndarray:
    """(48, 48) bool: a disc or a square of about the same area; says nothing about the class."""
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    if generator.random() < 0.5:
        return np.hypot(columns - x, rows - y) <= radius
    half = 0.7 * radius  # stays inside the disc, so that objects never overlap
    return np.maximum(np.abs(columns - x), np.abs(rows - y)) <= half


def _paint(pattern: str, radius: float, generator: np.random.Generator) -> np.ndarray:
    """(3, 48, 48): the pattern at the object's scale, over the whole canvas."""
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    tint = generator.uniform(-0.2, 0.2, size=(3, 1, 1))
    angle, phase = generator.uniform(0, np.pi), generator.uniform(0, 2 * np.pi)
    frequency = 2 * np.pi / max(LEAST_PERIOD, PERIOD * radius)
    wave = np.sin(frequency * (np.cos(angle) * columns + np.sin(angle) * rows) + phase)
    brightness = {"bright": np.ones_like(wave), "dark": -np.ones_like(wave)}
    noise = generator.normal(0, 0.05, (3, SIDE, SIDE))
    return tint + CONTRAST * brightness.get(pattern, np.sign(wave)) + noise
