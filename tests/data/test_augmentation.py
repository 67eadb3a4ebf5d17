"""Geometry of the segmentation augmentations."""

import numpy as np
import pytest
from detectron2.data import transforms as T

from dynamic_routing.data.augmentation import (
    RandomCropWithPadding,
    RandomScale,
    build_sem_seg_augmentations,
    keep_a_pixel,
)

MEAN = (103.53, 116.28, 123.675)


def augment(augmentations: list, image: np.ndarray, labels: np.ndarray) -> T.AugInput:
    given = T.AugInput(image, sem_seg=labels)
    T.AugmentationList(augmentations)(given)
    return given


def coordinates(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """An image whose pixels name their place, and the same as labels."""
    labels = np.arange(height * width).reshape(height, width) % 250
    image = np.stack([labels, labels, labels], axis=2)
    return image.astype(np.uint8), labels.astype(np.uint8)


@pytest.mark.parametrize("size", [(12, 16), (5, 30), (30, 5), (6, 6)])
def test_image_and_labels_stay_aligned(size: tuple[int, int]) -> None:
    image, labels = coordinates(*size)
    for seed in range(20):
        np.random.seed(seed)
        crop = RandomCropWithPadding((8, 10), pad_value=(255, 255, 255))
        out = augment([crop, T.RandomFlip()], image, labels)
        assert out.image.shape == (8, 10, 3) and out.sem_seg.shape == (8, 10)
        assert np.array_equal(out.image[..., 0], out.sem_seg)  # padding is 255 in both


def test_padding_is_the_mean_in_the_image_and_255_in_the_labels() -> None:
    image, labels = coordinates(4, 6)
    out = augment([RandomCropWithPadding((8, 8), pad_value=MEAN)], image, labels)
    assert np.array_equal(out.image[:4, :6], image) and np.array_equal(out.sem_seg[:4, :6], labels)
    padded = np.ones((8, 8), bool)
    padded[:4, :6] = False
    assert np.all(out.sem_seg[padded] == 255)
    assert np.all(out.image[padded] == (104, 116, 124))
    assert out.image.dtype == np.uint8


def test_float_images_are_padded_with_the_exact_mean() -> None:
    image = np.zeros((4, 4, 3), np.float32)
    out = augment([RandomCropWithPadding((4, 6), pad_value=MEAN)], image, np.zeros((4, 4)))
    assert out.image.dtype == np.float32
    assert out.image[0, 5] == pytest.approx(MEAN)


def test_crop_is_drawn_independently_on_both_axes_and_reaches_all_places() -> None:
    image, labels = coordinates(6, 7)
    np.random.seed(0)
    corners = set()
    for _ in range(200):
        out = augment([RandomCropWithPadding((4, 4), pad_value=MEAN)], image, labels)
        corners.add(divmod(int(out.sem_seg[0, 0]), 7))
    assert corners == {(row, column) for row in range(3) for column in range(4)}


def test_boxes_follow_crop_and_padding() -> None:
    image, _ = coordinates(6, 12)
    np.random.seed(3)
    transform = RandomCropWithPadding((8, 8), pad_value=MEAN).get_transform(image)
    left = next(column for column in range(12) if transform.apply_image(image)[0, 0, 0] == column)
    moved = transform.apply_box(np.array([[left + 1.0, 2.0, left + 3.0, 4.0]]))
    assert moved.tolist() == [[1.0, 2.0, 3.0, 4.0]]


def test_scale_is_relative_to_the_images_own_size() -> None:
    image, labels = coordinates(40, 20)
    out = augment([RandomScale(0.5, 0.5)], image, labels)
    assert out.image.shape == (20, 10, 3) and out.sem_seg.shape == (20, 10)
    np.random.seed(0)
    heights = [RandomScale(0.5, 2.0).get_transform(image).new_h for _ in range(300)]
    assert 20 <= min(heights) < 24 and 76 < max(heights) <= 80


def test_labels_are_never_interpolated() -> None:
    image, _ = coordinates(32, 32)
    labels = np.where(np.indices((32, 32)).sum(0) % 7 < 3, 3, 200).astype(np.uint8)
    np.random.seed(0)
    for _ in range(10):
        out = augment([RandomScale(0.5, 2.0)], image, labels)
        assert set(np.unique(out.sem_seg)) <= {3, 200}


def test_training_list_gives_the_crop_size_for_any_image() -> None:
    augmentations = build_sem_seg_augmentations(train=True, crop_size=(24, 40))
    np.random.seed(0)
    for size in ((16, 16), (24, 40), (100, 30), (2, 90)):
        out = augment(augmentations, *coordinates(*size))
        assert out.image.shape == (24, 40, 3) and out.sem_seg.shape == (24, 40)


def test_flip_can_be_left_out() -> None:
    kinds = [type(a) for a in build_sem_seg_augmentations(train=True, flip=False)]
    assert kinds == [RandomScale, RandomCropWithPadding]


def test_testing_keeps_the_size_unless_told() -> None:
    assert build_sem_seg_augmentations(train=False) == []
    augmentations = build_sem_seg_augmentations(train=False, test_size=(10, 20))
    assert augment(augmentations, *coordinates(30, 30)).image.shape == (10, 20, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomScale(0.0, 1.0), "got 0.0 and 1.0"),
        (lambda: RandomScale(2.0, 1.0), "got 2.0 and 1.0"),
        (lambda: RandomCropWithPadding((0, 4), pad_value=MEAN), r"got \(0, 4\)"),
        (lambda: build_sem_seg_augmentations(train=False, test_size=(0, 4)), r"got \(0, 4\)"),
    ],
)
def test_wrong_values_are_named(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("shape", [(1, 5000, 3), (5000, 1, 3), (40, 60, 3)])
def test_very_long_image_keeps_a_pixel(shape):
    (resize,) = keep_a_pixel([T.ResizeShortestEdge([32], 64, "choice")])
    result = resize.get_transform(np.zeros(shape, np.uint8)).apply_image(np.zeros(shape, np.uint8))
    assert min(result.shape[:2]) >= 1 and max(result.shape[:2]) <= 64
    if min(shape[:2]) > 1:  # Detectron2's own where it works
        theirs = T.ResizeShortestEdge([32], 64, "choice").get_transform(np.zeros(shape, np.uint8))
        assert result.shape[:2] == (theirs.new_h, theirs.new_w)
