"""Class names: the data set's own where they fit, numbers where they do not, files never."""

from __future__ import annotations

import logging

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from dynamic_routing.evaluation.class_names import ClassNames, predicted_classes
from dynamic_routing.modeling.config import ConfigError
from tests.modeling.builders import CONFIGS, small_config
from tests.modeling.detectors import KEYPOINT, PANOPTIC, RETINA, small_detector_config

NINETEEN = ("MODEL.SEM_SEG_HEAD.NUM_CLASSES", "19")


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """Data sets that are registered, but not there."""
    saved = dict(DatasetCatalog.data), dict(MetadataCatalog.data)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "none"))
    yield
    DatasetCatalog.data, MetadataCatalog.data = saved


def own(cfg, **entry):
    """The config with a data set of one's own, whose files do not exist."""
    cfg.DATASETS.CUSTOM = [{"name": "mine", "images": "/none", **entry}]
    cfg.DATASETS.TEST = ("mine",)
    return cfg


def test_cityscapes_names_and_colours_need_no_files():
    classes = predicted_classes(small_config(*NINETEEN))
    assert classes.num_stuff == 19 and classes.num_things == 0
    assert classes.stuff.name(0) == "road" and classes.stuff.colour(0) == (128, 64, 128)


def test_coco_has_its_own_category_ids():
    cfg = small_detector_config("MODEL.ROI_HEADS.NUM_CLASSES", "80")
    cfg.DATASETS.TEST = ("coco_2017_val",)
    things = predicted_classes(cfg).things
    expected = [(c["id"], c["name"]) for c in COCO_CATEGORIES if c["isthing"]]
    assert [(c["id"], c["name"]) for c in things.categories(80)] == expected


def test_keypoint_data_set_has_the_id_of_persons_and_its_skeleton():
    cfg = small_detector_config(*KEYPOINT)
    classes = predicted_classes(cfg, "keypoints_coco_2017_val")
    assert classes.things.categories(1) == [{"id": 1, "name": "person"}]
    assert len(classes.keypoints["keypoint_names"]) == 17


@pytest.mark.parametrize(
    ("overrides", "things", "stuff"), [((), 3, 0), (RETINA, 3, 0), (PANOPTIC, 3, 4)]
)
def test_classes_are_counted_where_the_model_reads_them(overrides, things, stuff):
    cfg = small_detector_config(*overrides)
    cfg.DATASETS.TEST = ()
    classes = predicted_classes(cfg)
    assert (classes.num_things, classes.num_stuff) == (things, stuff)
    assert classes.things.categories(2) == [
        {"id": 0, "name": "class 0"},
        {"id": 1, "name": "class 1"},
    ]


def test_data_set_of_ones_own_is_named_by_the_config():
    cfg = own(small_config("MODEL.SEM_SEG_HEAD.NUM_CLASSES", "2"), type="sem_seg", labels="/none",
              classes=["soil", "ripe tomato"], colors=[[1, 2, 3], [4, 5, 6]])  # fmt: skip
    stuff = predicted_classes(cfg).stuff
    assert [stuff.name(i) for i in range(3)] == ["soil", "ripe tomato", "class 2"]
    assert [stuff.colour(i) for i in range(2)] == [(1, 2, 3), (4, 5, 6)]
    things = predicted_classes(
        own(small_detector_config(), type="coco", json="/none", classes=["a", "b", "c"])
    ).things
    assert [things.name(i) for i in range(3)] == ["a", "b", "c"] and not things.dataset_ids
    assert "mine" not in DatasetCatalog


def test_own_keypoints_are_named_by_the_config():
    cfg = own(small_detector_config(), type="coco", json="/none", keypoint_names=["tip", "end"])
    assert predicted_classes(cfg).keypoints == {"keypoint_names": ["tip", "end"]}


def test_own_data_set_without_classes_has_numbers():
    things = predicted_classes(own(small_detector_config(), type="coco", json="/none")).things
    assert things.name(2) == "class 2" and things.category_id(2) == 2


def test_names_of_another_number_of_classes_are_left_aside_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        classes = predicted_classes(small_config())  # five classes on Cityscapes
    assert classes.stuff.name(0) == "class 0"
    assert "cityscapes_fine_sem_seg_val has 19 stuff classes, the model 5" in caplog.text


def test_another_data_set_can_be_named_and_must_exist():
    cfg = small_config("MODEL.SEM_SEG_HEAD.NUM_CLASSES", "21")
    assert predicted_classes(cfg, "voc_2012_sem_seg_val").stuff.name(15) == "person"
    with pytest.raises(ConfigError, match=r"no data set voc_2012_sem_seg_vall.*mean voc_2012"):
        predicted_classes(cfg, "voc_2012_sem_seg_vall")


def test_unregistered_data_set_of_the_config_has_numbers():
    cfg = small_config()
    cfg.DATASETS.TEST = ("gone",)
    assert predicted_classes(cfg).stuff.name(1) == "class 1"


def test_colours_of_nameless_classes_differ():
    names = ClassNames()
    assert len({names.colour(i) for i in range(40)}) == 40


@pytest.mark.parametrize("path", sorted((CONFIGS / "COCO-PanopticSegmentation").glob("*.yaml")))
def test_panoptic_configs_have_names_for_things_and_stuff(path):
    from dynamic_routing.modeling import get_config

    classes = predicted_classes(get_config(path))
    assert classes.things.name(0) == "person" and classes.stuff.name(1) == "banner"
    assert classes.stuff.category_id(1) == 92
