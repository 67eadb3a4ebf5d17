"""Classification data: folders of classes, generated patches, what the mapper makes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dynamic_routing.data.catalog import register_datasets
from dynamic_routing.data.checks import DatasetError, check_datasets
from dynamic_routing.data.classification_mapper import (
    CenterCrop,
    ClassificationMapper,
    RandomResizedCrop,
    build_classification_augmentations,
)
from dynamic_routing.data.custom import register_custom_datasets
from dynamic_routing.data.image_folder import class_names, load_image_folder
from dynamic_routing.data.patches import SHARES, generate_patches
from dynamic_routing.engine.dataset_checks import check_fit
from dynamic_routing.engine.loaders import build_mapper
from dynamic_routing.modeling import get_config

pytestmark = pytest.mark.usefixtures("catalogues")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes of two images under imagenet/train, and a val split."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for split in ("train", "val"):
        for i, name in enumerate(("b/1.JPEG", "a/2.png", "a/1.jpg", "b/x.txt", "a/.hidden.jpg")):
            path = tmp_path / "imagenet" / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".txt" or path.name.startswith("."):
                path.write_text("no image")
            else:
                Image.fromarray(np.full((20, 30, 3), 40 * i, np.uint8)).save(path)
    return tmp_path


def entry(**changes) -> dict:
    return {"name": "mine", "type": "image_folder", "images": "imagenet/train", **changes}


def test_images_are_listed_by_class_and_name(folder):
    records = load_image_folder(folder / "imagenet/train")
    assert [(r["image_id"], r["class_id"]) for r in records] == [
        ("a/1.jpg", 0),
        ("a/2.png", 0),
        ("b/1.JPEG", 1),
    ]
    assert all(Path(r["file_name"]).is_file() for r in records)


def test_order_of_classes_can_be_given(folder):
    assert load_image_folder(folder / "imagenet/train", ["b", "a"])[0]["image_id"] == "b/1.JPEG"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda f: (f / "imagenet/val/c").mkdir(), "holds no image"),
        (lambda f: (f / "imagenet/train").rename(f / "gone"), "does not exist"),
    ],
)
def test_problems_are_found_before_training(folder, change, text):
    register_datasets()
    check_datasets(["imagenet_train", "imagenet_val"])
    change(folder)
    with pytest.raises(DatasetError, match=text) as info:
        check_datasets(["imagenet_train", "imagenet_val"])
    assert "<class>/<image>.JPEG" in str(info.value)


def test_builtin_names_follow_the_root(folder, tmp_path):
    register_datasets()
    assert class_names("imagenet_train") == ["a", "b"] and len(DatasetCatalog.get("imagenet_val"))
    register_datasets(tmp_path / "elsewhere")
    assert MetadataCatalog.get("imagenet_train").image_root.startswith(str(tmp_path / "elsewhere"))


def test_own_folder_by_config(folder):
    assert register_custom_datasets([entry()]) == ["mine"]
    assert register_custom_datasets([entry()]) == ["mine"]
    assert len(DatasetCatalog.get("mine")) == 3 and class_names("mine") == ["a", "b"]
    check_datasets(["mine"])


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"classes": ["a", "c"]}, "differ: b, c"),
        ({"images": "imagenet"}, "holds no image"),
        ({"images": "nowhere"}, "images is no folder"),
        ({"labels": "x"}, "unknown key 'labels'"),
    ],
)
def test_wrong_entries_are_one_line(folder, changes, text):
    with pytest.raises(ValueError, match=text):
        register_custom_datasets([entry(**changes)])


def test_classes_must_be_those_of_the_model_and_of_each_other(folder):
    register_datasets()
    names = ["DATASETS.TRAIN", "('imagenet_train',)", "DATASETS.TEST", "('imagenet_val',)"]
    names += ["MODEL.META_ARCHITECTURE", "ImageClassifier"]
    check_fit(get_config(None, [*names, "MODEL.CLASSIFIER.NUM_CLASSES", "2"]))
    with pytest.raises(DatasetError, match="has 2 classes, MODEL.CLASSIFIER.NUM_CLASSES is 1000"):
        check_fit(get_config(None, names))
    with pytest.raises(DatasetError, match="has no pixels or boxes, which MODEL.META_ARCH"):
        check_fit(get_config(None, [*names[:4], "MODEL.META_ARCHITECTURE", "GeneralizedRCNN"]))
    (folder / "imagenet/val/b").rename(folder / "imagenet/val/c")
    with pytest.raises(DatasetError, match="other image_classes: 'b' is 'c' there"):
        check_fit(get_config(None, [*names, "MODEL.CLASSIFIER.NUM_CLASSES", "2"]))


@pytest.mark.parametrize("train", [True, False])
def test_mapper_gives_a_square_image_and_its_class(folder, train):
    register_datasets()
    cfg = get_config(
        None, ["INPUT.CLASSIFICATION.SIZE", "16", "INPUT.CLASSIFICATION.TEST_RESIZE", "18"]
    )
    record = DatasetCatalog.get("imagenet_train")[2]
    mapped = build_mapper(cfg, "imagenet_train", train=train)(record)
    assert mapped["image"].shape == (3, 16, 16) and mapped["image"].dtype == torch.uint8
    assert mapped["class_id"] == 1 and "image" not in record
    assert (mapped["height"], mapped["width"]) == (16, 16)


@given(height=st.integers(1, 90), width=st.integers(1, 90), low=st.floats(0.01, 1))
def test_random_part_always_fits_and_has_the_size(height, width, low):
    image = np.zeros((height, width, 3), np.uint8)
    augmentation = RandomResizedCrop((5, 7), scale=(low, 1.0))
    assert augmentation.get_transform(image).apply_image(image).shape == (5, 7, 3)


def test_random_part_covers_the_share_that_was_asked_for():
    image = np.arange(100 * 100).reshape(100, 100, 1).astype(np.float32)
    crop = RandomResizedCrop((8, 8), scale=(0.25, 0.25), ratio=(1, 1)).get_transform(image)
    assert (crop.transforms[0].w, crop.transforms[0].h) == (50, 50)


def test_centre_is_cut_from_the_middle():
    image = np.arange(6 * 10).reshape(6, 10, 1)
    cut = CenterCrop((4, 4)).get_transform(image).apply_image(image)
    assert cut[0, 0, 0] == 13 and cut.shape == (4, 4, 1)
    assert CenterCrop((9, 4)).get_transform(image).apply_image(image).shape == (6, 4, 1)


@pytest.mark.parametrize("options", [{"scale": (0, 1)}, {"scale": (0.5, 2)}, {"ratio": (2, 1)}])
def test_impossible_windows_are_refused(options):
    with pytest.raises(ValueError):
        RandomResizedCrop((8, 8), **options)


def test_flip_can_be_switched_off():
    options = {"train": True, "size": (8, 8), "scale": (1.0, 1.0), "resize": 8}
    assert len(build_classification_augmentations(**options, flip=True)) == 2
    assert len(build_classification_augmentations(**options, flip=False)) == 1
    assert ClassificationMapper(augmentations=[], image_format="BGR").image_format == "BGR"


def test_generated_patches_are_balanced_and_repeat_byte_by_byte(tmp_path):
    counts = {"train": 20, "val": 8}
    trees = [
        generate_patches(tmp_path / name, counts=counts, size=(32, 32), seed=3) for name in "ab"
    ]
    files = [sorted(t.rglob("*.jpg")) for t in trees]
    assert len(files[0]) == 28
    assert [f.read_bytes() for f in files[0]] == [f.read_bytes() for f in files[1]]
    for split, most in (("train", 4), ("val", 2)):
        per_class = [len(list((trees[0] / split / c).iterdir())) for c in SHARES]
        assert max(per_class) == most and min(per_class) >= most - 1
    with pytest.raises(ValueError, match="at least 6 images, got 5"):
        generate_patches(tmp_path / "c", counts={"train": 5})
