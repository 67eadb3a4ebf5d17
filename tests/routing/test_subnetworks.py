"""Sub-networks: which paths are common, and a static copy computes what the dynamic one did."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import nn

from dynamic_routing.routing import (
    INITIAL,
    GateSpec,
    Node,
    Routes,
    RoutingNetwork,
    RoutingSpace,
    StemSpec,
    subnetworks,
)
from dynamic_routing.routing.gates import FixedGate
from dynamic_routing.routing.subnetworks import (
    CLASSIC,
    Subgraph,
    common_subgraph,
    copy_weights,
    read_subgraph,
)
from tests.routing.builders import random_images, randomise, relative_error, small_network

SPACE = RoutingSpace.grid(4)
SHIFT = {"up": -1, "keep": 0, "down": 1}
FOLDER = Path(subnetworks.__file__).parent / "subgraphs"


# An independent reading of a route, with dictionaries --------------------------------------------


def walk(triples, gates):
    """One image: (edges that deliver, cells that pass on, cells that run), layer by layer."""
    cells: dict[tuple[int, int], dict[str, float]] = {}
    for (layer, scale, kind), gate in zip(triples, gates, strict=True):
        cells.setdefault((layer, scale), {})[kind] = gate
    there, taken, passing, running = {(-1, 0)}, set(), set(), set()
    for layer, scale in sorted(cells):
        if (layer, scale) not in there:
            continue
        kinds = [kind for kind, gate in cells[layer, scale].items() if gate > 0]
        (running if kinds else passing).add((layer, scale))
        for kind in kinds or (["keep"] if "keep" in cells[layer, scale] else []):
            taken.add((layer, scale, kind))
            there.add((layer + 1, scale + SHIFT[kind]))
    return taken, passing, running


def pruned(edges, last):
    """Drop one useless edge after the other."""
    edges = set(edges)
    while True:
        targets = {(layer + 1, scale + SHIFT[kind]) for layer, scale, kind in edges}
        sources = {(layer, scale) for layer, scale, _ in edges}
        useless = {
            (layer, scale, kind)
            for layer, scale, kind in edges
            if (layer >= 0 and (layer, scale) not in targets)
            or (layer < last and (layer + 1, scale + SHIFT[kind]) not in sources)
        }
        if not useless:
            return edges
        edges -= useless


def expected_subgraph(routes, share):
    """{edge: strength} of the common paths."""
    triples = routes.space.to_edges()
    images = [walk(triples, gates) for gates in routes.gates.tolist()]
    counts = {t: sum(t in taken for taken, _, _ in images) for t in triples}
    needed = Fraction(str(share)) * len(images)
    strengths = {}
    for triple in pruned([t for t in triples if counts[t] >= needed], routes.space.num_layers - 1):
        cell = triple[:2]
        skipped = sum(cell in passing for _, passing, _ in images)
        ran = sum(cell in running for _, _, running in images)
        column = triples.index(triple)
        gates = [float(g[column]) for g in routes.gates if g[column] > 0]
        strengths[triple] = 0.0 if skipped > ran or not gates else math.fsum(gates) / len(gates)
    return strengths


def random_routes(space, count, *, seed, open_share, agreement=0.95):
    """Consistent routes that mostly agree: unreached cells are closed."""
    generator = torch.Generator().manual_seed(seed)
    edges = len(space.edges)
    base = torch.rand(edges, generator=generator) < open_share
    flips = torch.rand(count, edges, generator=generator) > agreement
    gates = torch.rand(count, edges, generator=generator, dtype=torch.float64).clamp(min=0.01)
    gates = gates * (base ^ flips)
    for row in gates:
        taken, _, running = walk(space.to_edges(), row.tolist())
        for column, (layer, scale, _) in enumerate(space.to_edges()):
            row[column] *= (layer, scale) in running
        assert taken
    return Routes(space, gates, "absent", (32, 64))


@pytest.mark.parametrize("share", [0.6, 0.95, 1.0])
@pytest.mark.parametrize("seed", range(12))
def test_common_paths_are_those_counted_image_by_image(seed, share):
    routes = random_routes(SPACE, 20, seed=seed, open_share=0.4 + 0.05 * seed)
    expected = expected_subgraph(routes, share)
    if not expected:
        with pytest.raises(ValueError, match="no output is reached"):
            common_subgraph(routes, share=share)
        return
    found = common_subgraph(routes, share=share)
    strengths = dict(zip(found.space.to_edges(), found.strengths.tolist(), strict=True))
    assert strengths == pytest.approx(expected, rel=1e-6)


def test_random_routes_of_the_test_above_prune_skip_and_fail():
    found = {"pruned": 0, "skipped": 0, "nothing": 0}
    for seed in range(12):
        routes = random_routes(SPACE, 20, seed=seed, open_share=0.4 + 0.05 * seed)
        for share in (0.6, 0.95, 1.0):
            strengths = expected_subgraph(routes, share)
            taken = [walk(SPACE.to_edges(), gates)[0] for gates in routes.gates.tolist()]
            often = [t for t in SPACE.to_edges() if sum(t in x for x in taken) >= share * 20]
            found["pruned"] += 0 < len(strengths) < len(often)
            found["skipped"] += 0.0 in strengths.values()
            found["nothing"] += not strengths
    assert all(found.values()), found


def open_routes(count=20):
    return torch.full((count, len(SPACE.edges)), 0.5)


@pytest.mark.parametrize("triple", [(-1, 0, "down"), (0, 0, "down"), (1, 2, "up"), (2, 1, "keep")])
def test_edge_that_19_of_20_images_take_is_common_and_18_are_too_few(triple):
    column = SPACE.to_edges().index(triple)
    for missing, common in [(0, True), (1, True), (2, False)]:
        gates = open_routes()
        gates[:missing, column] = 0
        found = common_subgraph(Routes(SPACE, gates, "absent", (32, 64)))
        assert (triple in found.space.to_edges()) == common, missing


def test_dead_ends_and_what_they_led_to_are_pruned():
    gates = open_routes(4)
    keep = SPACE.to_edges().index((3, 3, "keep"))
    for kind in ("up", "keep"):
        gates[:, SPACE.to_edges().index((2, 3, kind))] = 0
    gates[:, [i for i, (layer, s, _) in enumerate(SPACE.to_edges()) if (layer, s) == (1, 2)]] = 0.0
    gates[:, SPACE.to_edges().index((1, 2, "down"))] = 0.5  # leads to (2, 3), which only hands on
    gates[:, SPACE.to_edges().index((2, 2, "down"))] = 0
    full = common_subgraph(Routes(SPACE, gates, "absent", (32, 64)))
    assert {(1, 2, "down"), (2, 3, "keep"), (3, 3, "keep")} <= set(full.space.to_edges())
    strengths = dict(zip(full.space.to_edges(), full.strengths.tolist(), strict=True))
    assert strengths[2, 3, "keep"] == 0.0
    # Half of the images lose the last link of that chain: without an output all of it goes.
    chain = gates.clone()
    chain[:2, SPACE.to_edges().index((1, 2, "down"))] = 0
    chain[:2, SPACE.to_edges().index((1, 2, "keep"))] = 0.5
    chain[:2, keep] = 0
    rest = common_subgraph(Routes(SPACE, chain, "absent", (32, 64)), share=0.75)
    assert not {(2, 3, "keep"), (3, 3, "keep"), (1, 2, "down")} & set(rest.space.to_edges())
    assert Node(2, 3) not in rest.space.nodes and rest.space.scales == (0, 1, 2, 3)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.01, float("nan")])
def test_share_out_of_bounds_is_refused(share):
    with pytest.raises(ValueError, match=r"share must be in \(0, 1\], got"):
        common_subgraph(Routes(SPACE, open_routes(), "absent", (32, 64)), share=share)


def test_no_image_and_no_common_output_are_refused():
    with pytest.raises(ValueError, match="at least one image, got none"):
        common_subgraph(Routes(SPACE, open_routes(0), "absent", (32, 64)))
    space = RoutingSpace.from_edges(
        [(-1, 0, "keep"), (-1, 0, "down"), (0, 0, "keep"), (0, 1, "keep")]
    )
    gates = torch.tensor([[0.5, 0, 0.5, 0], [0, 0.5, 0, 0.5]])
    with pytest.raises(ValueError, match="no output is reached by 95% of the 2 images"):
        common_subgraph(Routes(space, gates[:, [1, 0, 2, 3]], "absent", (32, 64)))


# The static network ------------------------------------------------------------------------------


def static_copy(network, subgraph, **options):
    """A fixed-gate network over the sub-graph with the dynamic network's weights."""
    dtype = next(network.parameters()).dtype
    static = RoutingNetwork(
        subgraph.space,
        width=network.width,
        gate=GateSpec("fixed"),
        stem=StemSpec(middle_channels=8),
        **options,
    ).to(dtype)
    copy_weights(network, static, subgraph)
    return static.eval()


