"""Samples as the network sees them: the mapper's own tensors, drawn with all their labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from matplotlib.backends.backend_agg import FigureCanvasAgg

from dynamic_routing.analysis.sample_figure import Sample, sample_figure, sample_png
from dynamic_routing.data.catalog import register_datasets
from dynamic_routing.data.cityscapes import generate_cityscapes
from dynamic_routing.engine.data_pictures import (
    MappedImage,
    draw_sample,
    mapped_images,
    seed_everything,
    shown_instances,
)
from dynamic_routing.engine.loaders import build_mapper
from dynamic_routing.modeling.config import ConfigError
from tests.modeling.builders import small_config
from tests.modeling.detectors import detection_batch

KEYPOINT_SET = "keypoints_coco_2017_val"
CROP = ("INPUT.SEM_SEG_CROP", "[48,96]")


@pytest.fixture(scope="module")
def cfg(tmp_path_factory):
    saved = dict(DatasetCatalog.data), dict(MetadataCatalog.data)
    root = tmp_path_factory.mktemp("datasets")
    generate_cityscapes(root, counts={"train": 5, "val": 2}, size=(64, 128), seed=1)
    register_datasets(root)
    yield small_config(*CROP, "INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "128")
    DatasetCatalog.data, MetadataCatalog.data = saved


def test_samples_are_the_mappers_and_the_same_for_the_same_seed(cfg):
    numpy_before, torch_before = np.random.get_state()[1].copy(), torch.get_rng_state()
    first, again, other = (
        list(mapped_images(cfg, split="train", count=3, seed=seed)) for seed in (4, 4, 5)
    )
    assert [m.seed for m in first] == [4, 5, 6]
    for a, b in zip(first, again, strict=True):
        assert a.inputs["file_name"] == b.inputs["file_name"]
        assert torch.equal(a.inputs["image"], b.inputs["image"])
        assert a.inputs["image"].shape[-2:] == a.inputs["sem_seg"].shape == (48, 96)
    assert any(not torch.equal(a.inputs["image"], b.inputs["image"]) for a, b in zip(first, other))
    assert np.array_equal(np.random.get_state()[1], numpy_before)
    assert torch.equal(torch.get_rng_state(), torch_before)
    mapper = build_mapper(cfg, cfg.DATASETS.TRAIN[0], train=True)
    record = next(r for r in DatasetCatalog.get(cfg.DATASETS.TRAIN[0])
                  if r["file_name"] == first[1].inputs["file_name"])  # fmt: skip
    seed_everything(5)
    assert torch.equal(mapper(record)["image"], first[1].inputs["image"])


def test_test_split_is_shown_whole(cfg):
    images = list(mapped_images(cfg, split="test", count=9, seed=0))
    assert len(images) == 2  # as many as there are
    assert all(m.inputs["image"].shape == (3, 64, 128) for m in images)


def test_picture_says_what_it_is_and_explains_its_colours(cfg):
    (image,) = mapped_images(cfg, split="train", count=1, seed=0)
    sample = draw_sample(image, image_format=cfg.INPUT.FORMAT)
    assert list(sample.tiles) == ["image", "label map"]
    assert "48 x 96 pixels, seed 0" in sample.title and "% ignored" in sample.title
    rgb = image.inputs["image"].numpy().transpose(1, 2, 0)
    if cfg.INPUT.FORMAT == "BGR":
        rgb = rgb[:, :, ::-1]
    shown = sample.tiles["image"]
    corners = [tuple(picture[-1, -1]) for picture in (shown, rgb)]
    assert corners[0] == corners[1]
    present = len(np.unique(image.inputs["sem_seg"]))
    assert len(sample.legend) == present
    colours = np.unique(sample.tiles["label map"].reshape(-1, 3), axis=0)
    assert len(colours) == present  # pure colours, as in the legend
    figure = sample_figure(sample)
    assert [axes.get_title() for axes in figure.axes] == ["image", "label map"]
    assert sample_png(sample, dpi=60).startswith(b"\x89PNG")


def test_boxes_masks_and_keypoints_are_drawn():
    (inputs,) = detection_batch((64, 96))
    del inputs["sem_seg"]
    inputs["image"] = inputs["image"].byte()
    saved = dict(DatasetCatalog.data), dict(MetadataCatalog.data)
    try:
        sample = draw_sample(MappedImage(KEYPOINT_SET, 3, inputs), image_format="RGB")
        truth = inputs["instances"]
        fewer = truth.get_fields()
        fewer.pop("gt_keypoints")
        bare = draw_sample(MappedImage(KEYPOINT_SET, 3, inputs), image_format="RGB")
    finally:
        DatasetCatalog.data, MetadataCatalog.data = saved
    assert "instances: 2, keypoints: 34" in sample.title and "keypoints" not in bare.title
    changed = (sample.tiles["instances"] != bare.tiles["instances"]).any(axis=-1).mean()
    assert 0.001 < changed < 0.5
    assert len(shown_instances(truth)) == 2


def test_long_title_is_wrapped_inside_the_page():
    picture = np.zeros((8, 8, 3), np.uint8)
    figure = sample_figure(Sample({"image": picture}, "word " * 40))
    FigureCanvasAgg(figure).draw()
    extent = figure._suptitle.get_window_extent()
    assert 0 <= extent.x0 < extent.x1 <= figure.bbox.width


def test_misuse_is_refused(cfg):
    with pytest.raises(ConfigError, match="DATASETS.TEST names no data set"):
        next(mapped_images(small_config("DATASETS.TEST", "()"), split="test", count=1, seed=0))
    with pytest.raises(ConfigError, match="--count must be at least 1, got 0"):
        next(mapped_images(cfg, split="train", count=0, seed=0))
    with pytest.raises(ValueError, match="at least one picture"):
        sample_figure(Sample({}, "x"))
