"""Predictions for a report: from the run's own weights, or a reason why there are none."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from dynamic_routing.analysis.report import MissingPartError
from dynamic_routing.data.catalog import register_datasets
from dynamic_routing.data.cityscapes import generate_cityscapes
from dynamic_routing.data.coco import generate_coco
from dynamic_routing.engine.checkpoint import RoutingCheckpointer
from dynamic_routing.engine.run_predictions import PredictedImages, run_images
from dynamic_routing.evaluation.run_files import read_run
from tests.modeling.builders import CONFIGS, small_config, small_model
from tests.tools.evil import Witness

VAL = "cityscapes_fine_sem_seg_val"
OVERRIDES = (
    "DATASETS.TEST", f"('{VAL}',)", "INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "128",
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "19",
)  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Generated street scenes, registered while this module runs."""
    folder = tmp_path_factory.mktemp("datasets")
    generate_cityscapes(folder, counts={"train": 1, "val": 2}, size=(64, 128), seed=1)
    saved = dict(DatasetCatalog.data), dict(MetadataCatalog.data)
    register_datasets(folder)
    yield folder
    DatasetCatalog.data, MetadataCatalog.data = saved


@pytest.fixture
def run(tmp_path, root, monkeypatch):
    """A run's folder: config and weights."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    model = small_model(*OVERRIDES, seed=0)
    RoutingCheckpointer(model, str(tmp_path)).save("model_0000009")
    (tmp_path / "config.yaml").write_text(small_config(*OVERRIDES).dump())
    return SimpleNamespace(folder=tmp_path, model=model.eval())


def names():
    return sorted(record["file_name"] for record in DatasetCatalog.get(VAL))


def test_prediction_is_that_of_the_runs_weights(run):
    images = run_images(read_run(run.folder))
    assert isinstance(images, PredictedImages) and images.reason == ""
    tiles = images.tiles(names()[0])
    assert list(tiles.tiles) == ["image", "prediction", "truth"]
    assert {tile.shape for tile in tiles.tiles.values()} == {(64, 128, 3)}
    pixels = torch.from_numpy(np.asarray(tiles.tiles["image"])[:, :, ::-1].copy())
    entry = {"image": pixels.permute(2, 0, 1).float(), "height": 64, "width": 128}
    with torch.no_grad():
        output = run.model([entry])[0]
    labels = output["sem_seg"].argmax(dim=0).numpy()
    colours = dict(tiles.legend)
    classes = MetadataCatalog.get(VAL).stuff_classes
    painted = np.array([colours.get(name, (0, 0, 0)) for name in classes])[labels]
    np.testing.assert_array_equal(tiles.tiles["prediction"], painted)
    torch.testing.assert_close(tiles.routes.gates, output["routes"].gates, atol=1e-4, rtol=0)


def test_data_that_moved_are_found_by_name(run):
    images = run_images(read_run(run.folder))
    name = names()[0]
    moved = f"/elsewhere/{name.rsplit('/', 1)[1]}"
    assert str(images.locate(moved)) == name
    assert list(images.tiles(moved).tiles) == ["image", "prediction", "truth"]
    with pytest.raises(MissingPartError, match="strange.png is not in data set"):
        images.tiles("strange.png")


def test_truth_that_is_gone_is_named_and_stops_nothing(run, monkeypatch):
    images = run_images(read_run(run.folder))
    record = images._records[names()[0]]
    monkeypatch.setitem(record, "sem_seg_file_name", "/gone/labels.png")
    with pytest.raises(MissingPartError, match="no prediction of .*/gone/labels.png"):
        images.tiles(names()[0])


def reason(run):
    found = run_images(read_run(run.folder))
    assert not isinstance(found, PredictedImages) and "\n" not in found.reason
    return found.reason


def test_missing_parts_are_the_reason(run):
    (run.folder / "model_0000009.pth").unlink()
    assert reason(run) == (
        f"{run.folder} holds no checkpoint (last_checkpoint, model_final.pth or model_best.pth)"
    )
    for name in ("voc_2012_sem_seg_val", "no_such_val"):
        cfg = small_config(*OVERRIDES, "DATASETS.TEST", f"('{name}',)")
        (run.folder / "config.yaml").write_text(cfg.dump())
        assert name in reason(run) or "VOC2012" in reason(run)
    (run.folder / "config.yaml").write_text("MODEL: 3\n")
    assert "config.yaml" in reason(run)


def test_weights_of_strangers_run_no_code(run, tmp_path):
    ran = tmp_path / "ran"
    (run.folder / "model_0000009.pth").write_bytes(pickle.dumps(Witness(ran)))
    assert "cannot be read" in reason(run)
    (run.folder / "last_checkpoint").write_text("../evil.pth")
    assert "bare file name" in reason(run)
    assert not ran.exists()


def test_weights_of_another_network_are_the_reason(run):
    other = small_config(*OVERRIDES, "MODEL.DYNAMIC_ROUTING.SPACE.NUM_LAYERS", "4")
    (run.folder / "config.yaml").write_text(other.dump())
    assert "another network" in reason(run) or "made with" in reason(run)


@pytest.mark.slow
def test_detections_are_drawn_beside_the_truth(tmp_path, monkeypatch):
    from detectron2.modeling import build_model

    from dynamic_routing.modeling import get_config

    saved = dict(DatasetCatalog.data), dict(MetadataCatalog.data)
    generate_coco(tmp_path / "data", counts={"train": 1, "val": 2}, size=(96, 128), seed=1)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "data"))
    try:
        register_datasets(tmp_path / "data")
        cfg = get_config(CONFIGS / "quick" / "divdr_a_mask_rcnn_coco_smoke.yaml")
        run = tmp_path / "run"
        RoutingCheckpointer(build_model(cfg), str(run)).save("model_final")
        (run / "config.yaml").write_text(cfg.dump())
        images = run_images(read_run(run))
        assert images.reason == ""
        name = DatasetCatalog.get(cfg.DATASETS.TEST[0])[0]["file_name"]
        tiles = images.tiles(name).tiles
        assert [tile.split(",")[0] for tile in tiles] == ["image", "prediction", "truth"]
        image, prediction, truth = tiles.values()
        assert (truth != prediction).any() and truth.shape == (360, 480, 3)
    finally:
        DatasetCatalog.data, MetadataCatalog.data = saved