def coin_gates(network, seed, share_open):
    """Every gate a random constant, closed or open at a random strength."""
    generator = torch.Generator().manual_seed(seed)
    for node in network.space.nodes:
        predict = network.cell(node).gate.predict
        nn.init.zeros_(predict.weight)
        coins = torch.rand(predict.bias.shape, generator=generator)
        with torch.no_grad():
            predict.bias.copy_(torch.where(coins < share_open, 0.1 + coins, -1.0))


def check_same(network, subgraph, images, tolerance):
    """Static, dense and sparse, equals dynamic, on images that take exactly the sub-graph."""
    with torch.no_grad():
        expected = network.forward_sparse(images)
        static = static_copy(network, subgraph)
        for found in (static.forward_sparse(images), static.forward_dense(images)):
            assert found.features.keys() == expected.features.keys()
            for scale, feature in expected.features.items():
                assert relative_error(found.features[scale], feature) < tolerance, scale
    return expected


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-6)])
def test_static_copy_of_one_image_computes_the_same(dtype, tolerance):
    seen = {"passed on": 0, "absent output": 0, "compared": 0}
    for seed in range(12):
        network = small_network(seed=seed, bias=0.2 * (seed % 3) - 0.3).to(dtype)
        images = random_images(3, seed=seed).to(dtype)
        with torch.no_grad():
            routes = network(images).routes
        for i, image in enumerate(images):
            if not any(bool(routes[i].output_reached(s)) for s in SPACE.scales):
                continue
            subgraph = common_subgraph(routes[i])
            check_same(network, subgraph, image[None], tolerance)
            seen["compared"] += 1
            seen["passed on"] += 0.0 in subgraph.strengths.tolist()
            seen["absent output"] += not all(
                bool(routes[i].output_reached(s)) for s in SPACE.scales
            )
    assert all(seen.values()) and seen["compared"] > 20, seen


