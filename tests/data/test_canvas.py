"""Clipping and drawing of polygons."""

import numpy as np
import pytest
from shapely.geometry import Polygon, box

from dynamic_routing.data.canvas import Canvas, clip_polygon, polygon_area


def test_polygon_inside_is_only_rounded() -> None:
    points = [(1.2, 2.0), (8.6, 2.4), (4.0, 7.5)]
    assert clip_polygon(points, width=10, height=10) == [(1, 2), (9, 2), (4, 8)]


@pytest.mark.parametrize("seed", range(20))
def test_clipped_area_equals_that_of_shapely(seed: int) -> None:
    generator = np.random.default_rng(seed)
    angles = np.sort(generator.uniform(0, 2 * np.pi, 9))
    radii = generator.uniform(200, 900, 9)
    points = [(500 + r * np.cos(a), 300 + r * np.sin(a)) for a, r in zip(angles, radii)]
    if not Polygon(points).is_valid:
        pytest.skip("not a simple polygon")
    clipped = clip_polygon(points, width=1001, height=601)
    wanted = Polygon(points).intersection(box(0, 0, 1000, 600)).area
    assert polygon_area(clipped) == pytest.approx(wanted, rel=0.01)
    assert all(0 <= column <= 1000 and 0 <= row <= 600 for column, row in clipped)


def test_polygon_outside_disappears() -> None:
    assert clip_polygon([(-9, -9), (-2, -9), (-5, -1)], width=10, height=10) == []
    canvas = Canvas((10, 10), (0, 0, 0))
    assert not canvas.add("car", [(-9, -9), (-2, -9), (-5, -1)], (1, 2, 3))
    assert canvas.visible_objects() == []


def test_covered_object_is_not_listed() -> None:
    canvas = Canvas((20, 20), (0, 0, 0))
    canvas.add("car", [(5, 5), (9, 5), (9, 9), (5, 9)], (1, 2, 3), is_instance=True)
    canvas.add("wall", [(2, 2), (15, 2), (15, 15), (2, 15)], (1, 2, 3))
    assert [item.label for item in canvas.visible_objects()] == ["wall"]
