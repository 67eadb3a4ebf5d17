"""The predictor: as Detectron2's, for batches, and the same image by image."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.engine import DefaultPredictor
from PIL import Image

from dynamic_routing.engine.checkpoint import CheckpointError, RoutingCheckpointer
from dynamic_routing.engine.predictor import Predictor, confidence_overrides
from dynamic_routing.modeling import get_config
from dynamic_routing.modeling.config import ConfigError
from dynamic_routing.routing import PreparedNetwork, record_routes
from tests.modeling.builders import CLASSES, relative_error, small_config, small_model
from tests.modeling.detectors import DETECTORS, small_detector, small_detector_config

SIZES = ((33, 47), (64, 96), (70, 50), (33, 47), (128, 64))
TEST_SIZE = ("INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "128", "DATASETS.TEST", "()")


def pictures(*sizes, seed=0):
    """Random BGR images of different brightness and contrast."""
    generator = np.random.default_rng(seed)
    return [
        generator.integers(60 * (i % 4), 60 * (i % 4) + 15 * (i + 1), (*size, 3), dtype=np.uint8)
        for i, size in enumerate(sizes)
    ]


def save(model, folder):
    """The model's checkpoint."""
    RoutingCheckpointer(model, str(folder)).save("model")
    return str(folder / "model.pth")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    weights = save(small_model(seed=2), folder)
    return SimpleNamespace(cfg=small_config(*TEST_SIZE), weights=weights)


@pytest.fixture(scope="module")
def predictor(trained):
    return Predictor(trained.cfg, weights=trained.weights)


def test_batch_of_different_sizes_equals_one_by_one(predictor):
    images = pictures(*SIZES)
    together, alone = predictor(images), [predictor([image])[0] for image in images]
    for image, a, b in zip(images, together, alone, strict=True):
        assert a["sem_seg"].shape == (CLASSES, *image.shape[:2])
        assert relative_error(a["sem_seg"], b["sem_seg"]) < 1e-5
        assert relative_error(a["routes"].gates, b["routes"].gates) < 1e-5
        assert len(a["routes"]) == 1 and a["milliseconds"] > 0
        assert not a["sem_seg"].requires_grad
    assert len({tuple(a["routes"].open[0].tolist()) for a in together}) > 1


def test_predictor_runs_a_prepared_copy(predictor):
    with record_routes(predictor.model) as own, record_routes(predictor._prepared) as prepared:
        predictor(pictures((64, 96)))
    assert own == [] and len(prepared) == 1
    assert any(isinstance(m, PreparedNetwork) for m in predictor._prepared.modules())


@pytest.mark.parametrize("kind", ["mask_rcnn", "retinanet", "panoptic_fpn"])
def test_batch_of_a_detector_equals_one_by_one(tmp_path, kind):
    weights = save(small_detector(*DETECTORS[kind], seed=2), tmp_path)
    everything = ("MODEL.RETINANET.SCORE_THRESH_TEST", "0.0")
    cfg = small_detector_config(*DETECTORS[kind], *TEST_SIZE, *everything)
    predictor = Predictor(cfg, weights=weights)
    images = pictures((33, 47), (70, 50))
    for image, a, b in zip(images, predictor(images), [predictor([i])[0] for i in images]):
        assert a["instances"].image_size == image.shape[:2]
        assert len(a["instances"]) == len(b["instances"]) > 0
        assert torch.allclose(a["instances"].scores, b["instances"].scores, atol=1e-4)
        assert torch.allclose(a["routes"].gates, b["routes"].gates, atol=1e-5)


@pytest.mark.parametrize("image_format", ["BGR", "RGB"])
def test_single_image_equals_detectron2s_predictor(trained, image_format):
    cfg = small_config(*TEST_SIZE, "INPUT.FORMAT", image_format, "MODEL.WEIGHTS", trained.weights)
    (image,) = pictures((50, 90))
    expected = DefaultPredictor(cfg)(image)
    found = Predictor(cfg)([image])[0]
    # The predictor runs a prepared copy, whose norms are folded.
    torch.testing.assert_close(found["sem_seg"], expected["sem_seg"], rtol=1e-4, atol=1e-2)
    assert torch.equal(found["routes"].gates, expected["routes"].gates)


