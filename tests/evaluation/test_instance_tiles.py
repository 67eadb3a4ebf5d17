"""Tiles of a detector: of one size, with every object of the truth drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import read_image

from dynamic_routing.data.catalog import register_datasets
from dynamic_routing.data.coco import generate_coco
from dynamic_routing.evaluation.instance_tiles import instance_tiles, true_instances

VAL = "coco_2017_val"


@pytest.fixture
def records(tmp_path):
    saved = dict(DatasetCatalog.data), dict(MetadataCatalog.data)
    generate_coco(tmp_path, counts={"train": 1, "val": 24}, size=(64, 96), seed=3)
    register_datasets(tmp_path)
    yield DatasetCatalog.get(VAL)
    DatasetCatalog.data, MetadataCatalog.data = saved


def test_truth_has_the_boxes_and_masks_of_the_annotations(records):
    for record in records:
        found = true_instances(record["annotations"], 64, 96)
        assert len(found) == len(record["annotations"])
        for i, annotation in enumerate(record["annotations"]):
            x, y, width, height = annotation["bbox"]
            box = torch.tensor([x, y, x + width, y + height], dtype=torch.float32)
            torch.testing.assert_close(found.pred_boxes.tensor[i], box)
            assert int(found.pred_masks[i].sum()) > 0


def test_tiles_have_one_size_and_show_what_was_found(records):
    for record in (max(records, key=lambda r: len(r["annotations"])), records[0]):
        image = read_image(record["file_name"], format="RGB")
        truth = true_instances(record["annotations"], *image.shape[:2])
        nothing = truth[torch.zeros(len(truth), dtype=torch.bool)]
        tiles = instance_tiles(image, record, truth, VAL)
        assert tiles["prediction"].shape == tiles["truth"].shape
        empty = instance_tiles(image, record, nothing, VAL)["prediction"]
        for tile in tiles.values():  # in colours of chance
            assert np.array_equal(empty, tile) == (not record["annotations"])
