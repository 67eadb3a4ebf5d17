"""The moving average of the weights: closed form, buffers, resuming, what is evaluated."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from dynamic_routing.engine.checkpoint import CheckpointError
from dynamic_routing.engine.ema import KEY, WeightAverage
from dynamic_routing.engine.trainer import Trainer, evaluate_checkpoint
from dynamic_routing.modeling import ConfigError
from tests.engine.divdr_training import short_config, short_training
from tests.modeling.builders import small_config

EMA = ("MODEL.EMA.ENABLED", "True")
EVALUATE = "MODEL.EMA.EVALUATE"


class Trained(nn.Module):
    """A weight, a norm and what is neither."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2).double()
        self.norm = nn.BatchNorm2d(4)
        self.register_buffer("centres", torch.randn(2, 3))
        self.register_buffer("ready", torch.zeros((), dtype=torch.bool))


@pytest.mark.parametrize(("decay", "steps"), [(0.9, 40), (0.9998, 25), (0.0, 3)])
def test_average_has_its_closed_form(decay, steps):
    """Weights of the sum by hand: (1 - d_t) times the product of all later d_s."""
    model = Trained()
    average = WeightAverage(model, decay=decay)
    seen = [model.linear.weight.detach().clone()]
    for _ in range(steps):
        nn.init.normal_(model.linear.weight)
        seen.append(model.linear.weight.detach().clone())
        average.update()
    kept = [0.0, *(min(decay, (1 + t) / (10 + t)) for t in range(1, steps + 1))]
    shares = [(1 - kept[t]) * math.prod(kept[t + 1 :]) for t in range(steps + 1)]
    assert sum(shares) == pytest.approx(1.0)
    expected = sum(share * weight for share, weight in zip(shares, seen))
    assert torch.allclose(average.state_dict()["model"]["linear.weight"], expected, atol=1e-12)
    assert average.updates == steps


def test_statistics_of_norms_are_averaged_and_other_buffers_taken():
    model = Trained()
    average = WeightAverage(model, decay=0.5)
    model.norm.running_mean.fill_(1.0)
    model.norm.num_batches_tracked.fill_(7)
    model.centres.fill_(3.0)
    model.ready.fill_(True)
    average.update()
    state = average.averaged_model().state_dict()
    assert torch.allclose(state["norm.running_mean"], torch.full((4,), 1 - 2 / 11))
    assert int(state["norm.num_batches_tracked"]) == 7 and bool(state["ready"])
    assert torch.equal(state["centres"], model.centres)


def test_averaged_model_is_a_copy():
    model = Trained()
    average = WeightAverage(model, decay=0.9)
    before = model.linear.weight.detach().clone()
    nn.init.zeros_(average.averaged_model().linear.weight)
    assert torch.equal(model.linear.weight, before)
    assert torch.equal(average.state_dict()["model"]["linear.weight"], before)


def test_average_of_another_network_is_refused():
    state = WeightAverage(nn.Linear(3, 2), decay=0.9).state_dict()
    with pytest.raises(ValueError, match="model_ema is of another network"):
        WeightAverage(nn.Linear(3, 4), decay=0.9).load_state_dict(state)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_decay_outside_its_bounds_is_refused(decay):
    with pytest.raises(ValueError, match=f"got {decay}"):
        WeightAverage(nn.Linear(1, 1), decay=decay)
    with pytest.raises(ConfigError, match="MODEL.EMA.DECAY must be in"):
        small_config("MODEL.EMA.DECAY", str(decay))


def test_unknown_choice_is_refused():
    with pytest.raises(ConfigError, match="'all' is unknown; allowed: model, ema, both"):
        small_config(EVALUATE, "all")


@pytest.mark.slow
def test_average_survives_a_resume(tmp_path):
    short = (*EMA, "SOLVER.MAX_ITER", "4", "SOLVER.CHECKPOINT_PERIOD", "2")
    whole = short_training(tmp_path / "whole", *short)
    short_training(tmp_path / "resumed", *short, killed_at=3)
    resumed = short_training(tmp_path / "resumed", *short, resume=True)
    assert resumed.start_iter == 2
    a, b = whole.average.state_dict(), resumed.average.state_dict()
    assert a["updates"] == b["updates"] == 4
    assert all(torch.equal(a["model"][name], b["model"][name]) for name in a["model"])
    stored = torch.load(tmp_path / "whole" / "model_final.pth", weights_only=True)
    assert any(not torch.equal(stored["model"][n], stored[KEY]["model"][n]) for n in a["model"])


def test_average_starts_from_loaded_weights(tmp_path):
    short_training(tmp_path / "first", "SOLVER.MAX_ITER", "3")
    weights = ("MODEL.WEIGHTS", str(tmp_path / "first" / "model_final.pth"))
    still = ("SOLVER.BASE_LR", "0.0", "SOLVER.MAX_ITER", "3")
    trainer = short_training(tmp_path / "second", *EMA, *weights, *still)
    average, trained = trainer.average.state_dict()["model"], trainer.model.state_dict()
    parameters = [name for name, _ in trainer.model.named_parameters()]
    assert all(torch.allclose(average[n], trained[n], atol=1e-7) for n in parameters)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A run with an average."""
    folder = tmp_path_factory.mktemp("average")
    short_training(folder, *EMA, "SOLVER.MAX_ITER", "4")
    return folder / "model_final.pth"


@pytest.mark.parametrize("chosen", ["model", "ema", "both"])
def test_eval_only_evaluates_what_is_chosen(checkpoint, tmp_path, monkeypatch, chosen):
    def weight_sum(cfg, model, evaluators=None):
        return {"sum": sum(float(p.detach().double().sum()) for p in model.parameters())}

    monkeypatch.setattr(Trainer, "test", weight_sum)
    cfg = short_config(tmp_path, *EMA, EVALUATE, chosen, "MODEL.WEIGHTS", str(checkpoint))
    stored = torch.load(checkpoint, weights_only=True)
    names = [name for name, _ in Trainer.build_model(cfg).named_parameters()]
    model = sum(float(stored["model"][n].double().sum()) for n in names)
    average = sum(float(stored[KEY]["model"][n].double().sum()) for n in names)
    assert model != average
    expected = {
        "model": {"sum": model},
        "ema": {"sum": average},
        "both": {"sum": model, "ema": {"sum": average}},
    }[chosen]
    found = evaluate_checkpoint(cfg)
    assert found.keys() == expected.keys()
    assert found["sum"] == pytest.approx(expected["sum"], rel=1e-9)
    assert found.get("ema", {}) == pytest.approx(expected.get("ema", {}), rel=1e-9)


def test_checkpoint_without_an_average_is_one_line(checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    del content[KEY]
    torch.save(content, tmp_path / "plain.pth")
    cfg = short_config(tmp_path, *EMA, "MODEL.WEIGHTS", str(tmp_path / "plain.pth"))
    with pytest.raises(CheckpointError, match="holds no moving average: set MODEL.EMA.ENABLED"):
        evaluate_checkpoint(cfg)
