"""The profiles of generated pictures, the hidden subsets of a data set, and what can be drawn."""

from __future__ import annotations

PROFILES = ("large", "small", "mixed")
SMALLEST_SIDE = 32
"""Smaller pictures than this, in pixels, hold nothing that could be recognised."""


def check_picture(size: tuple[int, int], profile: str) -> None:
    """Refuse a picture that cannot be drawn.

    Args:
        size: (height, width) in pixels.
        profile: one of :data:`PROFILES`.

    Raises:
        ValueError: for a side under 32 pixels or an unknown profile.
    """
    if min(size) < SMALLEST_SIDE:
        raise ValueError(f"size must be at least {SMALLEST_SIDE} x {SMALLEST_SIDE}, got {size}")
    if profile not in PROFILES:
        raise ValueError(f"profile must be one of {PROFILES}, got {profile!r}")
