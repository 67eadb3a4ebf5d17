"""Values that cannot work are refused before anything is built, each in one line."""

from __future__ import annotations

import pytest

from dynamic_routing.engine.trainer import Trainer
from dynamic_routing.modeling import ConfigError
from tests.modeling.builders import small_config
from tests.modeling.detectors import RETINA, small_detector_config

BUDGET = "MODEL.DYNAMIC_ROUTING.BUDGET."


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["MODEL.META_ARCHITECTURE", "Foo"], "META_ARCHITECTURE 'Foo' is not registered"),
        (["MODEL.BACKBONE.NAME", "Foo"], "BACKBONE.NAME 'Foo' .*build_dynamic_routing_backbone"),
        (["MODEL.SEM_SEG_HEAD.NAME", "Foo"], "SEM_SEG_HEAD.NAME 'Foo' .*DynamicRoutingSemSegHead"),
        (["MODEL.DYNAMIC_ROUTING.NORM", "Foo"], "DYNAMIC_ROUTING.NORM 'Foo' is unknown"),
        (["MODEL.SEM_SEG_HEAD.NORM", "Foo"], "SEM_SEG_HEAD.NORM 'Foo' is unknown"),
        (["MODEL.DEVICE", "gpu"], "MODEL.DEVICE 'gpu' is unknown; allowed: auto, cpu"),
        (["SOLVER.MAX_ITER", "0"], "SOLVER.MAX_ITER must be at least 1, got 0"),
        (["SOLVER.IMS_PER_BATCH", "0"], "IMS_PER_BATCH must be at least 1, got 0"),
        (["SOLVER.CHECKPOINT_PERIOD", "-1"], "CHECKPOINT_PERIOD must be at least 0, got -1"),
        (["DATALOADER.NUM_WORKERS", "-1"], "DATALOADER.NUM_WORKERS must be at least 0, got -1"),
        (["SEED", "4294967296"], "SEED must be at most 4294967295, got 4294967296"),
        (["OUTPUT_DIR", ""], "OUTPUT_DIR is empty: .* a run could keep nothing"),
        ([BUDGET + "PROBE_PERIOD", "0"], "PROBE_PERIOD must be at least 1, got 0"),
        ([BUDGET + "PROBE_IMAGES", "0"], "PROBE_IMAGES must be at least 1, got 0"),
        ([BUDGET + "LAMBDA", "-1"], "LAMBDA must be at least 0, got -1"),
        ([BUDGET + "TARGET_GMACS", "-1"], "TARGET_GMACS must be at least 0, got -1"),
        ([BUDGET + "MU", "1.5"], r"MU must be in \[0, 1\], got 1.5"),
        ([BUDGET + "START", "-0.1"], r"START must be in \[0, 1\], got -0.1"),
        ([BUDGET + "ARRIVE", "5"], r"ARRIVE must be in \[0, 1\], got 5"),
        (
            [BUDGET + "TARGET_GMACS", "1", BUDGET + "START", "0.7"],
            "START 0.7 must lie before BUDGET.ARRIVE 0.6",
        ),
        (["INPUT.SCALE_RANGE", "[1]"], r"SCALE_RANGE must be two positive numbers, got \[1\]"),
        (["INPUT.SEM_SEG_CROP", "[0, 9]"], r"SEM_SEG_CROP must be two positive .* \[0, 9\]"),
        ([BUDGET + "TARGET_SIZE", "[64]"], r"TARGET_SIZE must be two positive .* \[64\]"),
        (["MODEL.CLASSIFIER.NUM_CLASSES", "1"], "NUM_CLASSES must be at least 2, got 1"),
        (["MODEL.CLASSIFIER.LABEL_SMOOTHING", "1"], r"SMOOTHING must be in \[0, 1\), got 1"),
        (["INPUT.CLASSIFICATION.SIZE", "0"], "CLASSIFICATION.SIZE must be at least 1, got 0"),
        (["INPUT.CLASSIFICATION.TEST_RESIZE", "0"], "TEST_RESIZE must be at least 1, got 0"),
        (["INPUT.CLASSIFICATION.SCALE_RANGE", "[0, 1]"], r"two ordered shares, got \[0, 1\]"),
        (["INPUT.CLASSIFICATION.SCALE_RANGE", "['a', 1]"], r"two ordered shares, got \['a', 1\]"),
        (["MODEL.PIXEL_MEAN", "[1.0]"], "need 3 values for INPUT.FORMAT BGR, got 1 and 3"),
    ],
)
def test_impossible_value_is_one_line(overrides, said):
    with pytest.raises(ConfigError, match=said) as info:
        small_config(*overrides)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("norm", ["BN", "SyncBN", "naiveSyncBN", "GN", "FrozenBN", ""])
def test_every_norm_of_detectron2_is_allowed(norm):
    assert small_config("MODEL.DYNAMIC_ROUTING.NORM", norm).MODEL.DYNAMIC_ROUTING.NORM == norm


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("MODEL.DYNAMIC_ROUTING.SPACE.NUM_OUTPUT_SCALES", "4"),
         r"RPN.IN_FEATURES asks for p6; the backbone delivers p2, p3, p4, p5 \(SPACE"),
        (("MODEL.RPN.IN_FEATURES", "['p2', 'p9']"), "RPN.IN_FEATURES asks for p9"),
        (("MODEL.ROI_HEADS.IN_FEATURES", "['p2', 'p7']"), "ROI_HEADS.IN_FEATURES asks for p7"),
        (("MODEL.BACKBONE.NAME", "build_dynamic_routing_backbone"),
         "needs build_dynamic_routing_fpn_backbone"),
        (("MODEL.ANCHOR_GENERATOR.SIZES", "[[12], [24]]"), "SIZES has 2 entries; 1 or 5"),
        (("MODEL.ROI_HEADS.NAME", "FooHeads"), "ROI_HEADS.NAME 'FooHeads' is not registered"),
        (("MODEL.PROPOSAL_GENERATOR.NAME", "Foo"), "PROPOSAL_GENERATOR.NAME 'Foo' is not"),
        ((*RETINA, "MODEL.RETINANET.IN_FEATURES", "['p2', 'p3', 'p4', 'p5', 'p6']"),
         "SIZES has 4 entries; 1 or 5"),
    ],
)  # fmt: skip
def test_detector_that_does_not_fit_its_backbone_is_one_line(overrides, message):
    with pytest.raises(ConfigError, match=message) as caught:
        small_detector_config(*overrides)
    assert "\n" not in str(caught.value)


def test_what_no_check_foresaw_is_one_line_as_well():
    cfg = small_detector_config("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone")
    with pytest.raises(ConfigError, match="with MODEL.BACKBONE.NAME build_resnet_fpn_backbone"):
        Trainer.build_model(cfg)
