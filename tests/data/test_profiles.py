"""Sizes and profiles of generated pictures: which are refused, and that every profile is drawn."""

from __future__ import annotations

import pytest

from dynamic_routing.data.coco_layout import RECIPES
from dynamic_routing.data.profiles import PROFILES, SMALLEST_SIDE, check_picture
from dynamic_routing.data.scenes import _PROFILES


def test_both_kinds_of_pictures_know_every_profile() -> None:
    assert set(PROFILES) == set(RECIPES) == set(_PROFILES)


@pytest.mark.parametrize("profile", PROFILES)
def test_smallest_picture_is_accepted(profile: str) -> None:
    check_picture((SMALLEST_SIDE, SMALLEST_SIDE), profile)


@pytest.mark.parametrize("size", [(31, 64), (64, 31), (0, 0)])
def test_smaller_picture_is_refused_with_its_size(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"at least 32 x 32, got \({size[0]}, {size[1]}\)"):
        check_picture(size, "large")


def test_unknown_profile_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"profile must be one of \('large', .*got 'huge'"):
        check_picture((64, 64), "huge")
