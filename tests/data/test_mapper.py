"""Reading label maps, in training and in evaluation."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.data import transforms as T
from detectron2.evaluation import SemSegEvaluator
from PIL import Image

from dynamic_routing.data.augmentation import build_sem_seg_augmentations
from dynamic_routing.data.mapper import SemSegDatasetMapper, load_label_map
from dynamic_routing.data.voc import save_palette_png

LABELS = np.array([[0, 1, 2], [15, 20, 255]], dtype=np.uint8)


def make_mapper(cls: type[DatasetMapper] = SemSegDatasetMapper, **changes) -> DatasetMapper:
    options = {"is_train": True, "augmentations": [], "image_format": "BGR", **changes}
    return cls(**options)


@pytest.fixture
def record(tmp_path: Path) -> dict:
    """A picture of 2 x 3 pixels whose labels are a palette PNG."""
    Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(tmp_path / "image.png")
    save_palette_png(tmp_path / "label.png", LABELS)
    return {
        "file_name": str(tmp_path / "image.png"),
        "sem_seg_file_name": str(tmp_path / "label.png"),
        "image_id": "a",
    }


def test_palette_labels_are_read_as_indices(record: dict) -> None:
    assert torch.equal(make_mapper()(record)["sem_seg"], torch.as_tensor(LABELS.astype("long")))


def test_mapper_of_detectron2_reads_the_brightness_instead(record: dict) -> None:
    """The pitfall itself; once this fails, SemSegDatasetMapper is no longer needed."""
    read = make_mapper(DatasetMapper)(record)["sem_seg"]
    assert read[0, 1] == 38  # 0.299 * 128: class 1 of VOC is dark red


@pytest.mark.parametrize("is_train", [True, False])
def test_grey_labels_give_what_detectron2_gives(registered: Path, is_train: bool) -> None:
    for record in DatasetCatalog.get("cityscapes_fine_sem_seg_val"):
        own = make_mapper(is_train=is_train)(record)
        theirs = make_mapper(DatasetMapper, is_train=is_train)(record)
        assert own.keys() == theirs.keys()
        assert torch.equal(own["sem_seg"], theirs["sem_seg"])
        assert torch.equal(own["image"], theirs["image"])


def test_record_is_not_changed(record: dict) -> None:
    before = dict(record)
    make_mapper()(record)
    assert record == before


def test_instances_are_kept_in_training_and_dropped_in_testing(record: dict) -> None:
    box = {"bbox": [0, 0, 2, 1], "bbox_mode": 0, "category_id": 3}
    record["annotations"] = [box, {**box, "iscrowd": 1}]
    assert make_mapper()(record)["instances"].gt_classes.tolist() == [3]
    assert "annotations" not in make_mapper(is_train=False)(record)


def test_image_of_ignored_pixels_alone_still_gives_a_dictionary(record: dict) -> None:
    Path(record["sem_seg_file_name"]).unlink()
    save_palette_png(Path(record["sem_seg_file_name"]), np.full((2, 3), 255, np.uint8))
    augmentations = build_sem_seg_augmentations(train=True, crop_size=(8, 8))
    mapped = make_mapper(augmentations=augmentations)(record)
    assert mapped["image"].shape == (3, 8, 8)
    assert mapped["sem_seg"].unique().tolist() == [255]


def test_record_without_labels_passes(record: dict) -> None:
    del record["sem_seg_file_name"]
    assert "sem_seg" not in make_mapper()(record)


def test_labels_of_another_size_are_refused(record: dict, tmp_path: Path) -> None:
    save_palette_png(tmp_path / "label.png", LABELS.T.copy())
    with pytest.raises(
        ValueError, match=r"label.png is \(3, 2\), but image .*image.png is \(2, 3\)"
    ):
        make_mapper()(record)


def test_colour_labels_are_refused_by_name(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "colour.png")
    with pytest.raises(ValueError, match="colour.png must hold one class index.* RGB"):
        load_label_map(str(tmp_path / "colour.png"))


def test_16_bit_labels_are_read_and_never_wrapped(tmp_path: Path) -> None:
    Image.fromarray(np.array([[7, 300]], np.uint16)).save(tmp_path / "deep.png")
    assert load_label_map(str(tmp_path / "deep.png"), np.int64).tolist() == [[7, 300]]
    with pytest.raises(ValueError, match="holds 300, which uint8"):
        load_label_map(str(tmp_path / "deep.png"))


def test_label_map_is_writable(record: dict) -> None:
    labels = load_label_map(record["sem_seg_file_name"], dtype=int)
    assert labels.flags.writeable and labels.dtype == np.int64


def test_perfect_prediction_scores_100_on_palette_labels(registered: Path) -> None:
    evaluator = SemSegEvaluator(
        "voc_2012_sem_seg_val", distributed=False, sem_seg_loading_fn=load_label_map
    )
    evaluator.reset()
    for record in DatasetCatalog.get("voc_2012_sem_seg_val"):
        labels = torch.as_tensor(load_label_map(record["sem_seg_file_name"], np.int64))
        labels[labels == 255] = 0
        scores = torch.nn.functional.one_hot(labels, 21).permute(2, 0, 1).float()
        evaluator.process([record], [{"sem_seg": scores}])
    assert evaluator.evaluate()["sem_seg"]["mIoU"] == pytest.approx(100.0)


def test_mapper_works_from_detectron2s_config(registered: Path) -> None:
    from detectron2.config import get_cfg

    mapper = SemSegDatasetMapper(get_cfg(), True, augmentations=[T.RandomFlip(prob=1.0)])
    record = DatasetCatalog.get("voc_2012_sem_seg_train")[0]
    flipped = mapper(record)["sem_seg"].flip(1)
    assert np.array_equal(flipped.numpy(), load_label_map(record["sem_seg_file_name"]))
