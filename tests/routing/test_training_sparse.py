"""Training without what is closed for the whole batch gives what dense training gives."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.utils.checkpoint
from torch import Tensor, nn

from dynamic_routing.analysis.benchmark import count_macs, stored_activations
from dynamic_routing.routing import (
    OPERATIONS,
    UNREACHED_RULES,
    GateSpec,
    Routes,
    RoutingNetwork,
    RoutingSpace,
)
from dynamic_routing.routing.budget import TargetBudgetLoss
from dynamic_routing.routing.cost import CostModel
from tests.routing.builders import close_coarsest, close_everything, random_images, small_network

ACTIVATIONS = ["max_tanh", "sigmoid", "softmax", "fixed"]
GRADIENTS = 1e-4


@dataclass
class Step:
    """What one forward and backward left."""

    loss: Tensor
    gradients: dict[str, Tensor]
    buffers: dict[str, Tensor]
    routes: Routes


def step(network: RoutingNetwork, images: Tensor, *, skip: bool, with_budget: bool = True) -> Step:
    """Train one step on the features, the gates and the budget loss, whose pressure is negative."""
    network = network.train()
    network.skip_closed = skip
    network.set_progress(0.7)
    torch.manual_seed(3)
    output = network(images)
    loss = sum(f.square().mean() for f in output.features.values())
    if with_budget:
        budget = TargetBudgetLoss(CostModel(network))
        budget.pressure.fill_(-1.0)
        loss = loss + budget(output.routes)["loss_budget"]
    loss.backward()
    gradients = {n: p.grad for n, p in network.named_parameters()}
    buffers = {n: b.clone() for n, b in network.named_buffers()}
    return Step(loss.detach(), gradients, buffers, output.routes)


def compare(make, images: Tensor, *, with_budget: bool = True) -> tuple[Step, Step]:
    """Both ways on equal networks; they must agree."""
    sparse, dense = (
        step(make(), images, skip=skip, with_budget=with_budget) for skip in (True, False)
    )
    assert torch.equal(sparse.loss, dense.loss)
    assert torch.equal(sparse.routes.gates, dense.routes.gates)
    for name, expected in dense.gradients.items():
        found = sparse.gradients[name]
        assert found is not None, name
        scale = expected.abs().max().clamp(min=1e-12)
        assert ((found - expected).abs().max() / scale) < GRADIENTS, name
    return sparse, dense


@pytest.mark.parametrize("rule", UNREACHED_RULES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_losses_and_gradients_are_those_of_dense_training(rule, activation):
    closed = 0
    for seed in range(4):

        def make(seed=seed):
            network = small_network(
                gate=GateSpec(activation),
                unreached=rule,
                seed=seed,
                bias=[-0.6, 0.2][seed % 2],
                spread=1.0 if activation == "max_tanh" else 3000.0,
            )
            for node in network.space.nodes:  # the coins of drop path must fall alike
                network.cell(node).drop_rate = 0.3
            return network.float()

        images = random_images(2, 32, 64, seed).float()
        sparse, _ = compare(make, images, with_budget=seed < 2)
        closed += int((~sparse.routes.open.any(dim=0)).sum())
    assert closed > 10 or activation == "fixed"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_can_be_skipped(operation):
    def make():
        return small_network(RoutingSpace.grid(3), operations=(operation,), seed=1).float()

    compare(make, random_images(2, 32, 64).float(), with_budget=False)


@pytest.mark.parametrize("rule", UNREACHED_RULES)
@pytest.mark.parametrize("close", [close_coarsest, close_everything])
def test_extreme_routes_train(rule, close):
    def make():
        network = small_network(unreached=rule, seed=1, bias=0.8).float()
        close(network)
        return network

    sparse, _ = compare(make, random_images(2, 64, 64).float(), with_budget=False)
    assert not sparse.routes.open.all()


def test_running_statistics_of_skipped_norms_stay():
    def make():
        network = small_network(seed=1, bias=0.8).float()
        close_coarsest(network)
        return network

    before = dict(make().named_buffers())
    sparse, dense = compare(make, random_images(2, 64, 64).float())
    coarsest = [n for n in before if ".running_mean" in n and n.split(".")[1].endswith("_3")]
    assert len(coarsest) > 3
    for name in coarsest:
        assert torch.equal(sparse.buffers[name], before[name]), name
        assert not torch.equal(dense.buffers[name], before[name]), name
    stem = "stem.first.norm.running_mean"
    assert torch.equal(sparse.buffers[stem], dense.buffers[stem])


def test_forwards_without_autograd_skip_nothing():
    network = small_network(bias=-1.0).float().train()
    images = random_images(2, 64, 64).float()
    with torch.no_grad():
        quiet = count_macs(lambda: network(images))
    skipping = count_macs(lambda: network(images))
    network.skip_closed = False
    assert quiet == count_macs(lambda: network(images)) > skipping


def test_gates_with_a_straight_through_gradient_are_never_skipped():
    network = small_network(bias=-1.0).float().train()
    images = random_images(2, 64, 64).float()
    skipping = count_macs(lambda: network(images))
    network.cell(network.space.nodes[3]).gate.flat_when_closed = False
    assert count_macs(lambda: network(images)) > skipping


def test_nothing_is_stored_of_what_is_closed():
    network = small_network(bias=0.8).float().train()
    images = random_images(2, 64, 64).float()
    close_coarsest(network)

    def stored(skip: bool) -> int:
        network.skip_closed = skip
        return stored_activations(lambda: network(images), network)

    assert stored(True) < 0.9 * stored(False)
    close_everything(network)
    assert stored(True) < 0.4 * stored(False)


def test_logits_of_closed_gates_of_reached_cells_keep_their_gradient():
    network = small_network().float()
    close_everything(network)
    output = network.train()(random_images(2, 64, 64).float())
    output.routes.logits.sum().backward()
    first = network.cell(network.space.nodes[0]).gate.predict.bias.grad
    assert torch.equal(first, torch.full_like(first, 2.0))
    assert all(p.grad is not None for p in network.parameters())


def test_a_head_may_overwrite_the_features():
    gradients = []
    for skip in (True, False):
        network = small_network(seed=1).float().train()
        network.skip_closed = skip
        output = network(random_images(2, 32, 64).float())
        sum(f.relu_().sum() for f in output.features.values()).backward()
        gradients.append(network.stem.first.conv.weight.grad)
    assert gradients[1].abs().max() > 0
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_and_accumulated_gradients_are_those_of_dense_training(reentrant):
    found = []
    for skip in (True, False):
        network = small_network(seed=1).float().train()
        network.skip_closed = skip

        def run(x, network=network):
            output = network(x)
            return (*output.features.values(), output.routes.gates)

        for seed in range(2):
            images = random_images(2, 32, 64, seed).float().requires_grad_()
            outputs = torch.utils.checkpoint.checkpoint(run, images, use_reentrant=reentrant)
            sum(x.square().mean() for x in outputs).backward()
        found.append({n: p.grad for n, p in network.named_parameters()})
    for name, expected in found[1].items():
        scale = expected.abs().max().clamp(min=1e-6)
        assert (found[0][name] - expected).abs().max() / scale < GRADIENTS, name


def test_losses_under_autocast_are_those_of_dense_training():
    for seed in range(3):
        losses = []
        for skip in (True, False):
            network = small_network(seed=seed).float().train()
            network.skip_closed = skip
            with torch.autocast("cpu", torch.bfloat16):
                output = network(random_images(2, 32, 64, seed).float())
            loss = sum(f.float().square().mean() for f in output.features.values())
            losses.append((loss + output.routes.gates.mean()).detach())
        assert torch.equal(*losses)


def _two_ranks(rank: int, port: int) -> None:
    """Rank 1 closes what rank 0 opens; norms that synchronise would wait for ever otherwise."""
    store = dist.TCPStore("127.0.0.1", port, 2, rank == 0)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    torch.set_num_threads(1)
    network = small_network(RoutingSpace.grid(3), seed=1, bias=0.5).float().train()
    ran: list[str] = []
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d) and ".gate." not in name:
            module.register_forward_hook(lambda *_, name=name: ran.append(name))
    for node in network.space.nodes:
        if rank == 1 and node.scale == 0 and node.layer > 0:
            nn.init.constant_(network.cell(node).gate.predict.bias, -50.0)
    output = network(random_images(2, 64, 64, seed=rank).float())
    sum(f.sum() for f in output.features.values()).backward()
    everyone: list[list[str]] = [[], []]
    dist.all_gather_object(everyone, ran)
    assert everyone[0] == everyone[1] and len(ran) > 10
    assert all(p.grad is not None for p in network.parameters())
    dist.destroy_process_group()


@pytest.mark.slow
def test_every_rank_skips_the_same():
    listener = dist.TCPStore("127.0.0.1", 0, 1, True, wait_for_workers=False)
    port = listener.port
    del listener
    mp.spawn(_two_ranks, (port,), nprocs=2)
