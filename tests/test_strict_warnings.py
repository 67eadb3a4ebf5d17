"""Nothing of ours warns: whole runs in which a warning is an error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings

import pytest

from dynamic_routing.data.cityscapes import generate_cityscapes
from dynamic_routing.data.coco import generate_coco
from dynamic_routing.engine.run_files import numbered_lines
from tests.modeling.builders import CONFIGS, REPOSITORY
from tests.strict_warnings import forbid_warnings

SEGMENTATION = (
    "MODEL.DYNAMIC_ROUTING.DIVDR.START_ITER 2 MODEL.DYNAMIC_ROUTING.DIVDR.PERIOD 4 "
    "MODEL.DYNAMIC_ROUTING.DROP_PATH 0.3 MODEL.EMA.ENABLED True SOLVER.ACCUMULATION_STEPS 2 "
    "SOLVER.AMP.ENABLED True TEST.BEST_METRIC ema/sem_seg/mIoU VIS_PERIOD 7 "
    "INPUT.SEM_SEG_CROP [64,128]"
).split()
DETECTION = (
    "TEST.BEST_METRIC bbox/AP INPUT.MIN_SIZE_TRAIN (64,) MODEL.FPN.OUT_CHANNELS 16 "
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST 0.0"  # of no prediction at all Detectron2 warns
).split()
BOTH = (
    "MODEL.DEVICE cpu MODEL.DYNAMIC_ROUTING.SPACE.NUM_LAYERS 4 MODEL.DYNAMIC_ROUTING.WIDTH 4 "
    "SOLVER.IMS_PER_BATCH 4 SOLVER.CHECKPOINT_PERIOD 5 TEST.EVAL_PERIOD 10 "
    "TEST.PRECISE_BN.NUM_ITER 2 INPUT.MIN_SIZE_TEST 64"
).split()
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def test_filters_are_those_of_pytest():
    """Five kinds of Detectron2 and fvcore pass, and nothing else."""
    with warnings.catch_warnings():
        assert forbid_warnings() == 5
        warnings.warn("`torch.jit.script` is deprecated. Please", FutureWarning, stacklevel=1)
        with pytest.raises(UserWarning, match="ours"):
            warnings.warn("ours", stacklevel=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    generate_coco(root, counts={"train": 12, "val": 4}, size=(96, 128), seed=1)
    generate_cityscapes(root, counts={"train": 6, "val": 3}, size=(64, 128), seed=1)
    return root


def train(data, output, config, *arguments):
    """train_net.py without a right to warn."""
    command = [sys.executable, "-m", "tests.strict_warnings", str(REPOSITORY / "train_net.py")]
    command += ["--config-file", str(CONFIGS / "quick" / config), *arguments]
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*command, "OUTPUT_DIR", str(output)],
        env={**os.environ, **ONE_THREAD, "DETECTRON2_DATASETS": str(data), "PYTHONPATH": path},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    printed = done.stdout[-3000:] + done.stderr[-3000:]
    assert done.returncode == 0, printed
    assert "Warning: " not in done.stderr, printed  # in a thread or a destructor it ends nothing


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "settings"),
    [("divdr_a_cityscapes_smoke.yaml", SEGMENTATION),
     ("dr_c_mask_rcnn_coco_smoke.yaml", DETECTION)],
    ids=["segmentation", "mask_rcnn"],
)  # fmt: skip
def test_whole_run_raises_no_warning_of_ours(data, tmp_path, config, settings):
    """Trained, evaluated, written, resumed; by loaders without workers and with two."""
    both = [*BOTH, *settings]
    first = ("SOLVER.MAX_ITER", "10", "DATALOADER.NUM_WORKERS", "0")
    second = ("SOLVER.MAX_ITER", "20", "DATALOADER.NUM_WORKERS", "2")
    train(data, tmp_path, config, *both, *first)
    train(data, tmp_path, config, "--resume", *both, *second)
    iterations = [i for i, _ in numbered_lines((tmp_path / "metrics.json").read_text())]
    assert iterations == sorted(set(iterations)) and iterations[-1] == 20
    assert json.loads((tmp_path / "results.json").read_text())["routing"]["images"] > 0
