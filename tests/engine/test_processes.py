"""Several gloo processes equal one: losses, weights, centres; and no parameter is waited for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from detectron2.engine import create_ddp_model
from detectron2.utils import comm
from torch import nn

from dynamic_routing.compat import unsynchronised_buffers
from dynamic_routing.engine.parallel import SharedStatistics
from dynamic_routing.engine.train_step import TrainStep
from dynamic_routing.routing import record_routes
from tests.engine.divdr_training import DIVDR, PreciseTrainer, short_training
from tests.engine.processes import in_processes
from tests.engine.steps import run, sgd
from tests.modeling.builders import batch, small_model
from tests.modeling.detectors import FASTER, RETINA, detection_batch, small_detector

TOLERANCE = 1e-5
"""Of losses, weights and centres, relative; the README promises it."""

BUDGET = "MODEL.DYNAMIC_ROUTING.BUDGET."
BOTH_LOSSES = f"{BUDGET}LAMBDA 0.5 {BUDGET}START 0.0 {BUDGET}RAMP 0.0 {DIVDR}START_ITER 0".split()
NORM = ("MODEL.DYNAMIC_ROUTING.NORM", "MODEL.SEM_SEG_HEAD.NORM")

pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # fork, 3.12


def training(folder, *overrides):
    """What a short training with a budget and clusters ends with, in this process.

    In float64, since steps magnify the rounding of float32: a gate opens in one run only.
    """
    trainer = short_training(folder, *BOTH_LOSSES, *overrides, kind=PreciseTrainer)
    return SimpleNamespace(
        losses=torch.tensor(trainer.losses),
        state={k.removeprefix("module."): v for k, v in trainer.model.state_dict().items()},
        centres=trainer.loss.centres.clone(),
    )


def norms(name):
    return tuple(part for key in NORM for part in (key, name))


def close(a, b):
    return torch.allclose(a.double(), b.double(), rtol=TOLERANCE, atol=TOLERANCE / 10)


def check_equal(several, one, *, without=()):
    """Every process ends where the only one does."""
    assert close(several[0].losses, one.losses)
    for process in several:
        assert close(process.centres, one.centres)
        for name, value in one.state.items():
            if not any(part in name for part in without):
                assert close(process.state[name], value), name


@pytest.mark.parametrize(
    ("count", "norm", "overrides"),
    [
        (2, "FrozenBN", ("SOLVER.MAX_ITER", "6")),
        pytest.param(2, "LN", (), marks=pytest.mark.slow),
        pytest.param(3, "FrozenBN", ("SOLVER.IMS_PER_BATCH", "6"), marks=pytest.mark.slow),
    ],
)
def test_processes_end_where_one_ends(tmp_path, count, norm, overrides):
    options = (*norms(norm), *overrides)
    one = training(tmp_path / "one", *options)
    assert one.losses.max() > 0 and one.centres.abs().sum() > 0
    several = in_processes(count, training, tmp_path / "run", *options, folder=tmp_path)
    check_equal(several, one)


@pytest.mark.slow
def test_processes_with_synchronised_norms_start_as_one_with_batch_norm(tmp_path):
    """Detectron2's norm takes the variance as a difference of squares, in float32.

    Batch norms pass such differences on, larger in every step; so one step is compared. Running
    variances are biased ones there, and batches are not counted.
    """
    few = ("SOLVER.MAX_ITER", "1", f"{DIVDR}START_ITER", "0")
    one = training(tmp_path / "one", *norms("BN"), *few)
    options = (*norms("naiveSyncBN"), *few)
    several = in_processes(2, training, tmp_path / "run", *options, folder=tmp_path)
    check_equal(several, one, without=("running_var", "num_batches_tracked"))


def wrapped(model):
    return create_ddp_model(model.train(), device_ids=None, **unsynchronised_buffers())


def two_steps(build, inputs):
    """Two steps of a model on this process's images: its gradients and weights afterwards."""
    torch.manual_seed(0)
    model = wrapped(build())
    mine = inputs[comm.get_rank() :: comm.get_world_size()]
    step = TrainStep(model, [mine] * 2, sgd(model, lr=0.01))
    run(step, times=2)
    return {
        "unread": [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None],
        "zero": [n for n, p in model.named_parameters() if p.requires_grad and not p.grad.any()],
        "weights": [p.detach().clone() for p in model.parameters()],
    }


FROZEN = ("MODEL.DYNAMIC_ROUTING.NORM", "FrozenBN", "MODEL.FPN.NORM", "FrozenBN")


def segmentation():
    return small_model(seed=1)


def faster_rcnn():
    return small_detector(*FASTER, *FROZEN, seed=1)


def retinanet():
    return small_detector(*RETINA, *FROZEN, seed=1)


SIZES = ((64, 64), (64, 64))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "inputs"),
    [
        (segmentation, batch(*SIZES)),
        (faster_rcnn, detection_batch(*SIZES)),
        (retinanet, detection_batch(*SIZES)),
    ],
    ids=["segmentation", "faster_rcnn", "retinanet"],
)
def test_no_unread_parameter_holds_processes_up(tmp_path, build, inputs):
    first, second = in_processes(2, two_steps, build, inputs, folder=tmp_path)
    assert not first["unread"] and not second["unread"]
    assert all(torch.equal(a, b) for a, b in zip(first["weights"], second["weights"]))


def test_unread_parameters_get_zeros_on_one_process_too():
    found = two_steps(retinanet, detection_batch(*SIZES))
    assert not found["unread"]
    # Nobody reads p2: its projection and the way to it.
    assert "backbone.neck.lateral.p2.weight" in found["zero"]


def one_side_closed(brightness):
    """Steps of a model whose gates are open for bright images and closed for dark ones."""
    torch.manual_seed(0)
    model = small_model()
    for node in model.backbone.network.space.nodes:
        gate = model.backbone.network.cell(node).gate
        closed = node.layer > 0 and brightness[comm.get_rank()] == "dark"
        nn.init.constant_(gate.predict.bias, -5.0 if closed else 1.5)
    model.requires_grad_(True)
    # The processes' own biases, which DistributedDataParallel would make equal.
    ignored = [n for n, _ in model.named_parameters() if n.endswith("predict.bias")]
    nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, ignored)
    model = wrapped(model)
    step = TrainStep(model, [batch((64, 64))] * 2, sgd(model, lr=0.01))
    with record_routes(model) as records:
        run(step, times=2)
    weights = {n: p.detach() for n, p in model.named_parameters() if "predict.bias" not in n}
    return float(records[0].open.float().mean()), weights


def test_gates_closed_on_one_process_hold_nobody_up(tmp_path):
    sides = ("bright", "dark")
    (bright, a), (dark, b) = in_processes(2, one_side_closed, sides, folder=tmp_path)
    assert dark < 0.5 < bright
    assert all(torch.equal(a[name], b[name]) for name in a)


def statistics_around_a_checkpoint():
    """A norm's running mean before and behind the checkpoint that comes every second iteration."""
    model = nn.BatchNorm2d(1)
    model.running_mean.fill_(comm.get_rank() + 1.0)
    hook, found = SharedStatistics(model, period=2), []
    for iteration in (0, 1):
        hook.trainer = SimpleNamespace(iter=iteration, max_iter=9)
        hook.after_step()
        found.append(float(model.running_mean))
    return found


def test_every_process_goes_on_from_the_statistics_of_a_checkpoint(tmp_path):
    found = in_processes(2, statistics_around_a_checkpoint, folder=tmp_path)
    assert found == [[1.0, 1.0], [2.0, 1.0]]
