"""The detection mapper: Detectron2's results, and errors that name the image."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetMapper, MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils.env import seed_all_rng
from PIL import Image
from pycocotools import mask as mask_util

from dynamic_routing.data.detection_mapper import DetectionDatasetMapper
from dynamic_routing.data.images import ImageError
from dynamic_routing.data.voc import save_palette_png

HEIGHT, WIDTH = 40, 60
CROP = ("INPUT.CROP.ENABLED", True, "INPUT.CROP.SIZE", [0.5, 0.5])


def config(*overrides: Any) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_list(
        ["INPUT.MIN_SIZE_TRAIN", (50,), "MODEL.MASK_ON", True, "MODEL.DEVICE", "cpu", *overrides]
    )
    return cfg


@pytest.fixture
def keypoints(catalogues: None) -> tuple:
    """Overrides for a data set of two mirrored keypoints."""
    MetadataCatalog.get("mapper_points").set(
        keypoint_names=["l", "r"], keypoint_flip_map=[("l", "r")]
    )
    return ("MODEL.KEYPOINT_ON", True, "DATASETS.TRAIN", ("mapper_points",))


@pytest.fixture
def record(tmp_path: Path) -> dict[str, Any]:
    """A picture with two objects, a crowd and a grey label map."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    labels = generator.integers(0, 5, (HEIGHT, WIDTH)).astype(np.uint8)
    Image.fromarray(labels).save(tmp_path / "label.png")
    boxes = [[5, 5, 30, 30], [20, 10, 55, 35], [0, 0, 9, 9]]
    return {
        "file_name": str(tmp_path / "image.png"),
        "sem_seg_file_name": str(tmp_path / "label.png"),
        "image_id": 3,
        "height": HEIGHT,
        "width": WIDTH,
        "annotations": [
            {
                "bbox": [x0, y0, x1, y1],
                "bbox_mode": BoxMode.XYXY_ABS,
                "category_id": number,
                "iscrowd": int(number == 2),
                "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]],
                "keypoints": [x0 + 1, y0 + 1, 2, x1 - 1, y1 - 1, 1],
            }
            for number, (x0, y0, x1, y1) in enumerate(boxes)
        ],
    }


def assert_same(own: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert own.keys() == theirs.keys()
    for key in ("image", "sem_seg"):
        assert torch.equal(own[key], theirs[key])
    if "instances" not in own:
        return
    mine, other = own["instances"].get_fields(), theirs["instances"].get_fields()
    assert mine.keys() == other.keys()
    assert torch.equal(mine["gt_boxes"].tensor, other["gt_boxes"].tensor)
    assert torch.equal(mine["gt_classes"], other["gt_classes"])
    masks = [fields["gt_masks"].get_bounding_boxes().tensor for fields in (mine, other)]
    assert torch.equal(*masks)
    if "gt_keypoints" in mine:
        assert torch.equal(mine["gt_keypoints"].tensor, other["gt_keypoints"].tensor)


# What Detectron2's Keypoints says once a process.
@pytest.mark.filterwarnings("ignore:Creating a tensor from a list of numpy:UserWarning")
@pytest.mark.parametrize("is_train", [True, False])
@pytest.mark.parametrize(
    "overrides", [(), CROP, ("INPUT.MASK_FORMAT", "bitmask")], ids=["plain", "crop", "bitmask"]
)
def test_results_are_detectron2s(
    record: dict, keypoints: tuple, overrides: tuple, is_train: bool
) -> None:
    cfg = config(*keypoints, *overrides)
    before = copy.deepcopy(record)
    for seed in range(6):  # with and without a flip
        results = []
        for mapper in (DetectionDatasetMapper, DatasetMapper):
            seed_all_rng(seed)
            results.append(mapper(cfg, is_train=is_train)(record))
        assert_same(*results)
    assert record == before


def test_label_maps_are_read_as_indices(record: dict) -> None:
    labels = np.full((HEIGHT, WIDTH), 1, np.uint8)
    save_palette_png(Path(record["sem_seg_file_name"]), labels)
    mapped = DetectionDatasetMapper(config(), is_train=True)(record)
    assert mapped["sem_seg"].unique().tolist() == [1]


@pytest.mark.parametrize("overrides", [(), CROP])
@pytest.mark.parametrize("kept", [0, 1])
def test_image_with_nothing_to_learn_gives_empty_instances(
    record: dict, overrides: tuple, kept: int
) -> None:
    record["annotations"] = record["annotations"][-1:] if kept else []
    mapped = DetectionDatasetMapper(config(*overrides), is_train=True)(record)
    assert len(mapped["instances"]) == 0 and "annotations" not in mapped
    assert mapped["instances"].image_size == tuple(mapped["image"].shape[1:])


def test_evaluation_needs_no_training_data(record: dict) -> None:
    cfg = config("MODEL.KEYPOINT_ON", True, "DATASETS.TRAIN", ())
    mapped = DetectionDatasetMapper(cfg, is_train=False)(record)
    assert "annotations" not in mapped and cfg.MODEL.KEYPOINT_ON


def refusal(record: dict, *overrides: Any) -> str:
    with pytest.raises(ImageError) as caught:
        DetectionDatasetMapper(config(*overrides), is_train=True)(record)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_other_size_than_declared_names_both(record: dict) -> None:
    record["width"] = 61
    text = refusal(record)
    assert f"{record['file_name']} is 60 x 40 (width x height" in text and "say 61 x 40" in text


@pytest.mark.parametrize("key", ["file_name", "sem_seg_file_name"])
@pytest.mark.parametrize("left", [0, 100])
def test_cut_file_is_named(record: dict, key: str, left: int) -> None:
    path = Path(record[key])
    path.write_bytes(path.read_bytes()[:left])
    assert f"image {path} cannot be read: " in refusal(record)


def test_label_map_of_another_size_is_named(record: dict) -> None:
    Image.new("L", (WIDTH, HEIGHT + 1)).save(record["sem_seg_file_name"])
    with pytest.raises(ValueError, match=r"label.png is \(41, 60\), but image .*image.png is"):
        DetectionDatasetMapper(config(), is_train=True)(record)


@pytest.mark.parametrize("key", ["segmentation", "keypoints"])
def test_annotations_that_do_not_fit_each_other_name_the_image(
    record: dict, keypoints: tuple, key: str
) -> None:
    del record["annotations"][1][key]
    text = refusal(record, *keypoints)
    assert f"annotations of image {record['file_name']} cannot be used: " in text


def test_run_lengths_among_polygons_name_the_image(record: dict) -> None:
    mask = np.asfortranarray(np.ones((HEIGHT, WIDTH), np.uint8))
    record["annotations"][0]["segmentation"] = mask_util.encode(mask)
    assert "annotations of image" in refusal(record, "INPUT.RANDOM_FLIP", "none")
