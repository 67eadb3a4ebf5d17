"""A batch in parts equals the whole batch: with the losses on routes, and in several processes."""

from __future__ import annotations

import pytest
import torch
from detectron2.engine import create_ddp_model
from detectron2.utils import comm
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from dynamic_routing.compat import unsynchronised_buffers
from dynamic_routing.divdr.loss import DivDRLoss
from dynamic_routing.engine.train_step import TrainStep, split
from dynamic_routing.modeling import ConfigError
from tests.engine.processes import in_processes
from tests.engine.steps import run, sgd
from tests.modeling.builders import batch, small_config, small_model

TOLERANCE = 1e-6
IMAGES = 4
INPUTS = batch(*[(32, 32)] * IMAGES)
LOSSES = (
    "MODEL.DYNAMIC_ROUTING.DIVDR.NUM_CLUSTERS 2 MODEL.DYNAMIC_ROUTING.DIVDR.MARGIN 4 "
    "MODEL.DYNAMIC_ROUTING.BUDGET.LAMBDA 0.5 MODEL.DYNAMIC_ROUTING.BUDGET.START 0.0 "
    "MODEL.DYNAMIC_ROUTING.BUDGET.RAMP 0.0 "
    "MODEL.DYNAMIC_ROUTING.NORM LN MODEL.SEM_SEG_HEAD.NORM LN"
).split()

pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # fork, 3.12


def steps(parts, *, processes=1):
    """Weights, losses and exchanges after two clipped steps in float64 on all images."""
    model = small_model(*LOSSES, seed=1, bias=0.3).double().train()
    (loss,) = [m for m in model.modules() if isinstance(m, DivDRLoss)]
    generator = torch.Generator().manual_seed(0)
    loss.set_clusters(torch.rand(loss.centres.shape, generator=generator), 0.5)
    exchanges = []
    wrapped = create_ddp_model(model, device_ids=None, **unsynchronised_buffers())
    if processes > 1:
        wrapped.register_comm_hook(exchanges, counted)
    mine = INPUTS[comm.get_rank() * IMAGES // processes :][: IMAGES // processes]
    step = TrainStep(wrapped, [mine] * 2, sgd(model, lr=0.01), clip_norm=1.0, accumulation=parts)
    latest = {name: value for name, (value, _) in run(step, times=2).latest().items()}
    losses = {name: latest.get(name) for name in ("loss_divdr", "loss_budget", "loss_sem_seg")}
    return [p.detach() for p in model.parameters()], losses, len(exchanges)


def counted(exchanges, bucket):
    exchanges.append(bucket.index())
    return allreduce_hook(None, bucket)


@pytest.fixture(scope="module")
def whole():
    return steps(1)


def check_equal(found, whole):
    for a, b in zip(found[0], whole[0]):
        assert (a - b).abs().max() <= TOLERANCE * b.abs().max().clamp(min=1e-3)
    assert found[1] == pytest.approx(whole[1], rel=TOLERANCE)
    assert min(whole[1].values()) > 0


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_parts_equal_the_whole_batch(whole, parts):
    """Three parts of four images are of unequal sizes."""
    check_equal(steps(parts), whole)


def two(parts):
    return steps(parts, processes=2)


def test_parts_in_two_processes_equal_the_whole_batch_and_exchange_once(whole, tmp_path):
    found = in_processes(2, two, 2, folder=tmp_path)
    check_equal(found[0], whole)
    assert all(torch.equal(a, b) for a, b in zip(found[0][0], found[1][0]))
    # Two steps, and gradients travel once in each, however many parts there are.
    assert found[0][2] == 2


@pytest.mark.parametrize(("count", "parts"), [(4, 1), (4, 2), (5, 3), (7, 7)])
def test_split_keeps_every_image_in_order(count, parts):
    found = split(list(range(count)), parts)
    assert [i for part in found for i in part] == list(range(count)) and len(found) == parts
    assert max(map(len, found)) - min(map(len, found)) <= 1


def test_too_few_images_are_refused():
    with pytest.raises(ValueError, match="ACCUMULATION_STEPS 3 needs .* got 2"):
        split([1, 2], 3)
    with pytest.raises(ConfigError, match="SOLVER.ACCUMULATION_STEPS must be at least 1, got 0"):
        small_config("SOLVER.ACCUMULATION_STEPS", "0")
