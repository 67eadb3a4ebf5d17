"""Pictures of single images: which are chosen, in which colours, and that they are drawn."""

from __future__ import annotations

from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES
from PIL import Image

from dynamic_routing.data.catalog import register_datasets
from dynamic_routing.data.cityscapes import generate_cityscapes
from dynamic_routing.data.custom import register_custom_datasets
from dynamic_routing.engine.loaders import build_mapper
from dynamic_routing.evaluation import examples
from dynamic_routing.evaluation.examples import (
    Example,
    class_palette,
    draw_example,
    easy_and_hard,
    spread_colour,
)
from tests.modeling.builders import small_config, small_model

VAL = "cityscapes_fine_sem_seg_val"
NATIVE = (96, 192)
TEST_SIZE = ("INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "128")
CLASSES = ("MODEL.SEM_SEG_HEAD.NUM_CLASSES", "19")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Generated street scenes, registered while this module runs."""
    folder = tmp_path_factory.mktemp("datasets")
    generate_cityscapes(folder, counts={"train": 1, "val": 3}, size=NATIVE, seed=1)
    saved = dict(DatasetCatalog.data), dict(MetadataCatalog.data)
    register_datasets(folder)
    yield folder
    DatasetCatalog.data, MetadataCatalog.data = saved


def gates(costs):
    names = tuple(f"folder/{i}.png" for i in range(len(costs)))
    return SimpleNamespace(costs={"gmacs": np.array(costs)}, file_names=names)


@pytest.mark.parametrize(
    ("costs", "easy", "hard"), [([2.0, 1.5, 3.25], 1, 2), ([3.0, 1.0], 1, 0), ([1.0], 0, 0)]
)
def test_cheapest_image_is_easy_and_dearest_hard(costs, easy, hard):
    first, second = easy_and_hard(gates(costs))
    assert (first.name, second.name) == ("easy", "hard")
    assert first.file_name == f"folder/{easy}.png" and second.file_name == f"folder/{hard}.png"
    assert f"{costs[easy]:.4g} GMACs" in first.caption
    assert f"{costs[hard]:.4g} GMACs" in second.caption


def test_palette_of_cityscapes_is_the_official_one(root):
    palette = class_palette(VAL)
    known = [(c["name"], tuple(c["color"])) for c in CITYSCAPES_CATEGORIES if c["trainId"] < 19]
    assert len(palette.names) == 19
    assert list(zip(palette.names, palette.colours)) == known


def folder_dataset(folder, name, **options):
    """A registered data set of one image with three classes."""
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
    Image.fromarray(np.full((64, 96, 3), 90, np.uint8)).save(folder / "images" / "a.png")
    Image.fromarray(np.full((64, 96), 2, np.uint8)).save(folder / "labels" / "a.png")
    entry = {
        "name": name,
        "type": "sem_seg",
        "images": str(folder / "images"),
        "labels": str(folder / "labels"),
        "classes": ["soil", "road", "ripe tomato"],
        **options,
    }
    register_custom_datasets([entry])


def test_palette_of_a_data_set_of_ones_own(root, tmp_path):
    folder_dataset(tmp_path, "tomatoes")
    palette = class_palette("tomatoes")
    assert palette.names == ("soil", "road", "ripe tomato")
    road = next(tuple(c["color"]) for c in CITYSCAPES_CATEGORIES if c["name"] == "road")
    assert palette.colours == (spread_colour(0), road, spread_colour(2))


def test_colours_of_ones_own_come_first(root, tmp_path):
    colours = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    folder_dataset(tmp_path, "coloured", colors=colours)
    assert class_palette("coloured").colours == ((1, 2, 3), (4, 5, 6), (7, 8, 9))


def test_spread_colours_differ():
    colours = [spread_colour(i) for i in range(50)]
    assert len(set(colours)) == 50
    assert all(0 <= value <= 255 for colour in colours for value in colour)
    apart = [sum(abs(a - b) for a, b in zip(one, two)) for one, two in zip(colours, colours[1:])]
    assert min(apart) > 60


def draw(folder, file_name, *, model, name=VAL):
    cfg = small_config(*TEST_SIZE, *CLASSES)
    return draw_example(
        Example("easy", "Easy: 1 < 2", file_name),
        model=model,
        mapper=build_mapper(cfg, name, train=False),
        dataset_name=name,
        folder=folder,
    )


@pytest.mark.slow
def test_example_is_drawn_at_its_native_size(root, tmp_path):
    record = DatasetCatalog.get(VAL)[1]
    model = small_model(*CLASSES, seed=3).train()
    with mock.patch.object(examples, "route_panel", wraps=examples.route_panel) as panel:
        path = draw(tmp_path / "pictures", record["file_name"], model=model)
    assert path == tmp_path / "pictures" / "easy.png"
    with Image.open(path) as picture:
        assert picture.format == "PNG" and min(picture.size) > 300
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 20
    shown = panel.call_args.kwargs
    assert shown["image"].shape == (*NATIVE, 3)
    assert shown["prediction"].shape == shown["truth"].shape == NATIVE
    with Image.open(record["file_name"]) as image:
        assert np.array_equal(shown["image"], np.asarray(image.convert("RGB")))
    with Image.open(record["sem_seg_file_name"]) as truth:
        assert np.array_equal(shown["truth"], np.asarray(truth))
    assert shown["title"] == "Easy: 1 < 2" and len(shown["routes"]) == 1


def test_example_shows_what_the_model_says_of_that_image(root, tmp_path):
    record = DatasetCatalog.get(VAL)[2]
    model = small_model(*CLASSES, seed=3)
    with mock.patch.object(examples, "route_panel") as panel:
        draw(tmp_path, record["file_name"], model=model)
    shown = panel.call_args.kwargs
    inputs = build_mapper(small_config(*TEST_SIZE, *CLASSES), VAL, train=False)(record)
    assert inputs["image"].shape == (3, 64, 128)
    with torch.no_grad():
        output = model.eval()([inputs])[0]
    assert np.array_equal(shown["prediction"], output["sem_seg"].argmax(0).numpy())
    assert torch.equal(shown["routes"].gates, output["routes"].gates)
    assert shown["routes"].space == model.backbone.network.space


def test_example_of_a_data_set_of_ones_own_is_drawn(root, tmp_path):
    folder_dataset(tmp_path, "drawn")
    (record,) = DatasetCatalog.get("drawn")
    model = small_model("MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3")
    path = draw(tmp_path / "out", record["file_name"], model=model, name="drawn")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_image_of_another_data_set_is_refused(root, tmp_path):
    with pytest.raises(ValueError, match=f"/elsewhere/a.png is not part of data set {VAL}"):
        draw(tmp_path, "/elsewhere/a.png", model=None)
