"""Pictures of predictions: in place, legible, the same every time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.data.catalog import Metadata
from detectron2.data.datasets.builtin_meta import KEYPOINT_CONNECTION_RULES

from dynamic_routing.evaluation.class_names import PredictedClasses
from dynamic_routing.evaluation.prediction_pictures import (
    MAX_SIDE,
    MIN_SIDE,
    LegibleVisualizer,
    display_size,
    draw_prediction,
    resized_instances,
)
from dynamic_routing.evaluation.predictions import Prediction
from tests.evaluation import predicted

SIZE = (60, 80)


def grey(height=SIZE[0], width=SIZE[1]):
    return np.full((height, width, 3), 100, np.uint8)


def draw(output, *, size=SIZE, classes=predicted.CLASSES, **options):
    image = grey(*size)
    return draw_prediction(image, Prediction.from_output(output), classes=classes, **options)


def spot(picture, row, column):
    """Mean colour of some pixels around a place, given in shares of the picture."""
    y, x = round(row * picture.shape[0]), round(column * picture.shape[1])
    return picture[y - 4 : y + 5, x - 4 : x + 5].reshape(-1, 3).mean(axis=0)


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ((33, 47), (562, 800)),
        ((512, 1024), (512, 1024)),
        ((9000, 3000), (4096, 1365)),
        ((1, 900), (8, 900)),
        ((1, 1), (800, 800)),
    ],
)
def test_pictures_are_neither_tiny_nor_huge(size, shown):
    assert display_size(*size) == shown
    assert 8 <= min(shown) and MIN_SIDE <= max(shown) <= MAX_SIDE


def test_label_map_tints_its_pixels_in_the_colours_of_the_classes():
    picture = draw({"sem_seg": predicted.label_scores(*SIZE)})
    assert picture.shape == (600, 800, 3) and picture.dtype == np.uint8
    for row, colour in ((0.1, (0, 200, 200)), (0.9, (200, 0, 200))):
        assert np.allclose(spot(picture, row, 0.1), 0.4 * 100 + 0.6 * np.array(colour), atol=3)


def test_masks_tint_their_objects_only():
    picture = draw({"instances": predicted.instances(*SIZE)}, colour_by_class=True)
    assert np.allclose(spot(picture, 0.3, 0.3), [50, 177, 50], atol=3)  # car
    assert np.allclose(spot(picture, 0.8, 0.85), [177, 50, 50], atol=3)  # person
    assert np.allclose(spot(picture, 0.2, 0.8), 100, atol=1)


def test_panoptic_map_shows_things_and_stuff_and_leaves_the_rest():
    picture = draw({"panoptic_seg": predicted.panoptic(*SIZE)}, colour_by_class=True)
    assert np.allclose(spot(picture, 0.1, 0.1), [50, 177, 50], atol=3)
    assert np.allclose(spot(picture, 0.9, 0.1), [160, 40, 160], atol=3)
    assert np.allclose(spot(picture, 0.2, 0.8), 100, atol=1)


def test_objects_of_one_class_differ_unless_coloured_by_class():
    both = predicted.instances(*SIZE)
    both.pred_classes[:] = 1
    own, by_class = (draw({"instances": both}, colour_by_class=c) for c in (False, True))
    places = [(0.3, 0.3), (0.8, 0.85)]
    first, second = (spot(own, *place) for place in places)
    assert np.abs(first - second).max() > 30
    first, second = (spot(by_class, *place) for place in places)
    assert np.allclose(first, second, atol=2)


@pytest.mark.slow
@pytest.mark.parametrize("keypoints", [False, True])
@pytest.mark.parametrize("size", [(33, 47), (2, 300), (300, 2), (1, 1)])
def test_every_output_is_drawn_at_every_size_and_equally_twice(size, keypoints):
    rules = {"keypoint_connection_rules": KEYPOINT_CONNECTION_RULES}
    names = {"keypoint_names": [f"k{i}" for i in range(17)]}
    skeleton = {**rules, **names} if keypoints else {}
    classes = PredictedClasses(
        predicted.THINGS, predicted.STUFF, num_things=3, num_stuff=3, keypoints=skeleton
    )
    output = {
        "sem_seg": predicted.label_scores(*size),
        "instances": predicted.instances(*size, keypoints=keypoints),
    }
    first, second = (draw(output, size=size, classes=classes) for _ in range(2))
    assert first.shape[:2] == display_size(*size)
    assert np.array_equal(first, second)
    assert len(np.unique(first.reshape(-1, 3), axis=0)) > 1


def test_nothing_found_leaves_the_image():
    for output in ({}, {"instances": predicted.no_instances(*SIZE)}):
        assert np.array_equal(np.unique(draw(output)), [100])


def test_drawing_changes_neither_image_nor_instances():
    found, image = predicted.instances(*SIZE, keypoints=True), grey()
    fields = {k: getattr(v, "tensor", v).clone() for k, v in found.get_fields().items()}
    draw_prediction(image, Prediction(instances=found), classes=predicted.CLASSES)
    assert np.array_equal(image, grey())
    assert all(torch.equal(getattr(found.get(k), "tensor", found.get(k)), v)
               for k, v in fields.items())  # fmt: skip


def test_instances_are_resized_in_proportion():
    small = predicted.instances(30, 40, keypoints=True)
    large = resized_instances(small, 60, 120)
    assert large.pred_boxes.tensor.tolist() == [[0, 0, 60, 30], [60, 30, 120, 60]]
    assert large.pred_masks.shape == (2, 60, 120) and large.pred_masks[0, :30, :60].all()
    assert large.pred_masks.sum() == small.pred_masks.sum() * 6
    assert torch.allclose(
        large.pred_keypoints, small.pred_keypoints * torch.tensor([3.0, 2.0, 1.0])
    )


def boxes_of(visualizer):
    renderer = visualizer.output.canvas.get_renderer()
    return [label.get_window_extent(renderer) for label in visualizer.output.ax.texts]


@pytest.mark.parametrize("place", [(0, 0), (399, 0), (0, 299), (399, 299), (-50, 900), (200, 150)])
@pytest.mark.parametrize("alignment", ["left", "center"])
def test_labels_stay_inside_the_picture(place, alignment):
    visualizer = LegibleVisualizer(grey(300, 400), Metadata())
    visualizer.draw_text("a rather long class 99%", place, horizontal_alignment=alignment)
    (box,) = boxes_of(visualizer)
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= 400 and box.y1 <= 300
    assert box.height > 8


def test_labels_of_one_place_stand_apart():
    visualizer = LegibleVisualizer(grey(300, 400), Metadata())
    for i in range(5):
        visualizer.draw_text(f"object {i}", (200, 150), font_size=2)
    boxes = boxes_of(visualizer)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_dollar_signs_and_dark_colours_are_legible():
    visualizer = LegibleVisualizer(grey(300, 400), Metadata())
    visualizer.draw_text("$a$ _^{", (10, 10), color=(0, 0, 0.3))
    visualizer.output.get_image()
    (label,) = visualizer.output.ax.texts
    assert min(label.get_color()[:3]) >= 0.5
