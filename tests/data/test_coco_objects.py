"""What the generated COCO pictures are drawn from."""

import numpy as np
import pytest

from dynamic_routing.data.coco_layout import RECIPES
from dynamic_routing.data.coco_objects import CROWDS, KINDS, crowd
from dynamic_routing.data.coco_painter import Painter
from dynamic_routing.data.coco_person import KEYPOINT_NAMES, person
from dynamic_routing.data.coco_shapes import Shape, box, plain
from dynamic_routing.data.profiles import PROFILES

NAMES = [kind.name for kind in KINDS]


def drawn(shape: Shape, size: tuple[int, int] = (120, 120)) -> np.ndarray:
    """The silhouette of a shape that is centred in a picture, 80 pixels large."""
    centred = shape.normalised().placed((size[1] / 2, size[0] / 2), 80)
    return Painter(size, (0, 0, 0)).covered(centred.parts)


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_objects_fill_a_good_part_of_their_box_in_one_piece(kind) -> None:
    import cv2

    for seed in range(8):
        mask = drawn(kind.build(np.random.default_rng(seed)), (200, 200))
        pieces, _ = cv2.connectedComponents(mask.astype(np.uint8))
        assert pieces == 2  # background and the object
        assert mask.sum() > 0.2 * 80**2


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_objects_vary(kind) -> None:
    first, second = (kind.build(np.random.default_rng(seed)) for seed in (0, 1))
    assert [part.colour for part in first.parts] != [part.colour for part in second.parts]


@pytest.mark.parametrize("name", CROWDS)
def test_crowd_is_one_shape_wider_than_a_member(name: str) -> None:
    kind = KINDS[NAMES.index(name)]
    shape = crowd(kind, np.random.default_rng(0))
    assert not len(shape.keypoints)
    assert shape.extent[0] > 2 and shape.extent[0] > shape.extent[1]


def test_person_has_every_keypoint_inside_and_left_on_the_right() -> None:
    for seed in range(10):
        shape = person(np.random.default_rng(seed)).normalised().placed((100, 100), 90)
        mask = Painter((200, 200), (0, 0, 0)).covered(shape.parts)
        columns, rows = np.floor(shape.keypoints).astype(int).T
        assert mask[rows, columns].all()
        at = dict(zip(KEYPOINT_NAMES, shape.keypoints, strict=True))
        for name in ("eye", "ear", "shoulder", "hip"):
            assert at[f"left_{name}"][0] > at[f"right_{name}"][0]
        assert at["nose"][1] < at["left_hip"][1] < at["left_ankle"][1]


def test_normalised_shape_is_centred_with_area_one_and_turning_keeps_lengths() -> None:
    shape = plain([box(3, 1, 7, 2, (1, 2, 3))]).normalised()
    assert np.allclose(shape.corners, [[-1, -0.25], [1, 0.25]])
    assert np.allclose(shape.turned(90).corners, [[-0.25, -1], [0.25, 1]])
    clockwise = shape.turned(30).parts[0].outline[0] @ [1, 0]
    assert np.isclose(clockwise, -np.cos(np.pi / 6) + 0.25 * np.sin(np.pi / 6))
    assert np.allclose(shape.placed((5, 6), 2).corners, [[3, 5.5], [7, 6.5]])


def test_shape_with_keypoints_is_not_mirrored() -> None:
    with pytest.raises(AssertionError, match="other side"):
        person(np.random.default_rng(0)).mirrored()


@pytest.mark.parametrize(
    ("edges", "columns"),
    [((2.0, 5.0), (2, 3, 4)), ((2.3, 5.3), (2, 3, 4)), ((2.9, 4.6), (3, 4)), ((-9, -3), ())],
)
def test_pixel_belongs_to_what_covers_more_than_half_of_it(edges, columns: tuple[int, ...]) -> None:
    painter = Painter((8, 10), (0, 0, 0))
    mask = painter.covered([box(edges[0], 1, edges[1], 7, (0, 0, 0))])
    assert tuple(np.flatnonzero(mask[4])) == columns


def test_painting_averages_over_pixels_and_covering_paints_nothing() -> None:
    painter = Painter((8, 8), (0, 0, 0))
    painter.covered([box(0, 0, 8, 8, (200, 200, 200))])
    assert not painter.picture().any()
    painter.paint([box(0, 0, 4, 8, (200, 100, 0))])
    assert painter.picture()[4, 1].tolist() == [200, 100, 0]
    assert not painter.picture()[4, 6].any()


def test_every_profile_has_a_recipe() -> None:
    assert set(RECIPES) == set(PROFILES)
