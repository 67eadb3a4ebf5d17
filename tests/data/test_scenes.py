"""Generated scenes."""

import numpy as np
import pytest
from cityscapesscripts.helpers.labels import name2label

from dynamic_routing.data.canvas import polygon_area
from dynamic_routing.data.profiles import PROFILES
from dynamic_routing.data.scenes import Scene, draw_scene


def scene(profile: str, seed: int = 0, size: tuple[int, int] = (64, 128)) -> Scene:
    return draw_scene(np.random.default_rng(seed), size=size, profile=profile)


@pytest.mark.parametrize("profile", PROFILES)
def test_same_seed_gives_same_scene(profile: str) -> None:
    first, again, other = scene(profile), scene(profile), scene(profile, seed=1)
    assert np.array_equal(first.image, again.image)
    assert first.objects == again.objects
    assert not np.array_equal(first.image, other.image)


@pytest.mark.parametrize("size", [(32, 32), (32, 150), (150, 32), (37, 65), (96, 192)])
@pytest.mark.parametrize("profile", PROFILES)
def test_any_size_gives_valid_polygons(profile: str, size: tuple[int, int]) -> None:
    for seed in range(3):
        drawn = scene(profile, seed=seed, size=size)
        assert drawn.image.shape == (*size, 3) and drawn.image.dtype == np.uint8
        points = [point for item in drawn.objects for point in item.polygon]
        assert all(0 <= column < size[1] and 0 <= row < size[0] for column, row in points)
        assert all(len(item.polygon) >= 3 for item in drawn.objects)


def test_labels_and_instance_flags_are_those_of_cityscapes() -> None:
    for seed in range(12):
        for item in scene(PROFILES[seed % 3], seed=seed).objects:
            label = name2label[item.label.removesuffix("group")]
            assert item.is_instance == label.hasInstances, item.label


def test_small_scenes_hold_more_and_smaller_objects_than_large_ones() -> None:
    def instance_areas(profile: str) -> list[list[float]]:
        drawn = [scene(profile, seed=seed) for seed in range(12)]
        return [[polygon_area(o.polygon) for o in s.objects if o.is_instance] for s in drawn]

    large, small = instance_areas("large"), instance_areas("small")
    assert np.mean([len(areas) for areas in small]) > 2 * np.mean([len(a) for a in large])
    assert np.median(np.concatenate(large)) > 8 * np.median(np.concatenate(small))


def test_at_least_ten_classes_are_frequent() -> None:
    seen = [{item.label for item in scene(PROFILES[s % 3], seed=s).objects} for s in range(30)]
    names = {name for names in seen for name in names}
    frequent = [name for name in names if sum(name in labels for labels in seen) >= 15]
    assert len([name for name in frequent if name2label[name].trainId != 255]) >= 10


def test_colour_alone_does_not_tell_the_class() -> None:
    means = []
    for seed in range(20):
        drawn = scene("mixed", seed=seed)
        sky = next(item for item in drawn.objects if item.label == "sky")
        road = next(item for item in drawn.objects if item.label == "road")
        for item in (sky, road):
            columns, rows = zip(*item.polygon)
            row = (min(rows) + max(rows)) // 2
            means.append(drawn.image[row, (min(columns) + max(columns)) // 2].mean())
    sky_means, road_means = np.array(means[::2]), np.array(means[1::2])
    assert sky_means.min() < road_means.max()  # their brightness overlaps


def test_wrong_size_or_profile_is_named() -> None:
    with pytest.raises(ValueError, match=r"\(31, 64\)"):
        scene("large", size=(31, 64))
    with pytest.raises(ValueError, match="'huge'"):
        scene("huge")
