"""People of the generated COCO data set, drawn around the 17 keypoints that are annotated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .actors import CLOTHES, SKINS
from .canvas import Colour
from .coco_shapes import Part, Shape, disc, limb, polygon
from .street import pick, shade

KEYPOINT_NAMES = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder",
    "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip",
    "left_knee", "right_knee", "left_ankle", "right_ankle",
)  # fmt: skip
"""COCO's keypoints of a person in their official order."""

SKELETON = (
    (16, 14), (14, 12), (17, 15), (15, 13), (12, 13), (6, 12), (7, 13), (6, 7), (6, 8), (7, 9),
    (8, 10), (9, 11), (2, 3), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7),
)  # fmt: skip
"""COCO's bones: pairs of keypoints, counted from 1."""

TROUSERS: tuple[Colour, ...] = ((40, 46, 78), (58, 52, 50), (92, 70, 52))

# In units of the body's height, measured from the top of the head.
_HEAD = np.array([0.0, 0.115])
_HEAD_RADIUS = 0.105
_FACE = {"nose": (0.0, 0.135), "eye": (0.042, 0.105), "ear": (0.094, 0.115)}
_SHOULDER = np.array([0.125, 0.285])
_HIP = np.array([0.075, 0.575])
_UPPER_ARM, _FOREARM = 0.15, 0.15
_THIGH, _SHIN = 0.19, 0.18
_ARM_RADIUS, _LEG_RADIUS = 0.042, 0.05


@dataclass(frozen=True)
class Outfit:
    """The colours of a person."""

    skin: Colour
    hair: Colour
    shirt: Colour
    trousers: Colour


def person(generator: np.random.Generator) -> Shape:
    """Somebody who faces the camera, with arms and legs in a random pose.

    The person's left is on the picture's right. Every keypoint lies inside the silhouette.

    Args:
        generator: all randomness.

    Returns:
        The shape with keypoints in the order of KEYPOINT_NAMES, about 1 high.
    """
    skin = pick(generator, SKINS, 12)
    outfit = Outfit(
        skin=skin,
        hair=shade(skin, 0.32),
        shirt=pick(generator, CLOTHES, 26),
        trousers=pick(generator, TROUSERS, 12),
    )
    points = {"nose": np.array(_FACE["nose"])}
    for side, sign in (("left", 1.0), ("right", -1.0)):
        points.update(_face_points(side, sign))
        points.update(_arm_points(side, sign, generator))
        points.update(_leg_points(side, sign, generator))
    order = np.stack([points[name] for name in KEYPOINT_NAMES])
    shape = Shape(tuple(_parts(points, outfit)), order)
    return shape.turned(generator.uniform(-7, 7))


def _direction(sign: float, degrees: float) -> np.ndarray:
    """A unit vector that hangs down at 0 degrees and points outwards at 90."""
    angle = np.deg2rad(degrees)
    return np.array([sign * np.sin(angle), np.cos(angle)])


def _face_points(side: str, sign: float) -> dict[str, np.ndarray]:
    """Eye and ear of one side."""
    return {f"{side}_{name}": np.array(_FACE[name]) * (sign, 1) for name in ("eye", "ear")}


def _arm_points(side: str, sign: float, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """Shoulder, elbow and wrist: the arm hangs, is stretched out, or is raised."""
    lift = generator.uniform(12, 140)
    bend = generator.uniform(0, 45)
    shoulder = _SHOULDER * (sign, 1)
    elbow = shoulder + _UPPER_ARM * _direction(sign, lift)
    wrist = elbow + _FOREARM * _direction(sign, lift + bend)
    return {f"{side}_shoulder": shoulder, f"{side}_elbow": elbow, f"{side}_wrist": wrist}


def _leg_points(side: str, sign: float, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """Hip, knee and ankle: the leg stands or is spread."""
    spread = generator.uniform(-2, 26)
    hip = _HIP * (sign, 1)
    knee = hip + _THIGH * _direction(sign, spread)
    ankle = knee + _SHIN * _direction(sign, spread - generator.uniform(0, 20))
    return {f"{side}_hip": hip, f"{side}_knee": knee, f"{side}_ankle": ankle}


def _parts(points: dict[str, np.ndarray], outfit: Outfit) -> list[Part]:
    """Legs, arms, trunk and head, in drawing order."""
    parts = []
    for side in ("right", "left"):
        chain = [points[f"{side}_{name}"] for name in ("hip", "knee", "ankle")]
        parts += [limb(*ends, _LEG_RADIUS, outfit.trousers) for ends in zip(chain, chain[1:])]
        parts.append(disc(tuple(chain[2]), 1.12 * _LEG_RADIUS, shade(outfit.trousers, 0.6), 10))
    for side in ("right", "left"):
        shoulder, elbow, wrist = (
            points[f"{side}_{name}"] for name in ("shoulder", "elbow", "wrist")
        )
        parts.append(limb(elbow, wrist, _ARM_RADIUS, outfit.skin))
        parts.append(limb(shoulder, elbow, 1.15 * _ARM_RADIUS, outfit.shirt))
        parts.append(disc(tuple(wrist), 1.2 * _ARM_RADIUS, outfit.skin, 10))
    return [*parts, *_trunk(outfit), *_head(outfit)]


def _trunk(outfit: Outfit) -> list[Part]:
    """Neck, shirt and the belt line of the trousers."""
    (wide, top), (narrow, bottom) = _SHOULDER, _HIP
    shirt = [
        (-wide, top - 0.05), (wide, top - 0.05), (wide + 0.045, top), (narrow + 0.06, bottom),
        (-narrow - 0.06, bottom), (-wide - 0.045, top),
    ]  # fmt: skip
    neck = limb(_HEAD, np.array([0.0, top]), 0.045, outfit.skin)
    belt = limb(np.array([-narrow, bottom]), np.array([narrow, bottom]), 0.05, outfit.trousers)
    return [belt, neck, polygon(shirt, outfit.shirt)]


def _head(outfit: Outfit) -> list[Part]:
    """Ears, head, hair, eyes and nose."""
    (u, v), radius = _HEAD, _HEAD_RADIUS
    parts = [disc((sign * _FACE["ear"][0], _FACE["ear"][1]), 0.03, outfit.skin, 8)
             for sign in (-1, 1)]  # fmt: skip
    parts.append(disc((u, v), radius, outfit.hair))
    parts.append(disc((u, v + 0.22 * radius), 0.84 * radius, outfit.skin))
    dark = shade(outfit.skin, 0.2)
    parts += [disc((sign * _FACE["eye"][0], _FACE["eye"][1]), 0.019, dark, 8) for sign in (-1, 1)]
    parts.append(disc(_FACE["nose"], 0.017, shade(outfit.skin, 0.7), 8))
    return parts
