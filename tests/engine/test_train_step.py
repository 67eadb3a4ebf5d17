"""One training step against a step written by hand; mixed precision; state."""

from __future__ import annotations

import copy

import pytest
import torch
from detectron2.utils.events import EventStorage

from dynamic_routing.engine.solver import build_optimizer
from dynamic_routing.engine.train_step import TrainStep
from dynamic_routing.routing import record_routes
from tests.engine.steps import run, sgd
from tests.modeling.builders import batch, small_config, small_model

INPUTS = batch((64, 64), (64, 64))


def test_step_equals_a_step_by_hand_bit_for_bit():
    model = small_model(seed=1)
    twin = copy.deepcopy(model).train()
    step = TrainStep(model, [INPUTS] * 3, sgd(model))
    storage = run(step, times=3)

    optimizer = sgd(twin)
    with EventStorage(0):
        for _ in range(3):
            losses = twin(INPUTS)
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
    trained, expected = model.state_dict(), twin.state_dict()
    assert all(torch.equal(trained[name], expected[name]) for name in expected)
    assert storage.latest()["total_loss"][0] == float(losses["loss_sem_seg"].detach())


def test_bfloat16_trains_on_a_cpu_and_keeps_gates_in_float32():
    model = small_model()
    step = TrainStep(model, [INPUTS] * 6, sgd(model), autocast=torch.bfloat16)
    types = []
    handle = model.backbone.register_forward_hook(lambda m, i, o: types.append(o["p2"].dtype))
    with record_routes(model) as records:
        storage = run(step, times=6)
    handle.remove()
    assert set(types) == {torch.bfloat16}
    assert {routes.gates.dtype for routes in records} == {torch.float32}
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in model.parameters())
    losses = [value for value, _ in storage.history("total_loss").values()]
    assert losses[-1] < losses[0] and torch.tensor(losses).isfinite().all()


def test_full_precision_is_the_default():
    model = small_model()
    types = []
    model.backbone.register_forward_hook(lambda m, i, o: types.append(o["p2"].dtype))
    run(TrainStep(model, [INPUTS], sgd(model)))
    assert types == [torch.float32]


def test_loss_that_is_not_finite_changes_no_weights_even_without_the_guard():
    model = small_model(seed=1)
    model.sem_seg_head.loss_weight = float("nan")
    before = copy.deepcopy(dict(model.named_parameters()))
    with pytest.raises(FloatingPointError, match="NaN at iteration=0"):
        run(TrainStep(model, [INPUTS], sgd(model)))
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_model_in_evaluation_mode_is_an_error():
    model = small_model()
    step = TrainStep(model, [INPUTS], sgd(model))
    model.eval()
    with pytest.raises(AssertionError, match="evaluation mode"), EventStorage(0):
        step.run_step()


@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16])
def test_state_survives_a_round_trip(autocast):
    model = small_model()
    optimizer = build_optimizer(small_config(), model)
    step = TrainStep(model, [INPUTS] * 2, optimizer, autocast=autocast)
    if autocast != torch.float16:
        run(step, times=2)
    else:
        step.scaler._init_scale = 8.0
    state = copy.deepcopy(step.state_dict())
    other_model = copy.deepcopy(model)
    other = TrainStep(
        other_model, [INPUTS] * 2, build_optimizer(small_config(), other_model), autocast=autocast
    )
    assert str(other.state_dict()) != str(state)
    other.load_state_dict(state)
    assert str(other.state_dict()) == str(state)


def test_continuing_from_a_state_equals_not_stopping():
    model = small_model(seed=2)
    whole = TrainStep(model, [INPUTS] * 4, sgd(model))
    run(whole, times=2)
    state = copy.deepcopy(whole.state_dict())
    resumed_model = copy.deepcopy(model)
    run(whole, times=2)
    resumed = TrainStep(resumed_model, [INPUTS] * 2, sgd(resumed_model, lr=1.0))
    resumed.load_state_dict(state)
    run(resumed, times=2)
    a, b = model.state_dict(), resumed_model.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
