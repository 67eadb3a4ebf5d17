"""Fixed routes: own routes give own outputs, in every way to run, and nothing stays behind."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from dynamic_routing.routing import (
    GateSpec,
    RoutingNetwork,
    RoutingSpace,
    StemSpec,
    common_route,
    edited,
    fixed_routes,
    prepare_for_inference,
    record_routes,
)
from dynamic_routing.routing.cost import CostModel
from dynamic_routing.routing.subnetworks import common_subgraph, copy_weights
from tests.routing.builders import assert_same, random_images, small_network

EXACT = 1e-6
IMAGES = random_images(4)
OTHERS = random_images(4, seed=7)


def executions(network):
    """Every way to run a network: name -> function of images."""
    return {
        "dense": (network, network.forward_dense),
        "sparse": (network, network),
        "prepared": (prepared := prepare_for_inference(network, grouped=False), prepared),
        "grouped": (grouped := prepare_for_inference(network, grouped=True), grouped),
    }


@pytest.fixture(scope="module", params=["absent", "released"])
def network(request):
    found = small_network(RoutingSpace.grid(5), unreached=request.param, seed=3)
    gates = found(IMAGES).routes.gates > 0
    assert len({tuple(row) for row in gates.tolist()}) >= 3
    assert request.param == "released" or not found(IMAGES).routes.reached.all()
    return found


@pytest.mark.parametrize("way", ["dense", "sparse", "prepared", "grouped"])
def test_own_route_gives_own_output(network, way):
    with torch.no_grad():
        module, run = executions(network)[way]
        own = run(IMAGES)
        with fixed_routes(module, own.routes.detach()):
            assert_same(run(IMAGES), own, tolerance=EXACT)
            assert_same(run(IMAGES), own, tolerance=EXACT)  # and again
        for i in range(len(IMAGES)):
            with fixed_routes(module, own.routes[i]):
                alone = run(IMAGES[i : i + 1])
            for scale, feature in own.features.items():
                assert torch.allclose(alone.features[scale], feature[i : i + 1], atol=EXACT)


@pytest.mark.parametrize("way", ["sparse", "prepared", "grouped"])
def test_routes_of_other_images_are_taken_as_the_dense_definition_takes_them(network, way):
    with torch.no_grad():
        routes = network(OTHERS).routes
        module, run = executions(network)[way]
        with fixed_routes(network, routes):
            expected = network.forward_dense(IMAGES)
        with fixed_routes(module, routes):
            assert_same(run(IMAGES), expected, tolerance=EXACT)
        assert torch.equal(expected.routes.gates, routes.gates)
        own = network(IMAGES).features
        assert all(not torch.allclose(expected.features[s], own[s]) for s in (1, 2))


def test_one_route_is_taken_by_every_image_of_any_batch(network):
    with torch.no_grad():
        route = network(OTHERS).routes[1]
        for module, run in executions(network).values():
            with fixed_routes(module, route):
                for count in (1, 3, 4):
                    gates = run(IMAGES[:count]).routes.gates
                    assert torch.equal(gates, route.gates.expand(count, -1))


def test_nothing_remains_after_the_with_nor_after_an_exception(network):
    with torch.no_grad():
        prepared = prepare_for_inference(network)
        for module in (network, prepared):
            own, state = module(IMAGES), {k: v.clone() for k, v in module.state_dict().items()}
            names = [name for name, _ in module.named_modules()]
            with pytest.raises(KeyError), fixed_routes(module, module(OTHERS).routes):
                raise KeyError("in between")
            with pytest.raises(ValueError, match="routes of 4 images .* batch of 3"):
                with fixed_routes(module, own.routes):
                    module(IMAGES[:3])
            assert_same(module(IMAGES), own, tolerance=1e-12)
            assert list(module.state_dict()) == list(state)
            assert all(torch.equal(state[k], v) for k, v in module.state_dict().items())
            assert [name for name, _ in module.named_modules()] == names
            assert not module._forward_pre_hooks and not module._forward_hooks


def test_failed_forward_leaves_the_next_one_right(network):
    with torch.no_grad():
        own = network(IMAGES)
        broken = network.cell(network.space.nodes[0])
        with fixed_routes(network, own.routes):
            handle = broken.operations[0].register_forward_pre_hook(lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                network(IMAGES)
            handle.remove()
            assert_same(network(IMAGES), own, tolerance=EXACT)


def test_recorder_sees_the_given_routes_at_the_size_that_ran(network):
    routes = network(OTHERS).routes[0]
    with torch.no_grad(), fixed_routes(network, routes), record_routes(network) as records:
        network(random_images(1, 64, 64))
    assert torch.equal(records[0].gates, routes.gates) and records[0].image_size == (64, 64)
    cost = CostModel(network)
    assert float(cost.executed(records[0])) > float(cost.executed(routes))


def test_expert_runs_as_the_static_network_that_is_cut_from_it():
    network = small_network(RoutingSpace.grid(5), seed=3)
    with torch.no_grad():
        every = network(IMAGES).routes
        subgraph = common_subgraph(every, share=0.5)
        cut = RoutingNetwork(
            subgraph.space,
            width=8,
            gate=GateSpec("fixed"),
            stem=StemSpec(middle_channels=8),
        )
        copy_weights(network, cut.double().eval(), subgraph)
        with fixed_routes(network, common_route(every, share=0.5)):
            replayed = network(OTHERS)
        expected = cut(OTHERS)
    for scale, feature in expected.features.items():
        assert torch.allclose(replayed.features[scale], feature, atol=EXACT)
    kept = [network.space.edge_index[e] for e in subgraph.space.edges]
    assert torch.equal(replayed.routes.gates[:, kept], expected.routes.gates)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax", "fixed"])
def test_gates_that_never_close_are_closed_by_a_given_route(activation):
    network = small_network(RoutingSpace.grid(3), gate=GateSpec(activation))
    with torch.no_grad():
        routes = network(IMAGES).routes
        node = network.space.nodes[1]
        route = edited(routes, close=network.space.out_edges(node))
        lean = prepare_for_inference(network)
        with fixed_routes(network, route), fixed_routes(lean, route):
            dense, sparse, fast = network.forward_dense(IMAGES), network(IMAGES), lean(IMAGES)
    assert_same(sparse, dense, tolerance=EXACT)
    assert_same(fast, dense, tolerance=EXACT)
    assert not dense.routes.running[:, 1].any() and routes.running[:, 1].all()


class Twice(nn.Module):
    """Runs its network for the even and for the odd images of a batch."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def routed_groups(self, batch):
        return [list(range(len(batch)))[0::2], list(range(len(batch)))[1::2]]

    def forward(self, batch):
        return [self.network(batch[group]) for group in self.routed_groups(batch)]


