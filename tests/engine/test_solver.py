"""Optimiser, schedule and clipping against closed forms."""

from __future__ import annotations

import logging

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from dynamic_routing.engine.solver import (
    build_lr_scheduler,
    build_optimizer,
    full_model_clip_norm,
    gate_parameter_names,
    scale_learning_rate,
)
from dynamic_routing.engine.train_step import TrainStep
from tests.modeling.builders import small_config, small_model


def groups(cfg, model):
    """Name -> the optimiser's settings of that parameter."""
    names = {id(p): n for n, p in model.named_parameters()}
    optimizer = build_optimizer(cfg, model)
    found = {names[id(p)]: group for group in optimizer.param_groups for p in group["params"]}
    assert found.keys() == set(names.values())
    return found


def test_gates_and_only_gates_learn_faster():
    cfg = small_config("SOLVER.BASE_LR", "0.01")
    fast = 0
    for name, group in groups(cfg, small_model()).items():
        assert group["lr"] == pytest.approx(0.025 if ".gate." in name else 0.01), name
        assert group["momentum"] == 0.9
        fast += ".gate." in name
    assert fast == 10 * 5  # cells x (1x1, norm's scale and shift, 1x1 with bias)


def test_norms_and_only_norms_do_not_decay():
    model = small_model()
    norms = {
        f"{name}.{part}"
        for name, module in model.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        for part in ("weight", "bias")
    }
    found = groups(small_config(), model)
    assert norms < found.keys()
    for name, group in found.items():
        assert group["weight_decay"] == (0.0 if name in norms else 1e-4), name


def test_gate_factor_and_decay_come_from_the_config():
    cfg = small_config("SOLVER.GATE_LR_FACTOR", "4.0", "SOLVER.WEIGHT_DECAY", "0.5")
    found = groups(cfg, small_model())
    gate = found["backbone.network.cells.initial.gate.predict.weight"]
    assert gate["lr"] == pytest.approx(4 * cfg.SOLVER.BASE_LR) and gate["weight_decay"] == 0.5


def test_model_without_gates_has_no_gate_parameters():
    model = small_model("MODEL.DYNAMIC_ROUTING.GATE.ACTIVATION", "fixed")
    assert gate_parameter_names(model) == set() == gate_parameter_names(nn.Linear(1, 1))
    assert len(gate_parameter_names(small_model())) == 50


def learning_rates(*overrides):
    """The learning rate of every iteration of a run of 50."""
    cfg = small_config("SOLVER.BASE_LR", "0.05", "SOLVER.MAX_ITER", "50", *overrides)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=cfg.SOLVER.BASE_LR)
    scheduler = build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(50):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_poly_schedule_equals_its_closed_form_without_warm_up():
    expected = [0.05 * (1 - i / 50) ** 0.9 for i in range(50)]
    assert learning_rates() == pytest.approx(expected, rel=1e-12)


def test_poly_power_comes_from_the_config():
    expected = [0.05 * (1 - i / 50) ** 2 for i in range(50)]
    assert learning_rates("SOLVER.POLY_LR_POWER", "2.0") == pytest.approx(expected, rel=1e-12)


def test_warm_up_rises_in_a_line_to_the_poly_curve():
    rates = learning_rates("SOLVER.WARMUP_ITERS", "10", "SOLVER.WARMUP_FACTOR", "0.1")
    end = 0.05 * 0.8**0.9
    line = [0.005 + (end - 0.005) * i / 10 for i in range(10)]
    curve = [0.05 * (1 - i / 50) ** 0.9 for i in range(10, 50)]
    assert rates == pytest.approx(line + curve, rel=1e-9)


def test_other_schedules_are_detectron2s():
    steps = ("SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR", "SOLVER.STEPS", "(20, 40)")
    rates = learning_rates(*steps)
    assert rates == pytest.approx([0.05] * 20 + [0.005] * 20 + [0.0005] * 10)


