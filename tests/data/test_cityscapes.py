"""The generated Cityscapes tree."""

import hashlib
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cityscapesscripts.helpers.annotation import Annotation
from cityscapesscripts.preparation.json2instanceImg import createInstanceImage
from cityscapesscripts.preparation.json2labelImg import createLabelImage
from PIL import Image

from dynamic_routing.data.canvas import SceneObject
from dynamic_routing.data.cityscapes import generate_cityscapes, instance_image, label_image

# Detectron2's loader: an argument that shapely renamed, and a process pool that it does not close.
LOADER_WARNINGS = (
    "ignore:The 'resolution' argument is deprecated:DeprecationWarning",
    "ignore::ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore:This process:DeprecationWarning",
)


def digests(tree: Path) -> dict[str, str]:
    files = [path for path in tree.rglob("*_*") if path.is_file()]  # neither manifest nor lock
    return {str(f.relative_to(tree)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def test_pngs_equal_the_official_rasterisation(root: Path) -> None:
    files = sorted(root.glob("cityscapes/gtFine/*/*/*_polygons.json"))
    assert len(files) == 6
    for file in files:
        annotation = Annotation()
        annotation.fromJsonFile(str(file))
        stem = str(file).removesuffix("polygons.json")
        for name, encoding in (("labelIds", "ids"), ("labelTrainIds", "trainIds")):
            official = np.array(createLabelImage(annotation, encoding))
            assert np.array_equal(official, pixels(Path(f"{stem}{name}.png")))
        # not json2instanceImg, which saves mode "I" as PNG: Pillow 13 no longer does
        official = np.array(createInstanceImage(annotation, "ids"))
        written = pixels(Path(f"{stem}instanceIds.png"))
        assert np.array_equal(official, written)


def test_files_have_the_real_formats(root: Path) -> None:
    stem = "cityscapes/gtFine/val/small/small_000001_000019_gtFine"
    for name, bits in {"labelIds": 8, "labelTrainIds": 8, "instanceIds": 16}.items():
        header = (root / f"{stem}_{name}.png").read_bytes()[16:26]
        assert struct.unpack(">IIBB", header) == (128, 64, bits, 0)  # 0: grey
    content = json.loads((root / f"{stem}_polygons.json").read_text())
    assert (content["imgHeight"], content["imgWidth"]) == (64, 128)
    assert set(content["objects"][0]) == {"label", "polygon"}
    annotation = Annotation()
    annotation.fromJsonFile(str(root / f"{stem}_polygons.json"))
    assert len(annotation.objects) == len(content["objects"])


def test_city_is_the_profile(root: Path) -> None:
    names = sorted(path.name for path in root.glob("cityscapes/leftImg8bit/train/*/*"))
    assert names == [
        "large_000000_000019_leftImg8bit.png",
        "mixed_000002_000019_leftImg8bit.png",
        "small_000001_000019_leftImg8bit.png",
    ]


def test_same_seed_gives_same_bytes_whatever_the_count(tmp_path: Path) -> None:
    for name, count in (("a", 4), ("b", 4), ("c", 2)):
        generate_cityscapes(tmp_path / name, counts={"train": count}, size=(32, 64), seed=7)
    first, again, fewer = (digests(tmp_path / name) for name in "abc")
    assert first == again
    assert len(fewer) == 10 and all(first[key] == value for key, value in fewer.items())


def test_other_seed_gives_other_images(tmp_path: Path) -> None:
    trees = []
    for seed in (0, 1):
        tree = generate_cityscapes(
            tmp_path / str(seed), counts={"val": 1}, size=(32, 64), seed=seed
        )
        trees.append(digests(tree))
    assert trees[0].keys() == trees[1].keys()
    assert not set(trees[0].values()) & set(trees[1].values())


def test_chosen_profiles_take_turns(tmp_path: Path) -> None:
    tree = generate_cityscapes(
        tmp_path, counts={"train": 4}, size=(32, 32), profiles=["small", "large"]
    )
    cities = {path.name: len(list(path.iterdir())) for path in tree.glob("leftImg8bit/train/*")}
    assert cities == {"small": 2, "large": 2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"counts": {"train": -1}}, "got -1"),
        ({"counts": {"train": 0}}, "at least one image"),
        ({"counts": {"training": 1}}, "'training'"),
        ({"size": (0, 64)}, r"\(0, 64\)"),
        ({"seed": -4}, "got -4"),
        ({"profiles": ("tiny",)}, "tiny"),
        ({"profiles": ()}, r"got \(\)"),
    ],
)
def test_wrong_requests_are_named(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate_cityscapes(tmp_path, **{"counts": {"train": 1}, "size": (32, 32), **change})
    assert list(tmp_path.iterdir()) == []


def test_void_pixels_occur_and_stay_few(root: Path) -> None:
    maps = [pixels(f) for f in root.glob("cityscapes/gtFine/*/*/*_labelTrainIds.png")]
    shares = [float((labels == 255).mean()) for labels in maps]
    assert min(shares) > 0 and max(shares) < 0.3


def test_instances_are_numbered_and_crowds_are_not() -> None:
    square = ((0, 0), (3, 0), (3, 3), (0, 3))
    objects = [
        SceneObject("cargroup", tuple((x + 12, y) for x, y in square), False),
        SceneObject("car", square, True),
        SceneObject("car", tuple((x + 6, y) for x, y in square), True),
        SceneObject("road", tuple((x, y + 6) for x, y in square), False),
    ]
    picture = np.array(instance_image(objects, size=(16, 16)))
    assert [picture[1, 1], picture[1, 7], picture[1, 13], picture[7, 1]] == [26000, 26001, 26, 7]
    assert picture[15, 15] == 0


def test_unknown_class_or_encoding_is_named() -> None:
    square = ((0, 0), (3, 0), (3, 3))
    with pytest.raises(ValueError, match="'spaceship'"):
        label_image([SceneObject("spaceship", square, False)], size=(8, 8), encoding="ids")
    with pytest.raises(ValueError, match="'colour'"):
        label_image([], size=(8, 8), encoding="colour")


def test_semantic_loader_of_detectron2_reads_it(root: Path) -> None:
    from detectron2.data.datasets.cityscapes import load_cityscapes_semantic

    base = root / "cityscapes"
    records = load_cityscapes_semantic(str(base / "leftImg8bit/train"), str(base / "gtFine/train"))
    assert len(records) == 3
    for record in records:
        assert (record["height"], record["width"]) == (64, 128)
        assert pixels(Path(record["sem_seg_file_name"])).shape == (64, 128)
        assert pixels(Path(record["file_name"])).shape == (64, 128, 3)


@pytest.mark.filterwarnings(*LOADER_WARNINGS)
@pytest.mark.parametrize("from_json", [True, False])
def test_instance_loader_of_detectron2_reads_it(root: Path, from_json: bool) -> None:
    from detectron2.data.datasets.cityscapes import load_cityscapes_instances

    base = root / "cityscapes"
    folders = (str(base / "leftImg8bit/train"), str(base / "gtFine/train"))
    records = load_cityscapes_instances(*folders, from_json=from_json, to_polygons=True)
    for record in records:
        stem = record["file_name"].replace("leftImg8bit/", "gtFine/", 1)
        truth = pixels(Path(stem.replace("_leftImg8bit.png", "_gtFine_instanceIds.png")))
        wanted = len(np.unique(truth[truth >= 24000]))
        things = [item for item in record["annotations"] if not item["iscrowd"]]
        assert 0 < len(things) <= wanted  # the loader leaves out slivers
        assert len(things) >= 0.5 * wanted
        assert all(0 <= item["category_id"] < 8 for item in things)


@pytest.mark.slow
def test_detectron2_finds_it_through_the_variable(root: Path) -> None:
    code = (
        "from detectron2.data import DatasetCatalog\n"
        "print(len(DatasetCatalog.get('cityscapes_fine_sem_seg_val')))"
    )
    environment = {**os.environ, "DETECTRON2_DATASETS": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[-1] == "3"
