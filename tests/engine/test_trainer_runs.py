"""Whole trainings in this process: repeatable, whatever the workers; nothing lost when refused."""

from __future__ import annotations

import errno
import json
import logging
import os
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.events import EventStorage, JSONWriter

from dynamic_routing import files
from dynamic_routing.engine.loaders import prepare_datasets
from dynamic_routing.engine.randomness import make_deterministic
from dynamic_routing.engine.run_files import EVALUATED, numbered_lines
from dynamic_routing.engine.trainer import Trainer
from dynamic_routing.files import WriteError
from dynamic_routing.modeling import get_config
from tests.engine.divdr_training import ShortTrainer, short_config, short_training
from tests.engine.kill_chain import SETTINGS, make_data
from tests.modeling.builders import QUICK

LONGER = ("SOLVER.MAX_ITER", "4", "TEST.EVAL_PERIOD", "0", "TEST.PRECISE_BN.ENABLED", "False")


@pytest.fixture
def settings(tmp_path):
    """Overrides of a tiny training on image files; the catalogues are put back."""
    data = dict(DatasetCatalog.data), dict(MetadataCatalog.data)
    yield [*SETTINGS, *make_data(tmp_path / "data")]
    DatasetCatalog.data, MetadataCatalog.data = data


def trained(settings, folder, *overrides):
    """The weights at the end of a training on image files, by the real trainer."""
    cfg = get_config(QUICK, [*settings, *LONGER, "OUTPUT_DIR", str(folder), *overrides])
    prepare_datasets(cfg)
    cfg.DATASETS.TEST = ()
    cfg.freeze()
    torch.manual_seed(0)
    trainer = Trainer(cfg)
    trainer.resume_or_load(False)
    trainer.train()
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_two_runs_are_bit_equal_and_workers_make_no_difference(settings, tmp_path):
    first = trained(settings, tmp_path / "a", "DATALOADER.NUM_WORKERS", "0")
    torch.rand(7)  # whatever this process did in between
    assert same(first, trained(settings, tmp_path / "b", "DATALOADER.NUM_WORKERS", "2"))
    other = trained(settings, tmp_path / "c", "SEED", "6")
    assert not same(first, other)


def test_deterministic_switch_trains_on_a_cpu(settings, tmp_path):
    environment = dict(os.environ)
    try:
        make_deterministic(False)
        first = trained(settings, tmp_path / "a", "DATALOADER.NUM_WORKERS", "0")
        assert same(first, trained(settings, tmp_path / "b", "DATALOADER.NUM_WORKERS", "0"))
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.deterministic = False
        os.environ.clear()
        os.environ.update(environment)