@pytest.mark.parametrize("image_format", ["BGR", "RGB"])
def test_input_of_the_model_is_that_of_evaluation(trained, tmp_path, image_format):
    cfg = small_config(*TEST_SIZE, "INPUT.FORMAT", image_format)
    (image,) = pictures((41, 77))
    Image.fromarray(image[:, :, ::-1]).save(tmp_path / "a.png")
    mapped = DatasetMapper(cfg, is_train=False)({"file_name": str(tmp_path / "a.png")})
    with torch.no_grad():
        model = Predictor(cfg, weights=trained.weights).model
        (expected,) = model([{**mapped, "height": 41, "width": 77}])
    (found,) = Predictor(cfg, weights=trained.weights)([image])
    assert relative_error(found["sem_seg"], expected["sem_seg"]) < 1e-6


def test_grey_model_takes_colour_images(tmp_path):
    grey = "INPUT.FORMAT L MODEL.PIXEL_MEAN [110.0] MODEL.PIXEL_STD [1.0]".split()
    weights = save(small_model(*grey, seed=1), tmp_path)
    (output,) = Predictor(small_config(*TEST_SIZE, *grey), weights=weights)(pictures((40, 61)))
    assert output["sem_seg"].shape == (CLASSES, 40, 61)


def test_layout_in_memory_does_not_matter(predictor):
    (image,) = pictures((40, 60))
    for view in (image[::-1, ::-1], image[::2], image.transpose(1, 0, 2)):
        (a,), (b,) = predictor([view]), predictor([view.copy()])
        assert torch.equal(a["sem_seg"], b["sem_seg"])


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1)])
def test_images_of_odd_shape_are_predicted_at_their_size(predictor, size):
    (output,) = predictor([np.full((*size, 3), 90, np.uint8)])
    assert output["sem_seg"].shape == (CLASSES, *size)


def test_size_0_keeps_the_size_of_the_image(trained):
    cfg = small_config("INPUT.MIN_SIZE_TEST", "0", "DATASETS.TEST", "()")
    (output,) = Predictor(cfg, weights=trained.weights)(pictures((40, 61)))
    assert output["routes"].image_size == (64, 64)


def test_empty_batch_has_no_outputs(predictor):
    assert predictor([]) == []


def test_config_is_not_changed_and_may_be_frozen(trained):
    cfg = small_config(*TEST_SIZE, "MODEL.DEVICE", "auto", "MODEL.WEIGHTS", trained.weights)
    cfg.MODEL.DEVICE = "auto"
    cfg.freeze()
    assert Predictor(cfg)(pictures((32, 32)))
    assert cfg.MODEL.DEVICE == "auto" and cfg.is_frozen()


GOOD = np.zeros((4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    ("bad", "found"),
    [
        (np.zeros((4, 4), np.uint8), "(4, 4) uint8"),
        (np.zeros((4, 4, 4), np.uint8), "(4, 4, 4) uint8"),
        (np.zeros((4, 4, 3)), "(4, 4, 3) float64"),
        (np.zeros((0, 4, 3), np.uint8), "(0, 4, 3) uint8"),
        (torch.zeros(3, 4, 4), "got Tensor"),
        ("a.png", "got str"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(predictor, bad, found):
    with pytest.raises(ValueError) as info:
        predictor([GOOD, bad])
    assert "image 1 must be" in str(info.value) and found in str(info.value)
    assert "\n" not in str(info.value)


def test_weights_are_needed_and_must_fit(trained, tmp_path):
    with pytest.raises(CheckpointError, match="no weights"):
        Predictor(trained.cfg)
    with pytest.raises(CheckpointError, match="none.pth does not exist"):
        Predictor(trained.cfg, weights=str(tmp_path / "none.pth"))
    other = save(small_model("MODEL.SEM_SEG_HEAD.NUM_CLASSES", "4"), tmp_path)
    with pytest.raises(CheckpointError, match="of another network"):
        Predictor(trained.cfg, weights=other)


def test_missing_gpu_is_one_line(trained, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cfg = small_config(*TEST_SIZE, "MODEL.DEVICE", "cuda")
    with pytest.raises(ConfigError, match="no GPU here"):
        Predictor(cfg, weights=trained.weights)


def test_classifier_is_refused(trained):
    cfg = small_config(*TEST_SIZE, "MODEL.META_ARCHITECTURE", "ImageClassifier")
    with pytest.raises(ConfigError, match="META_ARCHITECTURE ImageClassifier sees cut squares"):
        Predictor(cfg, weights=trained.weights)


def test_confidence_reaches_every_threshold():
    cfg = get_config(None, confidence_overrides(0.25))
    assert cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST == 0.25
    assert cfg.MODEL.RETINANET.SCORE_THRESH_TEST == 0.25
    assert cfg.MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH == 0.25
    assert get_config(None, confidence_overrides(1)).MODEL.RETINANET.SCORE_THRESH_TEST == 1.0
    for bad in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="confidence must be in"):
            confidence_overrides(bad)