@pytest.mark.parametrize("seed", range(8))
def test_static_copy_of_a_group_with_one_route_computes_the_same_for_each(seed):
    network = small_network(seed=seed)
    coin_gates(network, seed, share_open=0.4 + 0.06 * seed)
    images = random_images(4, seed=seed)
    with torch.no_grad():
        routes = network(images).routes
    assert len({tuple(row) for row in routes.open.tolist()}) == 1
    try:
        subgraph = common_subgraph(routes)
    except ValueError:
        assert not any(bool(routes.output_reached(s).any()) for s in SPACE.scales)
        return
    check_same(network, subgraph, images, 1e-6)
    assert len(subgraph.space.edges) <= len(SPACE.edges)


def test_every_parameter_of_the_static_copy_is_trained():
    network = small_network(seed=1, bias=0.1)
    routes = network(random_images(1, seed=1)).routes
    static = static_copy(network, common_subgraph(routes.detach())).train()
    output = static(random_images(2, seed=5))
    sum(feature.square().sum() for feature in output.features.values()).backward()
    assert all(p.grad is not None for p in static.parameters())


def test_copied_weights_are_the_sources():
    network = small_network(seed=2)
    subgraph = common_subgraph(Routes(SPACE, open_routes(1), "absent", (32, 64)))
    static = static_copy(network, subgraph)
    own, weights = static.state_dict(), network.state_dict()
    assert {k for k in weights if ".gate." not in k} == {k for k in own if ".gate." not in k}
    assert all(torch.equal(own[k], weights[k]) for k in own if ".gate." not in k)
    assert static.cell(INITIAL).gate.strength.tolist() == [0.5, 0.5]


