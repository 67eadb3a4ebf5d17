"""NaN and infinity: the run stops before its weights change, and says what it knows."""

from __future__ import annotations

import json
import math

import pytest
import torch
from detectron2.engine import launch
from detectron2.utils import comm
from torch import nn

from dynamic_routing.engine.bad_numbers import (
    POST_MORTEM,
    BadNumbersError,
    BadNumbersGuard,
    bad_tensors,
    gate_statistics,
)
from dynamic_routing.engine.checkpoint_history import TAG
from tests.engine.divdr_training import short_training
from tests.engine.poisoned import poisoned_training, stop_together


class Toy(nn.Module):
    """Loss x w, whose gradient is x."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(3))

    def forward(self, batch):
        return {"loss_a": (batch[0]["x"] * self.w).sum(), "loss_b": self.w.sum() * 0}


class TwoLarge(Toy):
    """Two losses of 2e38 each: float32 ends at 3.4e38."""

    def forward(self, batch):
        return {"loss_a": self.w[0] * 2e38, "loss_b": self.w[1] * 2e38}


class SquareRoot(Toy):
    """Finite loss, infinite gradient."""

    def forward(self, batch):
        return {"loss_root": (self.w * 0).sqrt().sum()}


class Looks(Toy):
    """Finds bad numbers itself and says so before it has losses, as Detectron2's RPN does."""

    def forward(self, batch):
        raise FloatingPointError("Predicted boxes contain Inf/NaN.")


