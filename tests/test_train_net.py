"""train_net.py from the command line: a whole run, resuming, evaluating, and every user error."""

from __future__ import annotations

import errno
import importlib.util
import json
import logging
import math
import os
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.logger import setup_logger

from dynamic_routing.analysis.run_folder import read_results
from dynamic_routing.data.cityscapes import generate_cityscapes
from dynamic_routing.data.voc import generate_voc
from dynamic_routing.evaluation.gates_file import load_gates
from dynamic_routing.modeling import get_config
from tests.modeling.builders import CONFIGS, QUICK, REPOSITORY

ITERATIONS, PERIOD = 6, 3
SMALL = (
    "MODEL.DEVICE cpu MODEL.DYNAMIC_ROUTING.SPACE.NUM_LAYERS 4 MODEL.DYNAMIC_ROUTING.WIDTH 4 "
    f"SOLVER.MAX_ITER {ITERATIONS} SOLVER.IMS_PER_BATCH 2 SOLVER.BASE_LR 0.05 "
    f"SOLVER.REFERENCE_IMS_PER_BATCH 4 TEST.EVAL_PERIOD {PERIOD} "
    "SOLVER.CHECKPOINT_PERIOD 5000 DATALOADER.NUM_WORKERS 0 INPUT.MIN_SIZE_TEST 64 "
    "INPUT.MAX_SIZE_TEST 128 MODEL.DYNAMIC_ROUTING.BUDGET.LAMBDA 0.5"
).split()
CROP = ("INPUT.SEM_SEG_CROP", "[64,128]")

spec = importlib.util.spec_from_file_location("train_net", REPOSITORY / "train_net.py")
train_net = importlib.util.module_from_spec(spec)
sys.modules["train_net"] = train_net
spec.loader.exec_module(train_net)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Small Cityscapes and VOC trees."""
    root = tmp_path_factory.mktemp("datasets")
    generate_cityscapes(root, counts={"train": 3, "val": 3}, size=(64, 128), seed=1)
    generate_voc(root, counts={"train": 2, "val": 2}, size=(64, 96), seed=1)
    return root


def call(root, *arguments):
    """Run train_net.main in this process; the state of the process is put back."""
    data = dict(DatasetCatalog.data), dict(MetadataCatalog.data)
    names = ("", "detectron2", "fvcore", "dynamic_routing")
    logs = {n: (list(logging.getLogger(n).handlers), logging.getLogger(n).level) for n in names}
    propagate = {n: logging.getLogger(n).propagate for n in names}
    generators = random.getstate(), np.random.get_state(), torch.get_rng_state()
    environment = os.environ.get("DETECTRON2_DATASETS")
    os.environ["DETECTRON2_DATASETS"] = str(root)
    try:
        # What it lists takes half of the time of a user error.
        with mock.patch("detectron2.engine.defaults.collect_env_info", str):
            return train_net.main([str(a) for a in arguments])
    finally:
        setup_logger.cache_clear()
        logging.raiseExceptions = True
        os.environ.pop("DETECTRON2_DATASETS")
        if environment is not None:
            os.environ["DETECTRON2_DATASETS"] = environment
        DatasetCatalog.data, MetadataCatalog.data = data
        for name in names:
            logger = logging.getLogger(name)
            logger.handlers, level = logs[name]
            logger.setLevel(level)
            logger.propagate = propagate[name]
        random.setstate(generators[0])
        np.random.set_state(generators[1])
        torch.set_rng_state(generators[2])


def arguments(output, *flags, overrides=()):
    """The command line of a small run into ``output``."""
    return ["--config-file", QUICK, *flags, *SMALL, *CROP, "OUTPUT_DIR", output, *overrides]


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A finished run: its folder and what it wrote."""
    folder = tmp_path_factory.mktemp("run")
    assert call(data, *arguments(folder, "--resume")) == 0
    lines = (folder / "metrics.json").read_text().splitlines()
    return SimpleNamespace(
        folder=folder,
        log=(folder / "log.txt").read_text(),
        metrics=[json.loads(line) for line in lines],
        results=json.loads((folder / "results.json").read_text()),
    )