def test_model_that_runs_its_network_in_groups_gets_each_image_its_own_route(network):
    model = Twice(network)
    with torch.no_grad():
        routes = network(OTHERS).routes
        with fixed_routes(model, routes):
            for _ in range(2):
                even, odd = model(batch=IMAGES)
                assert torch.equal(even.routes.gates, routes.gates[0::2])
                assert torch.equal(odd.routes.gates, routes.gates[1::2])
            with pytest.raises(ValueError, match="routes of 4 images .* batch of 2"):
                model(IMAGES[:2])
    assert not model._forward_hooks and not model._forward_pre_hooks


def test_holder_of_several_networks_has_all_of_them_fixed(network):
    class Holder:
        def __init__(self):
            self.cfg, self.model, self.fast = {}, network, prepare_for_inference(network)

    holder, route = Holder(), network(OTHERS).routes[0].detach()
    route = replace(route, gates=route.gates.double())
    with torch.no_grad(), fixed_routes(holder, route):
        assert torch.equal(holder.model(IMAGES[:1]).routes.gates, route.gates)
        assert torch.equal(holder.fast(IMAGES[:1]).routes.gates, route.gates)


def test_training_along_a_given_route_is_refused():
    network = small_network(RoutingSpace.grid(3))
    routes = network(IMAGES).routes.detach()
    with fixed_routes(network.train(), routes), pytest.raises(ValueError, match="call eval"):
        network(IMAGES)


def test_misuse_is_refused_before_anything_changes(network):
    routes = network(IMAGES).routes.detach()
    small = small_network(RoutingSpace.grid(3))
    other_rule = "released" if routes.rule == "absent" else "absent"
    wrong = {
        "3 layers and .* edges, the network's has 5 layers": small(IMAGES).routes.detach(),
        f"rule '{other_rule}'": replace(routes, rule=other_rule),
        "at least one image": routes[:0],
        r"in \[0, 1\], got 1.5": replace(routes, gates=torch.full_like(routes.gates, 1.5)),
        r"in \[0, 1\], got nan": replace(routes, gates=routes.gates * torch.nan),
    }
    before = [name for name, _ in network.named_modules()]
    for message, bad in wrong.items():
        with pytest.raises(ValueError, match=message), fixed_routes(network, bad):
            raise AssertionError("entered")
    for target in (nn.Linear(1, 1), object, nn.ModuleList([network, small])):
        with pytest.raises(ValueError, match="routing network"), fixed_routes(target, routes):
            raise AssertionError("entered")
    assert [name for name, _ in network.named_modules()] == before
