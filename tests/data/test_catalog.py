"""Where data sets are looked for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import dynamic_routing.data as data
from dynamic_routing.data.catalog import datasets_root, register_datasets


def test_root_is_read_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", "/somewhere")
    assert datasets_root() == Path("/somewhere")
    monkeypatch.delenv("DETECTRON2_DATASETS")
    assert datasets_root() == Path("datasets")


def test_names_of_detectron2_follow_a_variable_that_is_set_late(registered: Path) -> None:
    from detectron2.data import DatasetCatalog, MetadataCatalog

    assert len(DatasetCatalog.get("cityscapes_fine_sem_seg_train")) == 3
    assert len(DatasetCatalog.get("voc_2012_val")) == 3
    coco = MetadataCatalog.get("coco_2017_train")
    assert coco.json_file == f"{registered}/coco/annotations/instances_train2017.json"
    metadata = MetadataCatalog.get("cityscapes_fine_sem_seg_train")
    assert metadata.evaluator_type == "cityscapes_sem_seg"
    register_datasets()
    assert MetadataCatalog.get("cityscapes_fine_sem_seg_train") is metadata


def test_names_of_the_user_stay_when_the_root_moves(catalogues: None, tmp_path: Path) -> None:
    from detectron2.data import DatasetCatalog, MetadataCatalog

    before = set(DatasetCatalog)
    DatasetCatalog.register("coco_of_mine", list)
    MetadataCatalog.get("coco_of_mine").set(image_root="here")
    register_datasets(tmp_path)
    assert MetadataCatalog.get("coco_of_mine").image_root == "here"
    splits = {f"voc_2012_sem_seg_{split}" for split in ("train", "val", "trainval")}
    assert set(DatasetCatalog) - before - splits - {"imagenet_train", "imagenet_val"} == {
        "coco_of_mine"
    }


def test_every_public_name_can_be_imported() -> None:
    for name in data.__all__:
        assert getattr(data, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        data.nonsense  # noqa: B018


def test_generators_do_not_import_detectron2(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from dynamic_routing.data import generate_cityscapes, generate_coco, generate_voc\n"
        f"generate_cityscapes({str(tmp_path)!r}, counts={{'train': 1}}, size=(32, 32))\n"
        f"generate_coco({str(tmp_path)!r}, counts={{'train': 1}}, size=(64, 96))\n"
        f"generate_voc({str(tmp_path)!r}, counts={{'train': 1}}, size=(32, 32))\n"
        "assert 'detectron2' not in sys.modules and 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ))