def test_run_writes_everything_and_leaves_no_temporary_file(run):
    names = {p.name for p in run.folder.iterdir()}
    expected = (
        "model_final.pth model_best.pth last_checkpoint metrics.json results.json config.yaml"
    )
    assert names >= {*expected.split(), "log.txt", "inference"}
    assert not [p for p in run.folder.rglob("*") if p.name.endswith(".tmp")]
    assert (run.folder / "last_checkpoint").read_text() == "model_final.pth"


def test_resume_with_nothing_to_resume_says_so_and_starts(run):
    assert f"nothing to resume in {run.folder} (no last_checkpoint): starting at" in run.log
    assert "Starting training from iteration 0" in run.log


def test_learning_rate_is_scaled_and_logged(run):
    assert "learning rate scaled from 0.05 to 0.025" in run.log


def test_both_evaluators_agree_at_every_evaluation(run):
    evaluated = [m for m in run.metrics if "sem_seg/mIoU" in m]
    assert [m["iteration"] for m in evaluated] == [PERIOD - 1, ITERATIONS]
    for metrics in evaluated:
        ours, official = metrics["sem_seg/mIoU"], metrics["cityscapes_sem_seg/IoU_in_truth"]
        assert math.isfinite(ours) and ours == pytest.approx(official, abs=1e-6)


def test_metrics_hold_losses_and_routes(run):
    every = {key: value for metrics in run.metrics for key, value in metrics.items()}
    assert math.isfinite(every["total_loss"]) and 0 < every["loss_budget"] < every["total_loss"]
    assert every["grad_norm"] > 0 and 0 < every["routing/executed_gmacs"] < 1
    assert 0 < every["routing/gmacs_avg"] < 1 and every["routing/images"] == 3


def test_results_are_those_of_the_last_evaluation(run):
    assert run.results["sem_seg"]["mIoU"] == pytest.approx(run.metrics[-1]["sem_seg/mIoU"])
    assert {"sem_seg", "cityscapes_sem_seg", "routing"} <= set(run.results)


def test_gates_of_every_image_are_stored(run):
    (file,) = (run.folder / "inference").glob("gates_*.npz")
    stored = load_gates(file)
    assert stored.gates.shape == (3, len(stored.space.edges)) and len(set(stored.file_names)) == 3
    assert stored.space.num_layers == 4 and set(stored.costs) == {"gmacs", "paper_gflops"}
    average = sum(stored.costs["gmacs"]) / 3
    assert run.results["routing"]["gmacs_avg"] == pytest.approx(average)


def test_checkpoints_are_plain_and_remember_the_best_value(run):
    final = torch.load(run.folder / "model_final.pth", weights_only=True)
    best = torch.load(run.folder / "model_best.pth", weights_only=True)
    values = [m["sem_seg/mIoU"] for m in run.metrics if "sem_seg/mIoU" in m]
    assert final["iteration"] == ITERATIONS - 1
    assert best["metric"] == pytest.approx(max(values))
    assert final["trainer"]["hooks"]["BestCheckpoint"]["best"] == pytest.approx(values[0])


def test_resuming_a_finished_run_ends_cleanly(run, data):
    before = (run.folder / "model_final.pth").read_bytes()
    assert call(data, *arguments(run.folder, "--resume")) == 0
    assert "is already complete" in (run.folder / "log.txt").read_text()
    assert (run.folder / "model_final.pth").read_bytes() == before
    results = json.loads((run.folder / "results.json").read_text())
    assert results["sem_seg"] == pytest.approx(run.results["sem_seg"], nan_ok=True)


def test_eval_only_reproduces_the_result(run, data, tmp_path):
    weights = ("MODEL.WEIGHTS", run.folder / "model_final.pth")
    assert call(data, *arguments(tmp_path, "--eval-only", overrides=weights)) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["sem_seg"]["mIoU"] == run.results["sem_seg"]["mIoU"]
    assert results["routing"]["gmacs_avg"] == run.results["routing"]["gmacs_avg"]