def step(folder, model, x, *, scaler=None):
    """One watched step on one image."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    guard = BadNumbersGuard(folder)
    with guard.watching(model, optimizer, iteration=7):
        losses = model([{"x": torch.tensor(x), "file_name": "a/b.png"}])
        total = sum(losses.values())
        if scaler is None:
            total.backward()
            optimizer.step()
        else:
            scaler.scale(total).backward()
            scaler.step(optimizer)
            scaler.update()


def report(folder):
    return json.loads((folder / POST_MORTEM).read_text(), parse_constant=pytest.fail)


@pytest.mark.parametrize(("x", "word"), [(math.nan, "nan"), (math.inf, "inf")])
def test_bad_loss_stops_before_the_weights_change(tmp_path, x, word):
    model = Toy()
    with pytest.raises(BadNumbersError, match="iteration 7: a loss is NaN or infinite") as info:
        step(tmp_path, model, x)
    assert "\n" not in str(info.value) and str(tmp_path / POST_MORTEM) in str(info.value)
    assert torch.equal(model.w, torch.ones(3)) and model.w.grad is None
    found = report(tmp_path)
    assert (found["iteration"], found["cause"]) == (7, "loss")
    (process,) = found["processes"]
    assert process["losses"] == {"loss_a": word, "loss_b": 0.0}
    assert process["file_names"] == ["a/b.png"] and process["learning_rates"] == [0.1]
    assert process["bad_weights"] == []


def test_finite_losses_whose_sum_is_infinite_stop_as_well(tmp_path):
    model = TwoLarge()
    with pytest.raises(BadNumbersError, match="a loss is NaN or infinite"):
        step(tmp_path, model, 1.0)
    assert torch.equal(model.w, torch.ones(3)) and model.w.grad is None


def test_bad_gradient_stops_before_the_weights_change(tmp_path):
    model = SquareRoot()
    with pytest.raises(BadNumbersError, match="a gradient is NaN or infinite"):
        step(tmp_path, model, 1.0)
    assert torch.equal(model.w, torch.ones(3))
    (process,) = report(tmp_path)["processes"]
    assert process["bad_gradients"] == ["w"] and process["losses"] == {"loss_root": 0.0}
    assert process["file_names"] == ["a/b.png"]


def test_what_the_model_finds_itself_is_a_post_mortem_as_well(tmp_path):
    model = Looks()
    with pytest.raises(BadNumbersError, match="iteration 7: a prediction is NaN or infinite"):
        step(tmp_path, model, 1.0)
    found = report(tmp_path)
    assert found["cause"] == "prediction" and found["processes"][0]["file_names"] == ["a/b.png"]
    assert not model._forward_hooks and not model._forward_pre_hooks


def test_message_promises_a_checkpoint_only_where_there_is_one(tmp_path):
    with pytest.raises(BadNumbersError, match="There is no checkpoint yet$"):
        step(tmp_path, Toy(), math.nan)
    (tmp_path / TAG).write_text("model_0000001.pth")
    with pytest.raises(BadNumbersError, match="The last checkpoint is kept; --resume goes on"):
        step(tmp_path, Toy(), math.nan)


def test_large_gradients_are_no_bad_ones(tmp_path):
    """Their squares are infinite in float32."""
    model = Toy()
    step(tmp_path, model, 1e30)
    assert bool((model.w < -1e28).all()) and not (tmp_path / POST_MORTEM).exists()


def test_infinite_gradient_under_a_loss_scale_is_no_error(tmp_path):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100)
    model = Toy()
    step(tmp_path, model, 1e30, scaler=scaler)
    assert torch.equal(model.w, torch.ones(3)) and scaler.get_scale() == 2.0**99
    assert not (tmp_path / POST_MORTEM).exists()


def test_good_steps_pass_and_leave_no_hook(tmp_path):
    model = Toy()
    for _ in range(3):
        model.zero_grad()
        step(tmp_path, model, 1.0)
    assert torch.allclose(model.w, torch.full((3,), 0.7))
    assert not model._forward_hooks and not model._forward_pre_hooks
    assert list(tmp_path.iterdir()) == []


def test_bad_number_of_another_process_stops_this_one(tmp_path, monkeypatch):
    """The other one says so in the reduction; both write one report."""
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda flag, op: flag.fill_(1.0))
    other = {"losses": {"loss_a": "nan"}, "file_names": ["c.png"]}
    monkeypatch.setattr(comm, "gather", lambda mine: [mine, other])
    with pytest.raises(BadNumbersError):
        step(tmp_path, Toy(), 1.0)
    assert report(tmp_path)["processes"][0]["losses"] == {"loss_a": 3.0, "loss_b": 0.0}
    assert report(tmp_path)["processes"][1] == other


def test_bad_tensors_are_named_and_integers_are_fine():
    tensors = {"a": torch.tensor([1.0, math.nan]), "b": torch.tensor([1]), "c": torch.ones(2)}
    assert bad_tensors(tensors | {"d": "text", "e": torch.tensor(-math.inf)}) == ["a", "e"]


def test_gate_statistics_leave_out_what_is_no_number():
    gates = torch.tensor([[0.0, 0.5, math.nan, 1.0]])
    assert gate_statistics(gates) == {
        "images": 1,
        "edges": 4,
        "not_finite": 1,
        "min": 0.0,
        "mean": 0.5,
        "max": 1.0,
        "closed_share": pytest.approx(1 / 3),
    }
    assert gate_statistics(gates[:, 2:3]) == {"images": 1, "edges": 1, "not_finite": 1}


def test_training_stops_with_a_post_mortem_and_keeps_its_checkpoint(tmp_path):
    overrides = ("SOLVER.CHECKPOINT_PERIOD", "1", "TEST.EVAL_PERIOD", "1")
    assert poisoned_training(tmp_path, *overrides).startswith("iteration 1: ")
    found = report(tmp_path)
    (process,) = found["processes"]
    assert process["file_names"] == [f"0/{i}.png" for i in (4, 5, 6, 7)]
    assert process["gates"][0]["images"] == 4 and process["gates"][0]["not_finite"] > 0
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000000.pth"
    stored = torch.load(tmp_path / "model_0000000.pth", weights_only=True)
    assert bad_tensors(stored["model"]) == []
    assert not (tmp_path / "model_final.pth").exists()
    resumed = short_training(tmp_path, *overrides, resume=True)
    assert resumed.start_iter == 1 and resumed.iter == resumed.max_iter


@pytest.mark.slow
def test_all_processes_stop_together(tmp_path):
    """The bad image is in the second process's part of the batch."""
    launch(stop_together, 2, dist_url="auto", args=(str(tmp_path),))
    first, second = report(tmp_path)["processes"]
    assert first["file_names"] == ["0/4.png", "0/6.png"] and second["file_names"][1] == "0/7.png"
    assert first["gates"][0]["not_finite"] == 0 < second["gates"][0]["not_finite"]
    assert second["losses"]["loss_sem_seg"] == "nan" != first["losses"]["loss_sem_seg"]
    said = [(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)]
    assert said[0] == said[1] and said[0].startswith("iteration 1: a loss is NaN")
