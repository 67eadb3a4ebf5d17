"""What a process does first: it locks, cleans, logs and seeds, and rewrites nothing."""

from __future__ import annotations

import logging
import os
import random
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from dynamic_routing import files
from dynamic_routing.engine import run_setup
from dynamic_routing.engine.run_lock import LOCK_NAME, FolderInUseError
from dynamic_routing.engine.run_setup import lock_folder, set_up_process
from tests.modeling.builders import small_config

LOGGERS = ("fvcore", "detectron2", "dynamic_routing")


@pytest.fixture
def process(monkeypatch):
    """Loggers, generators and environment are put back."""
    kept = {n: (list(logging.getLogger(n).handlers), logging.getLogger(n).level) for n in LOGGERS}
    propagate = {n: logging.getLogger(n).propagate for n in LOGGERS}
    states = random.getstate(), np.random.get_state()
    monkeypatch.setattr("detectron2.engine.defaults.collect_env_info", str)
    with mock.patch.dict(os.environ):
        yield
    setup_logger.cache_clear()
    for name in LOGGERS:
        logger = logging.getLogger(name)
        for handler in set(logger.handlers) - set(kept[name][0]):
            handler.close()
        logger.handlers, level = kept[name]
        logger.setLevel(level)
        logger.propagate = propagate[name]
    random.setstate(states[0])
    np.random.set_state(states[1])


def set_up(folder, *overrides, eval_only=False):
    cfg = small_config("OUTPUT_DIR", str(folder), *overrides)
    set_up_process(cfg, SimpleNamespace(eval_only=eval_only), folder=folder)
    return cfg


def test_log_begins_and_the_config_of_an_earlier_run_stays(tmp_path, process):
    (tmp_path / "config.yaml").write_text("of an earlier run")
    set_up(tmp_path, "SEED", "3")
    assert (tmp_path / "config.yaml").read_text() == "of an earlier run"
    assert "process 0 of 1" in (tmp_path / "log.txt").read_text()
    assert "SEED: 3" in (tmp_path / "log.txt").read_text()


def test_seed_decides_all_generators(tmp_path, process):
    def drawn():
        set_up(tmp_path, "SEED", "3")
        return random.random(), np.random.random(), float(torch.rand(()))

    assert drawn() == drawn()


def test_seed_that_is_chosen_is_said_and_put_into_the_config(tmp_path, process):
    cfg = set_up(tmp_path, "SEED", "-1")
    assert cfg.SEED >= 0
    assert f"SEED -1: {cfg.SEED} was chosen" in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize("wanted", [False, True])
def test_deterministic_kernels_are_taken_where_asked_for(tmp_path, process, monkeypatch, wanted):
    asked = []
    monkeypatch.setattr(run_setup, "make_deterministic", asked.append)
    set_up(tmp_path, "DETERMINISTIC", str(wanted))
    assert asked == ([False] if wanted else [])


def test_leftovers_of_killed_runs_are_removed_once_the_folder_is_ours(tmp_path):
    leftover = tmp_path / f".model_final.pth.{files._HOST}.{os.getpid()}.tmp"
    leftover.write_bytes(b"half")
    with lock_folder(tmp_path):
        assert not leftover.exists() and str(os.getpid()) in (tmp_path / LOCK_NAME).read_text()


def test_processes_beside_the_main_one_stop_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    monkeypatch.setattr(comm, "all_gather", lambda mine: ["in use by process 7", mine])
    with pytest.raises(FolderInUseError, match="in use by process 7"):
        lock_folder(tmp_path)
    monkeypatch.setattr(comm, "all_gather", lambda mine: [None, mine])
    assert lock_folder(tmp_path) is None and list(tmp_path.iterdir()) == []