class Pull(nn.Module):
    """Two parameters with the gradients that a batch names."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))

    def forward(self, batch):
        return {"loss_pull": (self.a * batch[:2]).sum() + (self.b * batch[2:]).sum()}


def one_update(clip_norm, gradient):
    """What a step with learning rate 1 subtracts."""
    model = Pull()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    step = TrainStep(model, [gradient], optimizer, clip_norm=clip_norm)
    with EventStorage(0) as storage:
        step.run_step()
    logged = storage.latest().get("grad_norm", (None, 0))[0]
    return -torch.cat([model.a, model.b]).detach(), logged


def test_full_model_clipping_bounds_the_norm_of_all_gradients_together():
    gradient = torch.tensor([3.0, 4.0, 12.0])  # of norm 13
    update, norm = one_update(5.0, gradient)
    assert norm == 13.0
    assert torch.allclose(update, gradient * (5.0 / (13.0 + 1e-6)), rtol=1e-7, atol=0)
    assert float(update.norm()) == pytest.approx(5.0, rel=1e-6)


def test_full_model_clipping_leaves_short_gradients_alone():
    gradient = torch.tensor([0.3, 0.4, 1.2])
    assert torch.equal(one_update(5.0, gradient)[0], gradient)
    update, norm = one_update(None, 100 * gradient)
    assert torch.equal(update, 100 * gradient) and norm is None


def test_full_model_clipping_is_left_to_the_training_step():
    cfg = small_config()
    assert full_model_clip_norm(cfg) == 5.0
    assert type(build_optimizer(cfg, small_model())) is torch.optim.SGD
    assert full_model_clip_norm(small_config("SOLVER.CLIP_GRADIENTS.ENABLED", "False")) is None


def test_clipping_of_each_parameter_stays_in_detectron2s_optimiser():
    clip = ("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm", "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "2.0")
    cfg = small_config(*clip, "SOLVER.BASE_LR", "1.0", "SOLVER.WEIGHT_DECAY", "0.0")
    assert full_model_clip_norm(cfg) is None
    model = Pull()
    optimizer = build_optimizer(cfg, model)
    assert isinstance(optimizer, torch.optim.SGD) and type(optimizer) is not torch.optim.SGD
    model(torch.tensor([3.0, 4.0, 12.0]))["loss_pull"].backward()
    optimizer.step()
    assert (-model.a).tolist() == pytest.approx([1.2, 1.6])
    assert (-model.b).tolist() == pytest.approx([2.0])


def test_learning_rate_follows_the_batch_and_says_so(caplog):
    batch = ("SOLVER.IMS_PER_BATCH", "4", "SOLVER.REFERENCE_IMS_PER_BATCH", "8")
    cfg = small_config(*batch, "SOLVER.BASE_LR", "0.05")
    with caplog.at_level(logging.INFO, "dynamic_routing.engine.solver"):
        scale_learning_rate(cfg)
        assert cfg.SOLVER.BASE_LR == pytest.approx(0.025)
        scale_learning_rate(cfg)  # the config says that it was done
    assert cfg.SOLVER.BASE_LR == pytest.approx(0.025)
    (line,) = [r.getMessage() for r in caplog.records]
    assert line == (
        "learning rate scaled from 0.05 to 0.025: batch of 4 images, recipe written for 8"
    )


@pytest.mark.parametrize("reference", ["0", "16"])
def test_learning_rate_stays_where_no_other_batch_is_named(caplog, reference):
    batch = ("SOLVER.IMS_PER_BATCH", "16", "SOLVER.REFERENCE_IMS_PER_BATCH", reference)
    cfg = small_config(*batch, "SOLVER.BASE_LR", "0.05")
    with caplog.at_level(logging.INFO, "dynamic_routing.engine.solver"):
        scale_learning_rate(cfg)
    assert cfg.SOLVER.BASE_LR == 0.05 and not caplog.records
