"""Polygons and run lengths against pycocotools' own rasterisation."""

import numpy as np
import pycocotools.mask as official
import pytest

from dynamic_routing.data.coco_masks import mask_box, mask_polygons, mask_runs


def rasterised(polygons: list[list[float]], shape: tuple[int, int]) -> np.ndarray:
    height, width = shape
    return official.decode(official.merge(official.frPyObjects(polygons, height, width))) > 0


def random_masks(share: float) -> list[np.ndarray]:
    """Masks of scattered pixels: many parts, many holes, touching corners."""
    generator = np.random.default_rng(0)
    sizes = generator.integers(2, 30, size=(60, 2))
    masks = [generator.random((int(height), int(width))) < share for height, width in sizes]
    return [mask for mask in masks if mask.any()]


@pytest.mark.parametrize("share", [0.2, 0.6, 0.9, 1.0])
def test_polygons_give_back_every_pixel_and_no_other(share: float) -> None:
    for mask in random_masks(share):
        assert np.array_equal(rasterised(mask_polygons(mask), mask.shape), mask)


@pytest.mark.parametrize("share", [0.2, 0.6, 1.0])
def test_run_lengths_give_back_the_mask(share: float) -> None:
    for mask in [*random_masks(share), np.zeros((3, 4), dtype=bool)]:
        runs = mask_runs(mask)
        assert np.array_equal(official.decode(official.frPyObjects(runs, *mask.shape)), mask)
        assert sum(runs["counts"]) == mask.size


def test_polygons_have_corners_enough_and_stay_in_the_picture() -> None:
    for mask in random_masks(0.5):
        for polygon in mask_polygons(mask):
            assert len(polygon) >= 8 and len(polygon) % 2 == 0
            columns, rows = np.reshape(polygon, (-1, 2)).T
            assert 0 <= columns.min() and columns.max() <= mask.shape[1]
            assert 0 <= rows.min() and rows.max() <= mask.shape[0]


def test_each_part_gets_a_polygon_and_a_ring_gets_two() -> None:
    mask = np.zeros((9, 20), dtype=bool)
    mask[1:4, 1:4] = mask[5:8, 6:8] = True
    assert len(mask_polygons(mask)) == 2
    mask[:] = False
    mask[1:8, 1:8] = True
    mask[3:5, 3:6] = False
    assert len(mask_polygons(mask)) == 2


def test_box_is_tight() -> None:
    mask = np.zeros((10, 12), dtype=bool)
    mask[3, 5] = mask[6, 9] = True
    assert mask_box(mask) == [5, 3, 5, 4]


@pytest.mark.parametrize("function", [mask_box, mask_polygons])
def test_empty_mask_is_refused(function) -> None:
    with pytest.raises(ValueError, match=r"\(4, 5\) has no pixel"):
        function(np.zeros((4, 5), dtype=bool))
