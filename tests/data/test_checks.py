"""Wrong paths are found at start-up."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from PIL import Image

from dynamic_routing.data.catalog import register_datasets
from dynamic_routing.data.checks import DatasetError, check_datasets
from dynamic_routing.data.custom import register_custom_datasets

COCO = "coco_2017_val"
PANOPTIC = "coco_2017_val_panoptic_separated"
CITYSCAPES = "cityscapes_fine_sem_seg_train"
VOC = "voc_2012_sem_seg_train"


@pytest.fixture
def copy(root: Path, tmp_path: Path, catalogues: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registered copy of the small trees that a test may damage."""
    folder = tmp_path / "data"
    shutil.copytree(root, folder)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(folder))
    register_datasets()
    return folder


def message(*names: str) -> str:
    with pytest.raises(DatasetError) as caught:
        check_datasets(names)
    return str(caught.value)


def test_complete_trees_pass(registered: Path) -> None:
    names = [
        f"cityscapes_fine_{task}_{split}"
        for task in ("sem_seg", "instance_seg")
        for split in ("train", "val")
    ]
    check_datasets([*names, "voc_2012_sem_seg_trainval", "voc_2012_val"])
    check_datasets([])


def test_missing_path_comes_with_variable_and_tree(
    tmp_path: Path, catalogues: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "nowhere"))
    register_datasets()
    text = message(CITYSCAPES, VOC)
    assert f"DETECTRON2_DATASETS is '{tmp_path}/nowhere'" in text
    assert f"{tmp_path}/nowhere/cityscapes/leftImg8bit/train does not exist" in text
    assert "gtFine/{train,val,test}/<city>/" in text
    assert "ImageSets/Segmentation/train.txt does not exist" in text
    assert "SegmentationClass/<image id>.png" in text


