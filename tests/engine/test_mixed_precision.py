"""Mixed precision: what routes, costs and losses on routes are computed in, and how far off."""

from __future__ import annotations

import pytest
import torch
from detectron2.utils.events import EventStorage

from dynamic_routing.divdr.loss import DivDRLoss
from dynamic_routing.engine.solver import autocast_dtype
from dynamic_routing.engine.train_step import TrainStep
from dynamic_routing.modeling import ConfigError
from dynamic_routing.modeling.cost import model_cost
from dynamic_routing.routing import record_routes
from dynamic_routing.routing.budget import BudgetLoss, TargetBudgetLoss
from tests.engine.steps import run, sgd
from tests.modeling.builders import batch, small_config, small_model

INPUTS = batch((64, 64), (64, 64))
CLUSTERS = "MODEL.DYNAMIC_ROUTING.DIVDR.NUM_CLUSTERS 2 MODEL.DYNAMIC_ROUTING.DIVDR.MARGIN 4".split()
BFLOAT16 = 0.05
"""Relative deviation that 8 bits of mantissa leave after a few layers."""
AMP = ("SOLVER.AMP.ENABLED", "True")
DEVICES = [
    pytest.param("cpu", torch.bfloat16),
    *(
        pytest.param(
            "cuda",
            dtype,
            marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
        )
        for dtype in (torch.bfloat16, torch.float16)
    ),
]


def clustered(model):
    """The model, as after a first clustering."""
    (loss,) = [m for m in model.modules() if isinstance(m, DivDRLoss)]
    generator = torch.Generator().manual_seed(0)
    loss.set_clusters(torch.rand(loss.centres.shape, generator=generator), 0.5)
    return model


def losses_and_routes(model, dtype, device):
    """One training forward."""
    with (
        EventStorage(0),
        record_routes(model) as records,
        torch.autocast(device, dtype=dtype, enabled=dtype is not None),
    ):
        losses = model.train()(INPUTS)
    return losses, records[0]


@pytest.mark.parametrize(("device", "dtype"), DEVICES)
def test_gates_and_losses_are_float32_and_close_to_full_precision(device, dtype):
    budget = (
        "MODEL.DYNAMIC_ROUTING.BUDGET.LAMBDA 0.5 MODEL.DYNAMIC_ROUTING.BUDGET.START 0.0 "
        "MODEL.DYNAMIC_ROUTING.BUDGET.RAMP 0.0"
    ).split()
    model = clustered(small_model(*CLUSTERS, *budget, seed=1, bias=1.0)).to(device)
    exact, routes = losses_and_routes(model, None, device)
    found, low = losses_and_routes(model, dtype, device)
    assert low.gates.dtype == low.logits.dtype == torch.float32
    assert set(found) == {"loss_sem_seg", "loss_divdr", "loss_budget"}
    assert {loss.dtype for loss in found.values()} == {torch.float32}
    assert torch.allclose(low.gates, routes.gates, atol=BFLOAT16)
    assert not torch.equal(low.gates, routes.gates)
    for name, loss in exact.items():
        assert float(found[name].detach()) == pytest.approx(
            float(loss.detach()), rel=BFLOAT16, abs=BFLOAT16 / 10
        )


@pytest.mark.parametrize("pressure", [2.0, -2.0])
def test_losses_and_costs_of_the_same_routes_are_those_without_autocast(pressure):
    """Bit for bit: nothing of them is computed in half precision."""
    model = small_model(*CLUSTERS, seed=1)
    _, routes = losses_and_routes(clustered(model), None, "cpu")
    network = model.backbone.network
    cost = model_cost(model, convention="macs")
    target = TargetBudgetLoss(cost)
    target.pressure.fill_(pressure)
    budget = BudgetLoss(cost, weight=0.5, mu=0.1)
    budget.set_progress(1.0)
    (divdr,) = [m for m in model.modules() if isinstance(m, DivDRLoss)]
    assert network.training

    def numbers():
        found = [loss(routes, ["a", "b"]) for loss in (target, budget, divdr)]
        values = [value for losses in found for value in losses.values()]
        return [*values, cost.expected(routes), cost.executed(routes)]

    exact = numbers()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = numbers()
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(exact, low))
    assert {a.dtype for a in exact[:3]} == {torch.float32} and all(a.any() for a in exact)


@pytest.mark.parametrize(("device", "dtype"), DEVICES)
def test_accumulated_steps_train(device, dtype):
    model = small_model(seed=1).to(device)
    step = TrainStep(model, [INPUTS] * 6, sgd(model), autocast=dtype, accumulation=2, clip_norm=5.0)
    assert step.scaler.is_enabled() == (dtype == torch.float16)
    losses = [value for value, _ in run(step, times=6).history("total_loss").values()]
    assert losses[-1] < losses[0]
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in model.parameters())
    assert bool(step.state_dict()["scaler"]) == (dtype == torch.float16)


@pytest.mark.parametrize(
    ("name", "on_gpu", "expected"),
    [
        ("auto", True, torch.float16),
        ("auto", False, torch.bfloat16),
        ("bfloat16", True, torch.bfloat16),
        ("bfloat16", False, torch.bfloat16),
    ],
)
def test_precision_follows_the_config(name, on_gpu, expected):
    cfg = small_config(*AMP, "SOLVER.AMP.DTYPE", name)
    assert autocast_dtype(cfg, on_gpu) == expected
    assert autocast_dtype(small_config("SOLVER.AMP.DTYPE", name), on_gpu) is None


def test_impossible_precision_is_one_line():
    with pytest.raises(ConfigError, match="'half' is unknown; allowed: auto, bfloat16, float16"):
        small_config("SOLVER.AMP.DTYPE", "half")
    with pytest.raises(ConfigError, match="float16 needs a GPU; on the CPU there is bfloat16"):
        small_config(*AMP, "SOLVER.AMP.DTYPE", "float16")
