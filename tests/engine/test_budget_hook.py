"""The hook behind a target in GMACs: what it probes, sets, remembers and refuses."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.events import EventStorage
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dynamic_routing.data.catalog import register_datasets
from dynamic_routing.data.cityscapes import generate_cityscapes
from dynamic_routing.engine.budget_hook import BudgetTargetHook, CostProbe, build_budget_hook
from dynamic_routing.engine.loaders import build_test_loader
from dynamic_routing.evaluation.routing_evaluator import RoutingEvaluator
from dynamic_routing.modeling.cost import RouteCosts, model_cost
from dynamic_routing.routing import Routes, RoutingSpace
from dynamic_routing.routing.budget import BudgetController, TargetBudgetLoss
from dynamic_routing.routing.cost import GIGA, CostModel
from tests.modeling.builders import batch, small_config, small_model
from tests.routing.builders import small_network

SIZE = (64, 128)
BUDGET = "MODEL.DYNAMIC_ROUTING.BUDGET."
TARGET_SIZE = (BUDGET + "TARGET_SIZE", list(SIZE))
TRAIN, VAL = "cityscapes_fine_sem_seg_train", "cityscapes_fine_sem_seg_val"
INPUT = ("INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "128", "DATALOADER.NUM_WORKERS", "0")


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    """Generated street scenes, registered while this module runs."""
    root = tmp_path_factory.mktemp("datasets")
    generate_cityscapes(root, counts={"train": 7, "val": 3}, size=SIZE, seed=1)
    saved = dict(DatasetCatalog.data), dict(MetadataCatalog.data)
    register_datasets(root)
    yield root
    DatasetCatalog.data, MetadataCatalog.data = saved


def bounds(model):
    """What the model costs with every gate closed and with every gate open, in GMACs."""
    cost = model_cost(model, convention="macs")
    return cost.closed_cost(*SIZE) / GIGA, cost.open_cost(*SIZE) / GIGA


def build(target, *overrides, seed=None):
    """Config, model and hook for a target in GMACs."""
    wanted = (BUDGET + "TARGET_GMACS", repr(target), *TARGET_SIZE, *INPUT, *overrides)
    model = small_model(*wanted, seed=seed)
    return model, build_budget_hook(small_config(*wanted), model)


# Building ----------------------------------------------------------------------------------------


def test_no_target_no_hook():
    model = small_model()
    assert build_budget_hook(small_config(), model) is None
    assert not list(model.routing_losses)


def test_target_outside_what_the_network_can_cost_is_refused_with_both_bounds(street):
    floor, ceiling = bounds(small_model())
    assert 0 < floor < ceiling
    for target in (1e-9, 0.99 * floor, floor, 1.01 * ceiling, 1000.0):
        with pytest.raises(ValueError) as caught:
            build(target)
        message = str(caught.value)
        assert f"{target:g} cannot be met: at 64x128" in message
        assert f"{floor:.4g} GMACs with every gate closed" in message
        assert f"{ceiling:.4g} with every gate open" in message and "\n" not in message
    for target in (1.01 * floor, ceiling):
        assert build(target)[1] is not None


def test_bounds_are_those_of_the_running_network():
    model = small_model().eval()
    for bias, bound in zip((-3.0, 3.0), bounds(model)):
        for name, parameter in model.backbone.named_parameters():
            if ".gate.predict." in name:
                nn.init.constant_(parameter, bias if name.endswith("bias") else 0.0)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(batch(SIZE, labels=False))
        assert bound == counter.get_total_flops() / 2 / GIGA


def test_target_and_lambda_together_are_refused():
    with pytest.raises(ValueError, match="TARGET_GMACS 0.5 replaces BUDGET.LAMBDA 0.25: set one"):
        small_model(BUDGET + "TARGET_GMACS", "0.5", BUDGET + "LAMBDA", "0.25")


def test_gates_that_never_close_and_a_size_below_the_stride_are_refused(street):
    with pytest.raises(ValueError, match=r"needs gates that close \(max_tanh\); .* is softmax"):
        build(0.0134, "MODEL.DYNAMIC_ROUTING.GATE.ACTIVATION", "softmax")
    with pytest.raises(ValueError, match=r"TARGET_SIZE must be at least 32x32, got \(31, 64\)"):
        build(0.0134, BUDGET + "TARGET_SIZE", "[31, 64]")


def test_controller_gets_its_target_as_a_share_of_the_ceiling(street):
    floor, ceiling = bounds(small_model())
    target = 0.5 * (floor + ceiling)
    model, hook = build(target, BUDGET + "START", "0.3", BUDGET + "ARRIVE", "0.9")
    state = hook.state_dict()
    assert state["target"] == pytest.approx(target / ceiling)
    assert (state["start"], state["arrive"], state["pressure"]) == (0.3, 0.9, 0.0)
    assert isinstance(model.routing_losses[0], TargetBudgetLoss)


@pytest.mark.parametrize("images", [1, 3, 7, 50])
def test_probe_takes_images_from_all_over_the_training_set(street, images):
    _, ceiling = bounds(small_model())
    _, hook = build(0.99 * ceiling, BUDGET + "PROBE_IMAGES", str(images))
    files = [x["file_name"] for x in hook._probe._inputs]
    every = [record["file_name"] for record in DatasetCatalog.get(TRAIN)]
    assert len(files) == min(images, 7) and set(files) <= set(every)
    positions = [every.index(file) for file in files]
    assert positions == [i * (7 // min(images, 7)) for i in range(len(files))]


# Probing -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    """A model whose images take different routes."""
    return small_model("MODEL.DYNAMIC_ROUTING.SPACE.NUM_LAYERS", "5", seed=2, bias=0.0)


def probe_of(model, inputs):
    return CostProbe(model, inputs=inputs, cost=model_cost(model, convention="macs"), size=SIZE)


def counted_share(model, inputs):
    """Average multiply-adds as PyTorch counts them, over those of the ceiling."""
    model.eval()
    counts = []
    for one_input in inputs:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model([one_input])
        counts.append(counter.get_total_flops() / 2)
    assert len(set(counts)) > 1
    return sum(counts) / len(counts) / GIGA / bounds(model)[1]


def test_probe_is_the_average_that_pytorch_counts(model):
    inputs = batch(*[SIZE] * 6, labels=False)
    assert probe_of(model, inputs)() == pytest.approx(counted_share(model, inputs), rel=1e-9)


def test_probe_prices_every_image_at_the_target_size(model):
    small, large = batch(SIZE, labels=False), batch((128, 256), labels=False)
    cost = model_cost(model, convention="macs")
    with torch.no_grad():
        routes = model.eval()(large)[0]["routes"]
    assert routes.image_size == (128, 256)
    at_size = Routes(routes.space, routes.gates, routes.rule, SIZE)
    expected = float(cost.executed(at_size)) / cost.open_cost(*SIZE)
    assert probe_of(model, large)() == pytest.approx(expected, rel=1e-9) and expected <= 1
    assert probe_of(model, small)() <= 1


def test_probe_equals_the_evaluator_on_the_same_images(street, model):
    cfg = small_config(*INPUT)
    loader = build_test_loader(cfg, VAL)
    evaluator = RoutingEvaluator(VAL, cost=RouteCosts(model))
    inputs = [x for images in loader for x in images]
    model.eval()
    for x in inputs:
        with torch.no_grad():
            evaluator.process([x], model([x]))
    expected = evaluator.evaluate()["routing"]["gmacs_avg"]
    assert probe_of(model, inputs)() * bounds(model)[1] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_probe_changes_nothing(model, training):
    model.train(training)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert any("running_mean" in name for name in before)
    share = probe_of(model, batch(SIZE, SIZE, labels=False))()
    assert isinstance(share, float) and 0 < share <= 1
    assert all(module.training == training for module in model.modules())
    after = model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert all(p.grad is None for p in model.parameters())


def test_failing_probe_leaves_the_mode_as_it_was(model):
    model.train()
    with pytest.raises(KeyError):
        probe_of(model, [{"no image": 1}])()
    assert model.training


# The hook ----------------------------------------------------------------------------------------


def hook_with(probe, *, period=1, target=0.5):
    loss = TargetBudgetLoss(CostModel(small_network(RoutingSpace.grid(1))))
    hook = BudgetTargetHook(loss, BudgetController(target), probe=probe, ceiling=4.0, period=period)
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.1, "initial_lr": 0.1}])
    hook.trainer = SimpleNamespace(
        iter=0, max_iter=50, storage=EventStorage(0), optimizer=optimizer
    )
    return hook, loss


def step(hook, iteration, rate=1.0):
    hook.trainer.iter = hook.trainer.storage.iter = iteration
    hook.trainer.optimizer.param_groups[0]["lr"] = 0.1 * rate
    hook.before_step()


def test_hook_probes_every_period_and_sets_the_pressure():
    probed = []

    def probe():
        probed.append(hook.trainer.iter)
        return 0.6 - hook.trainer.iter / 500

    hook, loss = hook_with(probe, period=10)
    pressures = {}
    for iteration in range(50):
        step(hook, iteration)
        pressures[iteration] = float(loss.pressure)
    assert probed == [0, 10, 20, 30, 40]
    assert all(pressures[i] == 0 for i in range(10))  # before START
    expected = BudgetController(0.5)
    for first in probed:
        value = expected.update(first / 50, 0.6 - first / 500)
        found = [pressures[i] for i in range(first, first + 10)]
        assert found == pytest.approx([value] * 10), first
    assert len(set(pressures.values())) == 5


def test_hook_logs_gmacs_at_the_iteration_of_the_probe():
    hook, loss = hook_with(lambda: 0.75)
    for iteration in (4, 5, 6, 30):
        step(hook, iteration)
    latest = {k: v for k, (v, _) in hook.trainer.storage.latest().items()}
    assert latest["routing/probed_gmacs"] == 3.0
    assert latest["routing/reference_gmacs"] == pytest.approx(4 * 0.5)
    assert latest["routing/budget_pressure"] == pytest.approx(float(loss.pressure))


def test_pressure_makes_up_for_the_learning_rate():
    pressures = []
    for rate in (1.0, 0.5):
        hook, loss = hook_with(lambda: 0.9)
        step(hook, 5, rate)
        step(hook, 10, rate)
        pressures.append(float(loss.pressure))
    assert pressures[1] == pytest.approx(2 * pressures[0]) and pressures[0] > 0


@pytest.mark.parametrize("stop", [2, 12, 33])
def test_resumed_hook_sets_identical_pressures(stop):
    generator = random.Random(7)
    seen = {i: generator.uniform(0.4, 1.0) for i in range(50)}
    whole, loss = hook_with(lambda: seen[whole.trainer.iter])
    for iteration in range(stop):
        step(whole, iteration, 1 - iteration / 50)
    resumed, other = hook_with(lambda: seen[resumed.trainer.iter])
    resumed.load_state_dict(whole.state_dict())
    assert float(other.pressure) == float(loss.pressure)
    for iteration in range(stop, 50):
        step(whole, iteration, 1 - iteration / 50)
        step(resumed, iteration, 1 - iteration / 50)
        assert float(other.pressure) == float(loss.pressure), iteration
    assert float(loss.pressure) != 0


def test_state_is_plain_numbers():
    hook, _ = hook_with(lambda: 0.9)
    for iteration in range(8):
        step(hook, iteration)
    assert {type(value) for value in hook.state_dict().values()} == {float}