def test_unset_variable_is_said(
    tmp_path: Path, catalogues: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    monkeypatch.chdir(tmp_path)
    register_datasets()
    text = message(CITYSCAPES)
    assert f"DETECTRON2_DATASETS is not set, so ./datasets in {tmp_path}" in text
    assert f"{tmp_path}/datasets/cityscapes/leftImg8bit/train does not exist" in text


def test_variable_set_too_late_is_said(registered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", "/new")
    text = message("coco_2017_val")
    assert (
        "instances_val2017.json does not exist (not under /new: set DETECTRON2_DATASETS ear" in text
    )


def test_missing_train_ids_name_the_command(copy: Path) -> None:
    for path in copy.glob("cityscapes/gtFine/train/*/*_labelTrainIds.png"):
        path.unlink()
    text = message(CITYSCAPES)
    assert "3 of 3 *_gtFine_labelTrainIds.png missing" in text
    assert f"CITYSCAPES_DATASET={copy}/cityscapes python -m cityscapesscripts.preparation." in text
    check_datasets(["cityscapes_fine_instance_seg_train", "cityscapes_fine_sem_seg_val"])


def test_command_that_is_named_makes_the_missing_files(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cityscapesscripts.preparation import createTrainIdLabelImgs

    before = {p: p.read_bytes() for p in copy.glob("cityscapes/gtFine/*/*/*_labelTrainIds.png")}
    for path in before:
        path.unlink()
    monkeypatch.setenv("CITYSCAPES_DATASET", str(copy / "cityscapes"))
    createTrainIdLabelImgs.main()
    check_datasets([CITYSCAPES])
    assert {path: path.read_bytes() for path in before} == before


def test_one_missing_file_is_named(copy: Path) -> None:
    file = next(copy.glob("cityscapes/gtFine/train/*/*_instanceIds.png"))
    file.unlink()
    assert f"1 of 3 *_gtFine_instanceIds.png missing, first {file}" in message(CITYSCAPES)


def test_foreign_file_is_named(copy: Path) -> None:
    file = copy / "cityscapes/leftImg8bit/train/small/.DS_Store"
    file.touch()
    assert f"{file} is in the way" in message(CITYSCAPES)


def test_empty_data_sets_are_found(copy: Path) -> None:
    shutil.rmtree(copy / "cityscapes/leftImg8bit/train/small")
    for path in copy.glob("cityscapes/leftImg8bit/train/*/*"):
        path.unlink()
    (copy / "VOC2012/ImageSets/Segmentation/train.txt").write_text("")
    text = message(CITYSCAPES, VOC)
    assert f"- {CITYSCAPES}: is empty" in text and f"- {VOC}: is empty" in text


def test_missing_voc_label_is_named(copy: Path) -> None:
    file = copy / "VOC2012/SegmentationClass/small_train_000001.png"
    file.unlink()
    assert f"1 of 3 files of SegmentationClass missing, first {file}" in message(VOC)


def test_unknown_name_gets_similar_ones(registered: Path) -> None:
    text = message("cityscapes_fine_semseg_train", "qqq")
    assert "did you mean cityscapes_fine_sem_seg_train or" in text
    assert "- qqq: no data set of this name is registered; own data sets go into" in text


def test_custom_data_that_vanished_are_found(copy: Path) -> None:
    images, labels = copy / "images", copy / "labels"
    for folder, array in ((images, np.zeros((4, 4, 3))), (labels, np.zeros((4, 4)))):
        folder.mkdir()
        Image.fromarray(array.astype(np.uint8)).save(folder / "a.png")
    entry = {"name": "own", "type": "sem_seg", "images": "images", "labels": "labels"}
    register_custom_datasets([{**entry, "classes": ["road"]}])
    check_datasets(["own"])
    (labels / "a.png").unlink()
    assert "- own: 1 of 1 images without label" in message("own")
    shutil.rmtree(labels)
    assert f"- own: labels is no folder: {labels} (DETECTRON2_DATASETS is" in message("own")


def test_empty_data_set_of_another_program_is_found(catalogues: None) -> None:
    from detectron2.data import DatasetCatalog

    DatasetCatalog.register("hollow", list)
    assert "- hollow: is empty" in message("hollow")


@pytest.fixture
def coco(tmp_path: Path, catalogues: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One image of COCO's categories, with a box and a label map; tests change the file."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    register_datasets()
    folder = tmp_path / "coco"
    for name in ("annotations", "val2017", "panoptic_val2017", "panoptic_stuff_val2017"):
        (folder / name).mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "val2017/1.jpg")
    Image.new("L", (8, 8)).save(folder / "panoptic_stuff_val2017/1.png")
    (folder / "annotations/panoptic_val2017.json").write_text("{}")
    write(folder)
    return folder


def write(folder: Path, *, categories: int = 80, box: tuple = (0, 0, 4, 4)) -> None:
    metadata = MetadataCatalog.get(COCO)
    ids = list(metadata.thing_dataset_id_to_contiguous_id)[:categories]
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": box, "area": 1, "iscrowd": 0}
    content = {
        "images": [{"id": 1, "file_name": "1.jpg", "width": 8, "height": 8}],
        "categories": [{"id": i, "name": n} for i, n in zip(ids, metadata.thing_classes)],
        "annotations": [annotation],
    }
    text = json.dumps(content)
    (folder / "annotations/instances_val2017.json").write_text(text)


def test_released_coco_passes(coco: Path) -> None:
    check_datasets([COCO, PANOPTIC, "coco_2017_val_panoptic"])


def test_missing_keypoint_file_comes_with_the_tree(coco: Path) -> None:
    text = message("keypoints_coco_2017_val")
    assert "person_keypoints_val2017.json does not exist" in text
    assert "annotations/{instances,person_keypoints,panoptic}_{train,val}2017.json" in text


def test_empty_box_is_logged_for_released_data_and_refused_elsewhere(
    coco: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(coco, box=(1, 1, 0, 4))
    monkeypatch.setattr(logging.getLogger("dynamic_routing"), "propagate", True)
    with caplog.at_level(logging.WARNING):
        check_datasets([COCO])
    (record,) = caplog.records
    assert "coco_2017_val: 1 odd annotations" in record.getMessage()
    assert "annotation 1 ('1.jpg'): bbox [1, 1, 0, 4] is empty" in record.getMessage()
    path = str(coco / "annotations/instances_val2017.json")
    register_coco_instances("own", {}, path, str(coco / "val2017"))
    assert f"- own: {path} annotation 1 ('1.jpg'): bbox" in message("own")


def test_broken_box_is_refused_in_released_data_as_well(coco: Path) -> None:
    write(coco, box=(1, 1, -2, 4))
    assert "bbox [1, 1, -2, 4] is empty; width and height must be above 0" in message(COCO)


def test_other_categories_than_registered_are_refused(coco: Path) -> None:
    write(coco, categories=79)
    text = message(COCO)
    assert "has 79 categories, whose names are not those of the 80 that coco_2017_val" in text


def test_first_other_category_is_named(coco: Path) -> None:
    path = coco / "annotations/instances_val2017.json"
    path.write_text(path.read_text().replace('"car"', '"cart"'))
    assert "the first other is 'cart' for 'car'" in message(COCO)


def test_image_without_label_map_is_named(coco: Path) -> None:
    file = coco / "panoptic_stuff_val2017/1.png"
    file.unlink()
    assert f"1 of 1 label maps missing, first {file}" in message(PANOPTIC)
    check_datasets([COCO])


def test_panoptic_images_are_jpegs_side_by_side(coco: Path) -> None:
    path = coco / "annotations/instances_val2017.json"
    path.write_text(path.read_text().replace("1.jpg", "1.png"))
    Image.new("RGB", (8, 8)).save(coco / "val2017/1.png")
    assert "1 images are no <name>.jpg beside each other, first 1.png" in message(PANOPTIC)