def fixed(space=SPACE, **options):
    options = {"width": 8, "stem": StemSpec(middle_channels=8), "gate": GateSpec("fixed")} | options
    return RoutingNetwork(space, **options).double()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (lambda: fixed(RoutingSpace.grid(3)), "does not have the sub-graph's space"),
        (lambda: fixed(width=4), r"lacks \d+ tensors, such as "),
        (lambda: fixed(operations=("sep_conv_3x3_x3",)), r"lacks \d+ tensors, such as cells"),
        (lambda: fixed(gate=GateSpec()), "needs fixed gates"),
    ],
    ids=["space", "width", "operations", "gates"],
)
def test_target_that_does_not_fit_is_refused(target, message):
    subgraph = Subgraph(SPACE, torch.ones(len(SPACE.edges)))
    with pytest.raises(ValueError, match=message):
        copy_weights(small_network(), target(), subgraph)


# Fixed gates -------------------------------------------------------------------------------------


def test_strengths_survive_a_round_trip_through_the_state_dict():
    source, target = fixed(), fixed()
    generator = torch.Generator().manual_seed(1)
    for node in SPACE.nodes:
        gate = source.cell(node).gate
        strength = torch.rand(gate.num_edges, generator=generator)
        gate.set_strength(torch.zeros_like(strength) if node == Node(1, 1) else strength)
    target.load_state_dict(source.state_dict())
    for node in SPACE.nodes:
        ours, theirs = target.cell(node).gate, source.cell(node).gate
        assert torch.equal(ours.strength, theirs.strength)
        assert ours.can_close == theirs.can_close == (node == Node(1, 1))
    randomise(source, seed=4)
    target.load_state_dict(source.state_dict())
    images = random_images(2)
    with torch.no_grad():
        first, second = source.eval()(images), target.eval()(images)
    assert all(torch.equal(first.features[s], second.features[s]) for s in first.features)


def test_closed_and_opened_again_is_noted():
    gate = FixedGate(2)
    assert not gate.can_close and gate(torch.zeros(3, 1, 2, 2)).tolist() == [[1.0, 1.0]] * 3
    for strength, closes in [((0, 0), True), ((0, 0.5), False), ((0, 0), True), ((1, 1), False)]:
        gate.set_strength(torch.tensor(strength, dtype=torch.float32))
        assert gate.can_close == closes


BAD = [float("nan"), -0.01, 1.01, float("inf")]


@pytest.mark.parametrize("value", BAD)
def test_strength_out_of_bounds_is_refused_set_or_loaded(value):
    gate = FixedGate(2)
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
        gate.set_strength(torch.tensor([0.5, value]))
    assert gate.strength.tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
        gate.load_state_dict({"strength": torch.tensor([0.5, value])})


def test_strengths_of_another_number_are_refused():
    with pytest.raises(ValueError, match=r"2 gates need as many strengths, got shape \(3,\)"):
        FixedGate(2).set_strength(torch.ones(3))


@pytest.mark.parametrize("run", ["forward_sparse", "forward_dense"])
def test_cell_of_strength_0_hands_its_input_on(run):
    chain = RoutingSpace.from_edges([(-1, 0, "keep"), (0, 0, "keep")])
    network = fixed(chain)
    randomise(network, seed=3)
    for node in chain.nodes:
        network.cell(node).gate.set_strength(torch.zeros(1))
    images = random_images(2)
    with torch.no_grad():
        output = getattr(network.eval(), run)(images)
        assert torch.equal(output.features[0], network.stem(images))
        assert not output.routes.running.any() and output.routes.reached.all()


