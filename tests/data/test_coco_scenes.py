"""Generated pictures before they become files."""

import numpy as np
import pytest

from dynamic_routing.data.coco_annotations import instance_annotations
from dynamic_routing.data.coco_backdrop import NAMES
from dynamic_routing.data.coco_categories import category_ids
from dynamic_routing.data.coco_layout import LEAST_PIXELS
from dynamic_routing.data.coco_objects import KINDS
from dynamic_routing.data.coco_scenes import CocoObject, CocoScene, draw_coco_scene
from dynamic_routing.data.profiles import PROFILES
from dynamic_routing.data.tree import image_generator

SIZE = (96, 144)


@pytest.fixture(scope="module")
def scenes() -> list[CocoScene]:
    return [
        draw_coco_scene(image_generator(0, "train", i), size=SIZE, profile=PROFILES[i % 3])
        for i in range(75)
    ]


def test_same_generator_state_gives_the_same_scene() -> None:
    first, again = (
        draw_coco_scene(np.random.default_rng(3), size=SIZE, profile="mixed") for _ in range(2)
    )
    assert np.array_equal(first.image, again.image) and np.array_equal(first.owner, again.owner)


def test_every_object_is_seen(scenes: list[CocoScene]) -> None:
    for scene in scenes:
        counts = np.bincount(scene.owner.ravel(), minlength=len(scene.objects) + 1)
        assert len(counts) == len(scene.objects) + 1
        assert all(count >= LEAST_PIXELS for count in counts[1:])


def test_pixel_is_an_object_or_a_surface_or_rarely_neither(scenes: list[CocoScene]) -> None:
    bare = []
    for scene in scenes:
        assert not (scene.surfaces[scene.owner > 0]).any()
        assert scene.surfaces.max() <= len(NAMES)
        bare.append(float(((scene.surfaces == 0) & (scene.owner == 0)).mean()))
    assert 0 < np.mean(bare) < 0.02 and max(bare) < 0.1


def test_all_kinds_all_surfaces_crowds_and_empty_pictures_occur(scenes: list[CocoScene]) -> None:
    names = {item.name for scene in scenes for item in scene.objects}
    assert names == {kind.name for kind in KINDS}
    surfaces = {int(value) for scene in scenes for value in np.unique(scene.surfaces)}
    assert surfaces == set(range(len(NAMES) + 1))
    assert any(item.is_crowd for scene in scenes for item in scene.objects)
    empty = sum(not scene.objects for scene in scenes)
    assert 1 <= empty <= 0.12 * len(scenes)


def test_profiles_differ_in_size_and_number_and_not_in_kinds(scenes: list[CocoScene]) -> None:
    size, number = {}, {}
    for profile in PROFILES:
        chosen = [scene for scene in scenes if scene.profile == profile]
        areas = [n for s in chosen for n in np.bincount(s.owner.ravel())[1:]]
        size[profile] = float(np.median(np.sqrt(areas))) / SIZE[0]
        number[profile] = np.mean([len(scene.objects) for scene in chosen])
    assert size["large"] > 1.5 * size["mixed"] > 1.5 * size["small"]
    assert number["large"] < number["mixed"] < number["small"]


def test_objects_differ_from_what_is_behind_them(scenes: list[CocoScene]) -> None:
    """Colour alone tells most objects from the ring of background around them."""
    import cv2

    contrasts = []
    for scene in scenes:
        image = scene.image.astype(float)
        for number in range(1, len(scene.objects) + 1):
            mask = scene.owner == number
            ring = cv2.dilate(mask.astype(np.uint8), np.ones((7, 7))) > mask
            spread = image[mask].std(axis=0) + np.abs(image[mask].mean(0) - image[ring].mean(0))
            contrasts.append(spread.max())
    assert np.percentile(contrasts, 2) > 20


@pytest.mark.parametrize(("size", "profile"), [((32, 32), "small"), ((48, 200), "large")])
def test_odd_sizes_can_be_drawn(size: tuple[int, int], profile: str) -> None:
    for seed in range(6):
        scene = draw_coco_scene(np.random.default_rng(seed), size=size, profile=profile)
        assert scene.image.shape == (*size, 3) and scene.owner.shape == size


@pytest.mark.parametrize(
    ("change", "message"),
    [({"size": (31, 64)}, r"\(31, 64\)"), ({"profile": "tiny"}, "'tiny'")],
)
def test_wrong_arguments_are_named(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_coco_scene(np.random.default_rng(0), **{"size": SIZE, "profile": "large", **change})


def one_person(keypoints: np.ndarray, *, height: float = 40, is_crowd: bool = False) -> CocoScene:
    """A person who owns columns 10 to 19 of a 40 x 60 picture; something else owns 20 to 29."""
    owner = np.zeros((40, 60), dtype=np.int16)
    owner[:, 10:20], owner[:, 20:30] = 1, 2
    objects = (
        CocoObject("person", is_crowd, keypoints, height),
        CocoObject("car", False, np.zeros((0, 2)), 40),
    )
    blank = np.zeros((40, 60), dtype=np.uint8)
    return CocoScene(np.zeros((40, 60, 3), np.uint8), owner, blank, objects, "large")


def test_keypoints_are_seen_hidden_or_outside() -> None:
    points = np.full((17, 2), (12.7, 5.2))
    points[1], points[2], points[3] = (25.5, 5.5), (-0.2, 5.0), (15.0, 40.0)
    entry, car = instance_annotations(one_person(points), image_id=4, ids=category_ids())
    triples = np.reshape(entry["keypoints"], (17, 3)).tolist()
    assert triples[:4] == [[12, 5, 2], [25, 5, 1], [0, 0, 0], [0, 0, 0]]
    assert entry["num_keypoints"] == 15
    assert "keypoints" not in car and (entry["id"], car["id"]) == (4001, 4002)


@pytest.mark.parametrize("change", [{"height": 19.0}, {"is_crowd": True}])
def test_tiny_people_and_crowds_have_no_keypoints(change: dict) -> None:
    scene = one_person(np.full((17, 2), 12.0), **change)
    entry = instance_annotations(scene, image_id=1, ids=category_ids())[0]
    assert entry["keypoints"] == [0] * 51 and entry["num_keypoints"] == 0
    assert isinstance(entry["segmentation"], dict if entry["iscrowd"] else list)
