"""Wrong paths are found at start-up."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dynamic_routing.data.catalog import register_datasets
from dynamic_routing.data.checks import DatasetError, check_datasets
from dynamic_routing.data.custom import register_custom_datasets

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
