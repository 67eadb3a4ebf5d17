"""The generated VOC tree and the registration of VOC 2012 for segmentation."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dynamic_routing.data.canvas import SceneObject
from dynamic_routing.data.mapper import load_label_map
from dynamic_routing.data.scenes import Scene
from dynamic_routing.data.voc import (
    VOC_CLASSES,
    generate_voc,
    register_voc,
    save_palette_png,
    voc_labels,
    voc_palette,
)


def test_palette_is_that_of_voc() -> None:
    palette = voc_palette()
    assert len(palette) == 256
    assert palette[:4] == [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)]
    assert palette[15] == (192, 128, 128) and palette[20] == (0, 64, 128)
    assert palette[255] == (224, 224, 192)


def test_palette_png_round_trip(tmp_path: Path) -> None:
    labels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    save_palette_png(tmp_path / "a.png", labels)
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "P"
        assert image.convert("RGB").getpixel((1, 0)) == (128, 0, 0)
    assert np.array_equal(load_label_map(str(tmp_path / "a.png")), labels)


def test_objects_are_separated_by_an_ignored_border() -> None:
    square = ((10, 10), (30, 10), (30, 30), (10, 30))
    objects = (
        SceneObject("road", ((0, 0), (99, 0), (99, 59), (0, 59)), False),
        SceneObject("car", square, True),
        SceneObject("rider", tuple((x + 20, y) for x, y in square), True),
        SceneObject("cargroup", tuple((x + 60, y) for x, y in square), True),
    )
    labels = voc_labels(Scene(np.zeros((60, 100, 3), np.uint8), objects, "large"))
    assert labels.names == ("car", "person")
    row = labels.classes[20]
    assert [row[5], row[20], row[40], row[80]] == [0, 7, 15, 255]
    assert [row[10], row[30], row[50]] == [255, 255, 255]  # borders of car and rider
    assert [labels.objects[20][20], labels.objects[20][40]] == [1, 2]


def test_tree_has_the_layout_of_voc(root: Path) -> None:
    tree = root / "VOC2012"
    for task in ("Segmentation", "Main"):
        lists = {p.stem: p.read_text().split() for p in (tree / "ImageSets" / task).iterdir()}
        assert lists["trainval"] == [*lists["train"], *lists["val"]]
        assert lists["train"] == ["large_train_000000", "small_train_000001", "mixed_train_000002"]
    for name in lists["trainval"]:
        with Image.open(tree / "JPEGImages" / f"{name}.jpg") as image:
            assert image.size == (128, 96) and image.mode == "RGB"
        classes = load_label_map(str(tree / "SegmentationClass" / f"{name}.png"))
        objects = load_label_map(str(tree / "SegmentationObject" / f"{name}.png"))
        assert set(np.unique(classes)) <= {*range(len(VOC_CLASSES)), 255}
        assert np.array_equal(classes == 255, objects == 255)
        assert np.array_equal(classes == 0, objects == 0)


def test_same_seed_gives_same_bytes(tmp_path: Path) -> None:
    trees = [generate_voc(tmp_path / n, counts={"val": 1}, size=(32, 48), seed=3) for n in "ab"]
    for path in trees[0].rglob("*.*"):
        assert path.read_bytes() == (trees[1] / path.relative_to(trees[0])).read_bytes()


def test_test_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'test'"):
        generate_voc(tmp_path, counts={"test": 1})


def test_registered_splits_read_the_lists(registered: Path) -> None:
    from detectron2.data import DatasetCatalog, MetadataCatalog

    for split, count in (("train", 3), ("val", 3), ("trainval", 6)):
        records = DatasetCatalog.get(f"voc_2012_sem_seg_{split}")
        assert len(records) == count
        assert all(Path(r["file_name"]).is_file() for r in records)
        assert all(Path(r["sem_seg_file_name"]).is_file() for r in records)
    metadata = MetadataCatalog.get("voc_2012_sem_seg_val")
    assert len(metadata.stuff_classes) == len(metadata.stuff_colors) == 21
    assert (metadata.evaluator_type, metadata.ignore_label) == ("sem_seg", 255)
    assert "voc_2012_sem_seg_trainaug" not in DatasetCatalog


def test_detection_loader_of_detectron2_reads_it(root: Path) -> None:
    from detectron2.data.datasets.pascal_voc import CLASS_NAMES, load_voc_instances

    records = load_voc_instances(str(root / "VOC2012"), "train", CLASS_NAMES)
    boxes = [item["bbox"] for record in records for item in record["annotations"]]
    assert len(records) == 3 and boxes
    assert all(0 <= x0 < x1 <= 128 and 0 <= y0 < y1 <= 96 for x0, y0, x1, y1 in boxes)


def test_trainaug_is_registered_if_its_labels_exist(
    root: Path, tmp_path: Path, catalogues: None
) -> None:
    from detectron2.data import DatasetCatalog

    tree = tmp_path / "VOC2012"
    shutil.copytree(root / "VOC2012", tree)
    (tree / "SegmentationClass").rename(tree / "SegmentationClassAug")
    line = "/JPEGImages/large_train_000000.jpg /SegmentationClassAug/large_train_000000.png\n"
    (tree / "ImageSets/Segmentation/trainaug.txt").write_text(line)
    assert "voc_2012_sem_seg_trainaug" in register_voc(tmp_path)
    (record,) = DatasetCatalog.get("voc_2012_sem_seg_trainaug")
    assert Path(record["file_name"]).is_file() and Path(record["sem_seg_file_name"]).is_file()


def test_registering_again_is_harmless_and_another_root_moves_it(
    registered: Path, tmp_path: Path
) -> None:
    from detectron2.data import MetadataCatalog

    before = MetadataCatalog.get("voc_2012_sem_seg_val")
    register_voc()
    assert MetadataCatalog.get("voc_2012_sem_seg_val") is before
    register_voc(tmp_path)
    assert MetadataCatalog.get("voc_2012_sem_seg_val").voc_root == str(tmp_path / "VOC2012")
