"""Data sets that do not fit the model or each other are refused before anything is built."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from PIL import Image
from torch.utils.data import DataLoader

from dynamic_routing.data.checks import DatasetError
from dynamic_routing.data.custom import register_custom_datasets
from dynamic_routing.data.detection_mapper import DetectionDatasetMapper
from dynamic_routing.data.images import ImageError
from dynamic_routing.data.mapper import SemSegDatasetMapper
from dynamic_routing.engine import loaders
from dynamic_routing.engine.dataset_checks import check_fit
from dynamic_routing.engine.loaders import build_mapper, prepare_datasets, worker_message
from tests.modeling.builders import small_config
from tests.modeling.detectors import KEYPOINT, MASK, PANOPTIC, RETINA, small_detector_config

NAMES = ["dog", "cat", "cow"]
POLYGON = [[0, 0, 4, 0, 4, 4]]
RUN_LENGTHS = {"size": [8, 8], "counts": [0, 4, 60]}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Below DETECTRON2_DATASETS, an image; the catalogues are put back."""
    saved = dict(DatasetCatalog.data), dict(MetadataCatalog.data)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    yield tmp_path
    DatasetCatalog.data, MetadataCatalog.data = saved


def add(folder: Path, name: str = "own", *, names: list[str] = NAMES, **values: Any) -> str:
    """Register one image with one object; ``values`` are its own."""
    annotation = {"id": 4, "image_id": 1, "category_id": 0, "bbox": [0, 0, 4, 4], "area": 16}
    content = {
        "images": [{"id": 1, "file_name": "1.png", "width": 8, "height": 8}],
        "categories": [{"id": i, "name": n} for i, n in enumerate(names)],
        "annotations": [{**annotation, "iscrowd": 0, "segmentation": POLYGON, **values}],
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content))
    register_coco_instances(name, {}, str(path), str(folder))
    return name


def config(*overrides: Any, train: tuple = ("own",), test: tuple = ()) -> Any:
    return small_detector_config("DATASETS.TRAIN", train, "DATASETS.TEST", test, *overrides)


def refusal(cfg: Any) -> str:
    with pytest.raises(DatasetError) as caught:
        check_fit(cfg)
    return str(caught.value)


def test_fitting_data_sets_pass(folder: Path) -> None:
    add(folder)
    add(folder, "other")
    for overrides in ((), MASK, RETINA):
        check_fit(config(*overrides, train=("own", "other"), test=("other",)))
        prepare_datasets(config(*overrides, test=("other",)))


@pytest.mark.parametrize(
    ("overrides", "key"), [((), "ROI_HEADS"), (MASK, "ROI_HEADS"), (RETINA, "RETINANET")]
)
def test_number_of_classes_is_that_of_the_head(folder: Path, overrides: tuple, key: str) -> None:
    add(folder, names=NAMES[:2])
    expected = f"data set own has 2 classes, MODEL.{key}.NUM_CLASSES is 3"
    assert refusal(config(*overrides)) == expected
    with pytest.raises(DatasetError, match=expected):
        prepare_datasets(config(*overrides))
    check_fit(config(*overrides, f"MODEL.{key}.NUM_CLASSES", 2))


def test_builtin_names_are_compared_without_their_files() -> None:
    assert refusal(config(train=("voc_2007_train",))) == (
        "data set voc_2007_train has 20 classes, MODEL.ROI_HEADS.NUM_CLASSES is 3"
    )


@pytest.mark.parametrize("role", ["train", "test"])
def test_classes_of_a_run_are_the_same_in_the_same_order(folder: Path, role: str) -> None:
    add(folder)
    add(folder, "other", names=["dog", "cow", "cat"])
    names = {"train": ("own", "other")} if role == "train" else {"test": ("other",)}
    assert refusal(config(**names)) == (
        "data sets own and other of one run have other thing_classes: 'cat' is 'cow' there"
    )


def test_masks_need_segmentations(folder: Path) -> None:
    add(folder, segmentation=[])
    check_fit(config())
    text = refusal(config(*MASK))
    assert text == "data set own: annotation 4 has no segmentation, which MODEL.MASK_ON needs"
    assert refusal(config(*MASK, train=(), test=("own",))) == text


def test_run_lengths_need_bitmasks_in_training(folder: Path) -> None:
    add(folder, segmentation=RUN_LENGTHS)
    assert refusal(config(*MASK)).endswith("of polygons; set INPUT.MASK_FORMAT bitmask")
    check_fit(config(*MASK, "INPUT.MASK_FORMAT", "bitmask"))
    check_fit(config(*MASK, train=(), test=("own",)))


def test_training_needs_something_to_learn(folder: Path) -> None:
    add(folder, iscrowd=1, segmentation=RUN_LENGTHS)
    assert refusal(config()) == "data set own has no annotation to train on (crowds are none)"
    check_fit(config(train=(), test=("own",)))


