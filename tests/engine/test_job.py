"""What flags and config say about processes: one line for each contradiction."""

from __future__ import annotations

import argparse
import logging

import pytest

from dynamic_routing.engine.job import add_process_flag, fit_to_processes, processes_to_start
from tests.modeling.builders import small_config


def flags(**values):
    return argparse.Namespace(**{"num_gpus": 1, "num_processes": 1, **values})


def test_flag_counts_processes():
    parser = argparse.ArgumentParser()
    add_process_flag(parser)
    assert parser.parse_args([]).num_processes == 1
    args = flags(num_processes=parser.parse_args(["--num-processes", "3"]).num_processes)
    assert processes_to_start(args, small_config()) == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_processes": 0}, "--num-processes must be at least 1, got 0"),
        ({"num_gpus": 0}, "--num-gpus must be at least 1, got 0"),
        ({"num_gpus": 999}, "--num-gpus 999: this machine has"),
    ],
)
def test_impossible_flags_are_one_line(values, message):
    with pytest.raises(ValueError, match=message):
        processes_to_start(flags(**values), small_config())


def test_each_device_has_its_flag(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(ValueError, match="--num-gpus 2 needs MODEL.DEVICE cuda, it is cpu; on the"):
        processes_to_start(flags(num_gpus=2), small_config())
    on_gpu = small_config("MODEL.DEVICE", "cuda")
    assert processes_to_start(flags(num_gpus=2), on_gpu) == 2
    with pytest.raises(ValueError, match="--num-processes 2 goes with MODEL.DEVICE cpu; .* cuda"):
        processes_to_start(flags(num_processes=2), on_gpu)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("SOLVER.IMS_PER_BATCH", "5"), "IMS_PER_BATCH 5 must be a multiple of the 2 processes"),
        (
            ("SOLVER.IMS_PER_BATCH", "4", "SOLVER.ACCUMULATION_STEPS", "3"),
            "gives each of 2 processes 2 images, too few for SOLVER.ACCUMULATION_STEPS 3",
        ),
    ],
)
def test_batch_that_cannot_be_shared_is_one_line(overrides, message):
    with pytest.raises(ValueError, match=message):
        fit_to_processes(small_config(*overrides), 2)


def test_evaluation_is_not_bound_to_the_batch_of_the_training():
    cfg = small_config("SOLVER.IMS_PER_BATCH", "4", "SOLVER.ACCUMULATION_STEPS", "4")
    fit_to_processes(cfg, 3, training=False)
    assert cfg.SOLVER.IMS_PER_BATCH == 4


SYNC = ("MODEL.DYNAMIC_ROUTING.NORM", "SyncBN", "MODEL.SEM_SEG_HEAD.NORM", "GN")


def test_synchronised_norm_on_the_cpu_is_detectron2s_own_and_says_so(caplog):
    cfg = small_config(*SYNC)
    with caplog.at_level(logging.INFO, logger="dynamic_routing.engine.job"):
        fit_to_processes(cfg, 2)
    assert cfg.MODEL.DYNAMIC_ROUTING.NORM == "naiveSyncBN" and cfg.MODEL.SEM_SEG_HEAD.NORM == "GN"
    assert "MODEL.DYNAMIC_ROUTING.NORM" in caplog.text and "SyncBN needs GPUs" in caplog.text


def test_norm_stays_with_one_process_and_on_gpus():
    one, gpu = small_config(*SYNC), small_config(*SYNC, "MODEL.DEVICE", "cuda")
    fit_to_processes(one, 1)
    fit_to_processes(gpu, 2)
    assert one.MODEL.DYNAMIC_ROUTING.NORM == gpu.MODEL.DYNAMIC_ROUTING.NORM == "SyncBN"