def test_results_are_strict_json_with_null_for_absent_classes(run):
    text = (run.folder / "results.json").read_text()
    found = json.loads(text, parse_constant=lambda word: pytest.fail(word))
    assert None in found["sem_seg"].values()
    again = read_results(run.folder)
    absent = [k for k, v in found["sem_seg"].items() if v is None]
    assert absent and all(math.isnan(again["sem_seg"][k]) for k in absent)


def test_evaluation_leaves_the_files_of_its_training_alone(run, data):
    names = ("config.yaml", "metrics.json", "log.txt", "last_checkpoint")
    before = {name: (run.folder / name).read_bytes() for name in names}
    assert call(data, *arguments(run.folder, "--eval-only", "--resume")) == 0
    assert {name: (run.folder / name).read_bytes() for name in names} == before
    config = get_config(run.folder / "inference" / "config.yaml")
    assert config.MODEL.WEIGHTS == str(run.folder / "model_final.pth")


def test_refused_training_leaves_a_run_as_it_was(capsys, run, data):
    names = ("config.yaml", "metrics.json", "model_final.pth", "last_checkpoint", "results.json")
    before = {name: (run.folder / name).read_bytes() for name in names}
    for overrides, flags in (
        (("MODEL.DYNAMIC_ROUTING.WIDTH", "8"), ("--resume",)),
        (("MODEL.WEIGHTS", "/none/model.pth"), ()),
    ):
        one_error(capsys, data, *arguments(run.folder, *flags, overrides=overrides))
    assert {name: (run.folder / name).read_bytes() for name in names} == before