# Files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSIC)
def test_classic_architectures_are_those_of_their_files(name):
    edges = json.loads((FOLDER / f"{name}.json").read_text())["edges"]
    space = read_subgraph(name, num_scales=4)
    assert sorted(map(list, space.to_edges())) == sorted(edges)
    assert space.num_layers == 16 and space.scales == (0, 1, 2, 3)
    assert all(edge in RoutingSpace.grid(16).edge_index for edge in space.edges)


def test_every_file_of_a_sub_graph_has_a_name():
    assert {path.stem for path in FOLDER.glob("*.json")} == set(CLASSIC)


@pytest.mark.parametrize("wrap", [lambda edges: edges, lambda edges: {"edges": edges, "note": ""}])
def test_sub_graph_file_is_a_list_or_an_object(tmp_path, wrap):
    edges = [[-1, 0, "down"], [0, 1, "keep"]]
    (tmp_path / "graph.json").write_text(json.dumps(wrap(edges)))
    space = read_subgraph(str(tmp_path / "graph.json"), num_scales=3)
    assert space.to_edges() == [tuple(edge) for edge in edges] and space.scales == (0, 1, 2)
    assert read_subgraph(tmp_path / "graph.json").scales == (0, 1)


BROKEN = {
    "no JSON": ("{", "is no JSON"),
    "binary": ("\x00", "is no JSON"),
    "a number": ("17", r"must hold a list of \[layer, scale, kind\]"),
    "an object without edges": ('{"edge": []}', r"must hold a list of \[layer, scale, kind\]"),
    "no edge": ("[]", "needs edges, got none"),
    "a pair": ("[[0, 1]]", r"an edge is \[layer, scale, kind\], got \[0, 1\]"),
    "a float": ('[[-1, 0.0, "keep"]]', "whole numbers"),
    "an unknown kind": ('[[-1, 0, "left"]]', "'left' is unknown; allowed: up, keep, down"),
    "not from the stem": ('[[0, 0, "keep"]]', "no output .* can be reached"),
    "out of nowhere": ('[[-1, 0, "keep"], [0, 0, "keep"], [0, 2, "keep"]]', "cannot be reached"),
    "a dead end": ('[[-1, 0, "keep"], [-1, 0, "down"], [0, 0, "keep"]]', "a dead end"),
    "twice": ('[[-1, 0, "keep"], [-1, 0, "keep"], [0, 0, "keep"]]', "lists an edge twice"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_sub_graph_file_is_refused(tmp_path, what):
    content, message = BROKEN[what]
    (tmp_path / "graph.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_subgraph(tmp_path / "graph.json")


@pytest.mark.parametrize("name", ["no_such_net", "", "."])
def test_name_that_is_neither_file_nor_architecture_is_refused(name):
    with pytest.raises(ValueError, match="neither a file nor one of fcn_32s, deeplab_v3, unet"):
        read_subgraph(name)


@pytest.mark.slow
def test_mostly_skipped_cells_leave_no_unreached_cell_behind():
    space = RoutingSpace.grid(6)
    sources = [space.node_index[e.source] for e in space.edges]
    generator = torch.Generator().manual_seed(0)
    for trial in range(200):
        gates = torch.rand(9, len(space.edges), generator=generator) - 0.7
        network_like = Routes(space, gates.clamp(min=0), "absent", (64, 64))
        reached = network_like.reached
        routes = Routes(space, network_like.gates * reached[:, sources], "absent", (64, 64))
        try:
            subgraph = common_subgraph(routes, share=0.2 + 0.01 * (trial % 30))
        except ValueError:
            continue
        static = Routes(subgraph.space, subgraph.strengths[None].float(), "absent", (64, 64))
        assert bool(static.reached.all())
