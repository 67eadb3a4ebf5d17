"""The camera of generated scenes, and what stands in the street."""

import numpy as np
import pytest

from dynamic_routing.data.actors import (
    draw_bicycle,
    draw_bus,
    draw_car,
    draw_person,
    draw_truck,
)
from dynamic_routing.data.canvas import Canvas
from dynamic_routing.data.cutout import Cutout
from dynamic_routing.data.furniture import draw_litter, draw_pole
from dynamic_routing.data.street import Camera

CAMERA = Camera(
    height=128, width=256, horizon=50.0, centre=128.0, elevation=1.5, focal=200.0, fog=100.0
)


def test_nearest_ground_lies_in_the_last_row() -> None:
    assert CAMERA.project(0.0, 0.0, CAMERA.nearest) == pytest.approx((128.0, 128.0))


def test_points_at_camera_height_lie_on_the_horizon() -> None:
    for z in (3.0, 30.0, 300.0):
        assert CAMERA.project(1.0, CAMERA.elevation, z)[1] == pytest.approx(CAMERA.horizon)


def test_haze_grows_with_distance() -> None:
    assert CAMERA.haze(5) < CAMERA.haze(50) < CAMERA.haze(500) < 1
    rows = CAMERA.row_haze()
    assert rows.shape == (128,)
    assert np.all(np.diff(rows) <= 0)


@pytest.mark.parametrize(
    ("draw", "labels"),
    [
        (draw_car, {"car"}),
        (draw_truck, {"truck"}),
        (draw_bus, {"bus"}),
        (draw_person, {"person"}),
        (draw_pole, {"pole", "traffic sign", "traffic light"}),
        (draw_litter, {"static", "dynamic"}),
        (lambda v, g: draw_bicycle(v, g, ridden=True), {"bicycle", "motorcycle", "rider"}),
        (lambda v, g: draw_bicycle(v, g, ridden=False), {"bicycle", "motorcycle"}),
    ],
)
def test_things_get_their_own_labels(draw, labels: set[str]) -> None:
    seen: set[str] = set()
    for seed in range(20):
        canvas = Canvas((128, 256), (0, 0, 0))
        view = Cutout(canvas, CAMERA, 0.0, 8.0, 2.0, 2.0, mirror=seed % 2 == 0)
        draw(view, np.random.default_rng(seed))
        seen |= {item.label for item in canvas.visible_objects()}
    assert seen == labels


def test_mirrored_cutout_swaps_left_and_right() -> None:
    plain = Cutout(Canvas((8, 8), (0, 0, 0)), CAMERA, 1.0, 5.0, 2.0, 1.0)
    mirrored = Cutout(plain.canvas, CAMERA, 1.0, 5.0, 2.0, 1.0, mirror=True)
    assert plain.point(0.3, 0.5) == mirrored.point(-0.3, 0.5)