HOLDS = """
import sys, time
from dynamic_routing.engine.run_lock import RunLock
with RunLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_second_training_in_a_folder_is_refused_and_changes_nothing(capsys, run, data):
    command = [sys.executable, "-c", HOLDS, str(run.folder)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout.readline() == b"held\n"
            before = {p.name: p.stat().st_mtime_ns for p in run.folder.iterdir()}
            line, _ = one_error(capsys, data, *arguments(run.folder, "--resume"))
            assert f"is in use by process {holder.pid} on " in line
            assert {p.name: p.stat().st_mtime_ns for p in run.folder.iterdir()} == before
        finally:
            holder.kill()


def evaluate_views(run, data, folder, scales, flip):
    """Results with test-time augmentation."""
    views = ("TEST.AUG.ENABLED", "True", "TEST.AUG.SCALES", scales, "TEST.AUG.FLIP", flip)
    weights = ("MODEL.WEIGHTS", run.folder / "model_final.pth", *views)
    assert call(data, *arguments(folder, "--eval-only", overrides=weights)) == 0
    return json.loads((folder / "results.json").read_text())


@pytest.mark.slow
def test_one_plain_view_gives_the_result_without_augmentation(run, data, tmp_path):
    results = evaluate_views(run, data, tmp_path, "[1.0]", "False")
    assert results["sem_seg"] == pytest.approx(run.results["sem_seg"], nan_ok=True)


@pytest.mark.slow
def test_eval_only_with_test_time_augmentation(run, data, tmp_path):
    several = evaluate_views(run, data, tmp_path, "[0.5,1.0]", "True")
    assert math.isfinite(several["sem_seg"]["mIoU"])
    assert several["sem_seg"] != run.results["sem_seg"]
    gmacs = run.results["routing"]["gmacs_avg"]
    assert several["routing"]["gmacs_avg"] == pytest.approx(gmacs, rel=1e-6)


@pytest.mark.slow
def test_run_continues_where_it_was_stopped(data, tmp_path):
    half = ("SOLVER.MAX_ITER", PERIOD)
    assert call(data, *arguments(tmp_path, overrides=half)) == 0
    assert call(data, *arguments(tmp_path, "--resume")) == 0
    log = (tmp_path / "log.txt").read_text()
    assert f"Starting training from iteration {PERIOD}" in log
    lines = [json.loads(x) for x in (tmp_path / "metrics.json").read_text().splitlines()]
    assert {m["iteration"] for m in lines if "sem_seg/mIoU" in m} == {PERIOD - 1, ITERATIONS}
    iterations = [m["iteration"] for m in lines]
    assert len(set(iterations)) == len(iterations)
    best = torch.load(tmp_path / "model_best.pth", weights_only=True)
    assert math.isfinite(best["metric"])


@pytest.mark.slow
def test_voc_and_mixed_precision_train(data, tmp_path):
    overrides = (
        *("SOLVER.AMP.ENABLED", "True", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "21"),
        *("DATASETS.TRAIN", '("voc_2012_sem_seg_train",)'),
        *("DATASETS.TEST", '("voc_2012_sem_seg_val",)'),
        *("TEST.PRECISE_BN.ENABLED", "True", "TEST.PRECISE_BN.NUM_ITER", "2"),
    )
    assert call(data, *arguments(tmp_path, overrides=overrides)) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert math.isfinite(results["sem_seg"]["mIoU"]) and "cityscapes_sem_seg" not in results


def one_error(capsys, root, *arguments):
    """The one line of a user error; exit status 2, no traceback, nothing on stdout."""
    assert call(root, *arguments) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    (line,) = [x for x in error.splitlines() if x.startswith("train_net.py: error: ")]
    return line.removeprefix("train_net.py: error: "), error


USER_ERRORS = {
    "unknown operation": (
        ("MODEL.DYNAMIC_ROUTING.OPERATIONS", "['conv_33']"),
        "cell operation 'conv_33' is unknown; allowed: sep_conv_3x3,",
    ),
    "unknown activation": (
        ("MODEL.DYNAMIC_ROUTING.GATE.ACTIVATION", "relu"),
        "gate activation 'relu' is unknown; allowed: max_tanh,",
    ),
    "unknown rule": (("MODEL.DYNAMIC_ROUTING.UNREACHED", "zero"), "'zero' is unknown; allowed:"),
    "odd width": (("MODEL.DYNAMIC_ROUTING.WIDTH", "7"), "even number of channels, got 7"),
    "misspelt key": (("SOLVER.MAX_ITR", "3"), "SOLVER.MAX_ITR (did you mean SOLVER.MAX_ITER?)"),
    "wrong type": (("SOLVER.MAX_ITER", "many"), "SOLVER.MAX_ITER"),
    "odd number of overrides": (("SEED",), "pairs of KEY VALUE"),
    "missing weights": (("MODEL.WEIGHTS", "/none/model.pth"), "/none/model.pth does not exist"),
    "unknown data set": (("DATASETS.TRAIN", '("nothing_train",)'), "data sets cannot be read"),
    "missing feature": (
        ("MODEL.SEM_SEG_HEAD.IN_FEATURES", "['p2','p9']"),
        "IN_FEATURES asks for p9, but the backbone delivers p2, p3, p4, p5",
    ),
}


@pytest.mark.parametrize(
    ("overrides", "expected"), USER_ERRORS.values(), ids=[k.replace(" ", "-") for k in USER_ERRORS]
)
def test_user_error_is_one_line_and_status_2(capsys, data, tmp_path, overrides, expected):
    line, _ = one_error(capsys, data, *arguments(tmp_path, overrides=overrides))
    assert expected in line


def test_debug_variable_brings_the_traceback_back(data, tmp_path, monkeypatch):
    monkeypatch.setenv("DYNAMIC_ROUTING_DEBUG", "1")
    with pytest.raises(ValueError, match="even number of channels"):
        overrides = ("MODEL.DYNAMIC_ROUTING.WIDTH", "7")
        call(data, *arguments(tmp_path, overrides=overrides))


def test_missing_data_set_names_the_variable_and_the_tree(capsys, tmp_path):
    line, error = one_error(capsys, tmp_path / "nowhere", *arguments(tmp_path / "out"))
    assert f"DETECTRON2_DATASETS is '{tmp_path / 'nowhere'}'" in line
    assert str(tmp_path / "nowhere" / "cityscapes" / "leftImg8bit" / "train") in error
    assert not (tmp_path / "out" / "model_final.pth").exists()


def test_too_many_gpus_are_refused(capsys, data, tmp_path):
    line, _ = one_error(capsys, data, *arguments(tmp_path, "--num-gpus", "99"))
    assert "--num-gpus 99" in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU that is not there")
def test_missing_gpu_is_one_line(capsys, data, tmp_path):
    device = ("MODEL.DEVICE", "cuda")
    line, _ = one_error(capsys, data, *arguments(tmp_path, overrides=device))
    assert line == "MODEL.DEVICE cuda: no GPU here; use auto or cpu"


def test_eval_only_without_weights_says_what_to_add(capsys, data, tmp_path):
    line, _ = one_error(capsys, data, *arguments(tmp_path, "--eval-only"))
    assert line.startswith("--eval-only needs weights: add MODEL.WEIGHTS")


def test_missing_config_file_is_one_line(capsys, data):
    line, _ = one_error(capsys, data, "--config-file", "none.yaml")
    assert line == "config file none.yaml does not exist"


def test_checkpoint_of_another_network_is_one_line(capsys, run, data, tmp_path):
    other = ("MODEL.WEIGHTS", run.folder / "model_final.pth", "MODEL.DYNAMIC_ROUTING.WIDTH", "8")
    line, _ = one_error(capsys, data, *arguments(tmp_path, "--eval-only", overrides=other))
    assert "another network than the config describes" in line and "for (8, " in line


def subprocess_of(root, *arguments):
    return subprocess.run(
        [sys.executable, "train_net.py", *map(str, arguments)],
        cwd=REPOSITORY,
        env={**os.environ, "DETECTRON2_DATASETS": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_program_trains_from_a_shell(run, data, tmp_path):
    """The same run in a fresh process gives the same result."""
    done = subprocess_of(data, *arguments(tmp_path))
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results) == set(run.results)
    assert math.isfinite(results["sem_seg"]["mIoU"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "overrides", "expected"),
    [
        ((), ("SOLVER.MAX_ITR", "3"), "did you mean SOLVER.MAX_ITER?"),
        (("--num-gpus", "99"), (), "--num-gpus 99"),
        (("--eval-only",), (), "--eval-only needs weights"),
        ((), ("MODEL.WEIGHTS", "/none.pth"), "/none.pth does not exist"),
    ],
    ids=["key", "gpus", "eval", "weights"],
)
def test_program_reports_a_user_error_to_a_shell(data, tmp_path, flags, overrides, expected):
    done = subprocess_of(data, *arguments(tmp_path, *flags, overrides=overrides))
    assert done.returncode == 2 and "Traceback" not in done.stderr + done.stdout
    assert done.stderr.count("train_net.py: error: ") == 1 and expected in done.stderr


@pytest.mark.slow
def test_published_config_refuses_to_start_without_its_weights(data, tmp_path):
    file = CONFIGS / "Cityscapes-SemanticSegmentation" / "dr_raw_l16_imagenet_186k.yaml"
    done = subprocess_of(data, "--config-file", file, "OUTPUT_DIR", tmp_path)
    assert done.returncode == 2
    assert Path("output/imagenet/dr_raw_l16/model_final.pth").name in done.stderr


def test_log_on_a_full_disk_is_no_traceback_from_its_first_line_on(
    capsys, data, tmp_path, monkeypatch
):
    """Python prints one for each line that a handler cannot write, unless it is told not to."""

    def first_lines(*_arguments, **_keywords):
        raise OSError(errno.ENOSPC, f"No space left, told: {logging.raiseExceptions}")

    monkeypatch.setattr(train_net, "set_up_process", first_lines)
    monkeypatch.delenv(train_net.DEBUG_VARIABLE, raising=False)
    assert call(data, "--config-file", QUICK, *SMALL, *CROP, "OUTPUT_DIR", tmp_path) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "told: False" in said