def with_keypoints(folder: Path) -> None:
    """A registered data set of two keypoints and one class."""
    add(folder, "unused", names=NAMES[:1], keypoints=[1, 1, 2, 2, 2, 1], num_keypoints=2)
    entry = {"name": "own", "type": "coco", "json": "unused.json", "images": "."}
    pairs = {"keypoint_names": ["l", "r"], "keypoint_flip_map": [["l", "r"]]}
    register_custom_datasets([{**entry, **pairs}])


def test_keypoints_fit_head_and_sigmas(folder: Path) -> None:
    with_keypoints(folder)
    head = (*KEYPOINT, "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS")
    sigmas = "TEST.KEYPOINT_OKS_SIGMAS"
    assert refusal(config(*head, 17)) == (
        "data set own has 2 keypoints, MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS is 17"
    )
    check_fit(config(*head, 2))
    text = refusal(config(*head, 2, train=(), test=("own",)))
    assert text.startswith("data set own has 2 keypoints, TEST.KEYPOINT_OKS_SIGMAS 0 values")
    check_fit(config(*head, 2, sigmas, [0.1, 0.1], test=("own",)))


def test_keypoint_head_needs_keypoints(folder: Path) -> None:
    add(folder, names=NAMES[:1])
    text = refusal(config(*KEYPOINT))
    assert text == "data set own has no keypoint_names, which MODEL.KEYPOINT_ON needs"


def test_panoptic_needs_both_kinds_of_classes() -> None:
    names = {"train": ("coco_2017_train_panoptic_separated",)}
    things, stuff = "MODEL.ROI_HEADS.NUM_CLASSES", "MODEL.SEM_SEG_HEAD.NUM_CLASSES"
    lines = refusal(config(*PANOPTIC, things, 79, stuff, 53, **names)).splitlines()
    assert [line.split(" has ")[1] for line in lines[:2]] == [
        "80 classes, MODEL.ROI_HEADS.NUM_CLASSES is 79",
        "54 classes, MODEL.SEM_SEG_HEAD.NUM_CLASSES is 53",
    ]


@pytest.mark.parametrize(
    ("overrides", "name", "lacking"),
    [
        ((), "cityscapes_fine_sem_seg_train", "boxes"),
        (RETINA, "coco_2017_val_panoptic_stuffonly", "boxes"),
        (PANOPTIC, "coco_2017_train", "label maps"),
        (PANOPTIC, "cityscapes_fine_instance_seg_train", "label maps"),
        (PANOPTIC, "coco_2017_train_panoptic", "separate label maps"),
    ],
)
def test_data_set_of_another_task_is_refused(overrides: tuple, name: str, lacking: str) -> None:
    text = refusal(config(*overrides, train=(name,)))
    assert f"data set {name} has no {lacking}" in text and "META_ARCHITECTURE" in text


def test_segmentation_needs_label_maps(folder: Path) -> None:
    add(folder)
    text = refusal(small_config("DATASETS.TRAIN", ("own",), "DATASETS.TEST", ()))
    assert text.startswith("data set own has no label maps, which MODEL.META_ARCHITECTURE Dyn")


def test_broken_file_stops_a_program_at_its_start(folder: Path) -> None:
    add(folder, bbox=[0, 0, 4, -4])
    with pytest.raises(DatasetError, match=r"own.json annotation 4 \('1.png'\): bbox"):
        prepare_datasets(config())


def test_each_task_gets_its_mapper(folder: Path) -> None:
    add(folder)
    for train in (True, False):
        assert type(build_mapper(config(), "own", train=train)) is DetectionDatasetMapper
        sem_seg = build_mapper(small_config(), "cityscapes_fine_sem_seg_val", train=train)
        assert type(sem_seg) is SemSegDatasetMapper


class Broken(torch.utils.data.Dataset):
    """Every item raises, with a cause, as the mappers do."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> None:
        try:
            raise KeyError("deep\ninside")
        except KeyError as error:
            raise ImageError("image a.png cannot be read: it: broke") from error


def test_error_in_a_worker_is_its_own_message() -> None:
    with pytest.raises(ValueError) as caught:
        list(DataLoader(Broken(), num_workers=1))
    assert "Traceback" in str(caught.value)
    assert worker_message(caught.value) == "image a.png cannot be read: it: broke"


@pytest.mark.parametrize("text", ["", "a\nb", "Caught a cold", "x: y"])
def test_other_messages_stay_as_they_are(text: str) -> None:
    assert worker_message(ValueError(text)) == text


@pytest.mark.slow
def test_broken_image_names_itself_through_the_training_loader(folder: Path) -> None:
    add(folder)
    cfg = config("DATALOADER.NUM_WORKERS", 1, "SOLVER.IMS_PER_BATCH", 1)
    (folder / "1.png").write_bytes(b"x")
    with pytest.raises(ValueError) as caught:
        next(iter(loaders.build_train_loader(cfg)))
    expected = f"image {folder}/1.png cannot be read: no image, or a damaged one"
    assert worker_message(caught.value) == expected