class Full(ShortTrainer):
    """A training whose disk is full from some iteration on."""

    monkeypatch: pytest.MonkeyPatch

    def run_step(self):
        if self.iter == 7:
            self.monkeypatch.setattr(files.os, "fsync", self.refuse)
        super().run_step()

    @staticmethod
    def refuse(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.slow
def test_full_disk_stops_with_the_last_checkpoint_kept(tmp_path, monkeypatch):
    Full.monkeypatch = monkeypatch
    cfg = short_config(tmp_path, "SOLVER.CHECKPOINT_PERIOD", "2")
    trainer = Full(cfg)
    trainer.resume_or_load(False)
    with pytest.raises(WriteError, match="model_0000007.pth: No space left on device"):
        trainer.train()
    monkeypatch.undo()
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000005.pth"
    assert not list(tmp_path.glob(".*.tmp"))
    whole = short_training(tmp_path / "other", "SOLVER.CHECKPOINT_PERIOD", "2")
    resumed = short_training(tmp_path, "SOLVER.CHECKPOINT_PERIOD", "2", resume=True)
    assert resumed.start_iter == 6
    assert same(whole.model.state_dict(), resumed.model.state_dict())


def test_training_that_is_refused_leaves_the_folder_as_it_was(tmp_path):
    short_training(tmp_path, "SOLVER.MAX_ITER", "3")
    (tmp_path / "metrics.json").write_text('{"iteration": 1}\n')
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    other = short_config(tmp_path, "MODEL.DYNAMIC_ROUTING.WIDTH", "8")
    with pytest.raises(ValueError, match="another network"):
        ShortTrainer(other).resume_or_load(True)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before


def test_run_killed_before_its_first_checkpoint_does_not_go_on_with_an_earlier_one(tmp_path):
    new = ("SOLVER.MAX_ITER", "7")
    short_training(tmp_path / "old", "SOLVER.MAX_ITER", "3")
    short_training(tmp_path / "old", *new, killed_at=2)
    resumed = short_training(tmp_path / "old", *new, resume=True)
    assert resumed.start_iter == 0
    whole = short_training(tmp_path / "new", *new)
    assert same(whole.model.state_dict(), resumed.model.state_dict())


def test_checkpoint_period_0_writes_one_checkpoint_at_the_end(tmp_path):
    short_training(tmp_path, "SOLVER.CHECKPOINT_PERIOD", "0", "SOLVER.MAX_ITER", "3")
    assert [p.name for p in tmp_path.glob("model_0*")] == []
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


def test_resume_of_a_finished_run_adds_no_iteration(tmp_path):
    short_training(tmp_path, "SOLVER.MAX_ITER", "3")
    again = short_training(tmp_path, "SOLVER.MAX_ITER", "3", resume=True)
    assert again.iter == again.storage.iter == 3


def test_max_iter_below_what_is_done_rewrites_no_earlier_iteration(tmp_path):
    whole = short_training(tmp_path, "SOLVER.MAX_ITER", "5")
    before = (tmp_path / "model_final.pth").read_bytes()
    lowered = short_training(tmp_path, "SOLVER.MAX_ITER", "3", resume=True)
    assert lowered.iter == lowered.storage.iter == 5
    assert same(whole.model.state_dict(), lowered.model.state_dict())
    assert (tmp_path / "model_final.pth").read_bytes() == before


def test_resumed_run_keeps_its_learning_rate_and_says_so(tmp_path, caplog):
    short_training(tmp_path, "SOLVER.MAX_ITER", "3")
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="dynamic_routing.engine.solver"):
        same_again = short_training(tmp_path, "SOLVER.MAX_ITER", "4", resume=True)
        assert caplog.messages == []
        other = ("SOLVER.MAX_ITER", "5", "SOLVER.BASE_LR", "0.5", "SOLVER.MOMENTUM", "0.1")
        changed = short_training(tmp_path, *other, resume=True)
    assert changed.scheduler.base_lrs == same_again.scheduler.base_lrs
    (line,) = caplog.messages
    assert "SOLVER.BASE_LR, SOLVER.MOMENTUM" in line and "without --resume" in line


def test_seed_that_was_chosen_is_taken_up(tmp_path):
    def seed_of(*, resume):
        trainer = short_training(
            tmp_path, "SEED", "-1", "SOLVER.MAX_ITER", "7", resume=resume, killed_at=6
        )
        stored = CfgNode.load_cfg((tmp_path / "config.yaml").read_text())
        assert stored.SEED == trainer._seeds.seed
        return trainer._seeds.seed

    first = seed_of(resume=False)
    assert seed_of(resume=True) == first != seed_of(resume=False)


class Evaluating(ShortTrainer):
    """Counts its evaluations."""

    def __init__(self, cfg):
        super().__init__(cfg)
        self.evaluated = []

    def evaluate(self):
        self.evaluated.append(self.iter)
        return {"a": {"b": float(self.iter)}}

    def build_writers(self):
        return [JSONWriter(str(Path(self.cfg.OUTPUT_DIR) / "metrics.json"))]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "expected"),
    [(None, [5, 8, 12]), ({"a": 1}, [5, 8, 12]), ({EVALUATED: 0.1}, [8, 12])],
    ids=["nothing", "training", "evaluation"],
)
def test_evaluation_that_a_killed_run_owed_is_made_up_for(tmp_path, line, expected):
    overrides = ("TEST.EVAL_PERIOD", "3", "SOLVER.CHECKPOINT_PERIOD", "6")
    short_training(tmp_path, *overrides, "TEST.EVAL_PERIOD", "0", killed_at=7)
    metrics = tmp_path / "metrics.json"
    if line is not None:
        metrics.write_text(json.dumps({"iteration": 5, **line}) + "\n")
    trainer = Evaluating(short_config(tmp_path, *overrides))
    trainer.resume_or_load(True)
    trainer.train()
    assert trainer.evaluated == expected
    written = {i: json.loads(x) for i, x in numbered_lines(metrics.read_text())}
    assert len(written) == len(metrics.read_text().splitlines())
    assert (line or {}).items() <= written[5].items()
    assert {i for i, x in written.items() if EVALUATED in x} == {5, 8, 12}


def test_failed_training_is_not_evaluated(tmp_path):
    """Detectron2 evaluates where the last iteration fails."""
    trainer = Evaluating(short_config(tmp_path, "SOLVER.MAX_ITER", "3"))
    trainer.killed_at = 2
    with EventStorage(0), pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert trainer.evaluated == []
