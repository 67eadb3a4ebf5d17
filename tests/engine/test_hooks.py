"""Hooks: the best checkpoint over a resume, and the training's progress."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch
from detectron2.utils.events import EventStorage

from dynamic_routing.engine.checkpoint import RoutingCheckpointer
from dynamic_routing.engine.hooks import BestCheckpoint, TrainingProgress
from tests.modeling.builders import small_model

METRIC = "sem_seg/mIoU"


class Run:
    """Ten iterations with an evaluation every second one."""

    def __init__(self, folder, period=2):
        self.folder = folder
        self.model = torch.nn.Linear(1, 1)
        self.checkpointer = RoutingCheckpointer(self.model, str(folder))
        self.hook = BestCheckpoint(self.checkpointer, metric=METRIC, period=period)
        self.hook.trainer = SimpleNamespace(iter=0, max_iter=10, storage=EventStorage(0))

    def evaluate(self, done, value):
        """What a trainer does behind iteration ``done``."""
        trainer = self.hook.trainer
        trainer.iter = trainer.storage.iter = done - 1
        torch.nn.init.constant_(self.model.bias, done)
        if value is not None:
            trainer.storage.put_scalar(METRIC, value)
        self.hook.after_step()
        if done == trainer.max_iter:
            self.hook.after_train()

    def best(self):
        """(metric, bias) of model_best.pth."""
        if not (self.folder / "model_best.pth").exists():
            return None
        stored = torch.load(self.folder / "model_best.pth", weights_only=True)
        return stored["metric"], float(stored["model"]["bias"])


def test_best_checkpoint_is_that_of_the_highest_metric(tmp_path):
    run = Run(tmp_path)
    found = []
    for done, value in [(2, 30.0), (4, 50.0), (6, 40.0), (8, 50.0), (10, 60.0)]:
        run.evaluate(done, value)
        found.append(run.best())
    assert found == [(30.0, 2), (50.0, 4), (50.0, 4), (50.0, 4), (60.0, 10)]


def test_iterations_without_an_evaluation_are_not_looked_at(tmp_path):
    run = Run(tmp_path, period=4)
    run.evaluate(2, 30.0)
    assert run.best() is None
    run.evaluate(4, 20.0)
    assert run.best() == (20.0, 4)
    only_last = Run(tmp_path / "last", period=0)
    (tmp_path / "last").mkdir()
    only_last.evaluate(4, 20.0)
    assert only_last.best() is None
    only_last.evaluate(10, 20.0)
    assert only_last.best() == (20.0, 10)


def test_best_value_survives_a_resume(tmp_path):
    run = Run(tmp_path)
    run.evaluate(2, 50.0)
    resumed = Run(tmp_path)
    resumed.hook.load_state_dict(run.hook.state_dict())
    resumed.evaluate(4, 40.0)
    assert resumed.best() == (50.0, 2)
    resumed.evaluate(6, 51.0)
    assert resumed.best() == (51.0, 6)
    assert type(resumed.hook.state_dict()["best"]) is float


def test_best_checkpoint_is_never_the_one_to_resume_from(tmp_path):
    run = Run(tmp_path)
    run.checkpointer.save("model_0000001")
    run.evaluate(2, 50.0)
    assert run.best() and (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_metric_that_is_no_number_keeps_no_checkpoint(tmp_path, caplog, value):
    run = Run(tmp_path)
    with caplog.at_level(logging.WARNING):
        run.evaluate(2, value)
    assert run.best() is None
    assert (METRIC in caplog.text) == (value is None)


def test_metric_that_is_no_number_leaves_the_best_so_far(tmp_path):
    run = Run(tmp_path)
    found = []
    for done, value in [(2, 30.0), (4, float("nan")), (6, 20.0), (8, 40.0)]:
        run.evaluate(done, value)
        found.append(run.best())
    assert found == [(30.0, 2)] * 3 + [(40.0, 8)]


def test_progress_reaches_drop_path_and_budget():
    model = small_model("MODEL.DYNAMIC_ROUTING.BUDGET.LAMBDA", "0.5")
    hook = TrainingProgress(model)
    for done, fraction in [(0, 0.0), (5, 0.5), (10, 1.0), (12, 1.0)]:
        hook.trainer = SimpleNamespace(iter=done, max_iter=10)
        hook.before_step()
        assert float(model.backbone.network.progress) == fraction
        assert float(model.routing_losses[0].progress) == fraction
