"""Routing spaces: published sizes, and properties that hold for every space."""

from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamic_routing.routing import EDGE_KINDS, INITIAL, Edge, Node, RoutingSpace
from tests.routing.builders import DETECTION

LAYERS = st.integers(1, 12)
SCALES = st.integers(1, 6)


def by_layer(space: RoutingSpace) -> list[int]:
    """Cells per layer."""
    layers = [node.layer for node in space.grid_nodes]
    return [layers.count(layer) for layer in range(space.num_layers)]


@st.composite
def random_subspaces(draw: st.DrawFn) -> tuple[RoutingSpace, set[Edge], RoutingSpace]:
    """A grid, some of its edges with a path among them, and their sub-graph."""
    whole = RoutingSpace.grid(draw(st.integers(1, 7)), num_scales=draw(SCALES))
    chosen = draw(st.sets(st.sampled_from(whole.edges)))
    path = {Edge(INITIAL, "keep")}
    path |= {Edge(Node(layer, 0), "keep") for layer in range(whole.num_layers)}
    return whole, chosen | path, whole.subspace(chosen | path)


@pytest.mark.parametrize(
    ("space", "cells", "slots", "gates"),
    [
        (RoutingSpace.grid(16), [2, 3] + [4] * 14, 183, 147),
        (DETECTION, [2, 3] + [4] * 14 + [5], 198, 159),
        (RoutingSpace.grid(33), [2, 3] + [4] * 31, 387, 317),
    ],
    ids=["16", "17", "33"],
)
def test_published_spaces_have_the_published_sizes(space, cells, slots, gates):
    assert by_layer(space) == cells
    assert space.activation_dim == slots
    assert len(space.activation_columns) == len(space.activation_slots) == gates
    assert len(space.edges) == gates + 2
    assert len(space.nodes) == sum(cells) + 1


def test_detection_delivers_strides_4_to_64():
    assert DETECTION.output_scales == (0, 1, 2, 3, 4)
    assert [node.stride for node in DETECTION.nodes[-5:]] == [4, 8, 16, 32, 64]
    assert DETECTION.stride == 64 and RoutingSpace.grid(16).stride == 32
    assert Edge(Node(15, 3), "down") in DETECTION.edges


@given(LAYERS, SCALES)
def test_grid_follows_the_rule_of_its_scales(num_layers, num_scales):
    space = RoutingSpace.grid(num_layers, num_scales=num_scales)
    assert by_layer(space) == [min(layer + 2, num_scales) for layer in range(num_layers)]
    nodes = set(space.nodes)
    for node in space.nodes:
        kinds = [edge.kind for edge in space.out_edges(node)]
        if node.layer == num_layers - 1:
            assert kinds == ["keep"]
        else:
            fitting = [k for k in EDGE_KINDS if Edge(node, k).target in nodes]
            assert kinds == fitting
    assert [e.kind for e in space.in_edges(Node(0, 0))] == ["keep"]


@given(LAYERS, SCALES, st.data())
def test_grid_delivers_as_many_outputs_as_asked(num_layers, num_scales, data):
    most = (min(num_layers, num_scales) if num_layers > 1 else 1) + 1
    outputs = data.draw(st.integers(1, most))
    space = RoutingSpace.grid(num_layers, num_scales=num_scales, num_output_scales=outputs)
    assert space.output_scales == tuple(range(outputs))
    assert space.output_node(outputs - 1) == Node(num_layers, outputs - 1)


@given(random_subspaces())
def test_edges_survive_a_round_trip(case):
    _, _, space = case
    again = RoutingSpace.from_edges(space.to_edges(), num_scales=space.num_scales)
    assert again == space and hash(again) == hash(space)
    shuffled = [list(edge) for edge in reversed(space.to_edges())]
    assert RoutingSpace.from_edges(shuffled).edges == space.edges
    assert pickle.loads(pickle.dumps(space)) == copy.deepcopy(space) == space


@pytest.mark.parametrize("scale", [16, 10**12, 10**30])
def test_scale_without_end_is_refused_before_its_stride_fills_the_memory(scale):
    edges = [[-1, 0, "keep"], [0, 0, "keep"], [0, scale, "keep"]]
    with pytest.raises(ValueError, match=f"scale {scale} of layer 0 is none: the last one is 15"):
        RoutingSpace.from_edges(edges)


@given(random_subspaces())
def test_subspace_keeps_exactly_the_edges_on_a_path_to_an_output(case):
    whole, chosen, space = case
    assert space.num_layers == whole.num_layers
    ends = {n for n in _walk(chosen, {INITIAL}) if n.layer == whole.num_layers}
    backwards = _walk_back(chosen, ends)
    forwards = _walk(chosen, {INITIAL})
    expected = {e for e in chosen if e.source in forwards and e.target in backwards}
    assert set(space.edges) == expected
    assert whole.subspace(space.edges) == space


@given(random_subspaces())
def test_subspace_delivers_the_scales_of_the_whole_space(case):
    whole, _, space = case
    assert space.scales == whole.scales and space.stride == whole.stride
    own = RoutingSpace.from_edges(space.to_edges())
    assert own.scales == whole.scales[: len(own.scales)]
    assert set(own.scales) >= {node.scale for node in space.nodes}


@given(random_subspaces())
def test_columns_of_a_node_are_adjacent_and_in_order(case):
    _, _, space = case
    seen = []
    for node in space.nodes:
        columns = space.columns(node)
        edges = space.edges[columns]
        assert edges == space.out_edges(node)
        order = [EDGE_KINDS.index(e.kind) for e in edges]
        assert order == sorted(order)
        seen += range(columns.start, columns.stop)
    assert seen == list(range(len(space.edges)))
    assert all(space.edges[i] == e for e, i in space.edge_index.items())
    assert all(space.nodes[i] == n for n, i in space.node_index.items())


@given(random_subspaces())
def test_sources_run_before_targets(case):
    _, _, space = case
    position = space.node_index
    for edge in space.edges:
        if edge.target.layer < space.num_layers:
            assert position[edge.source] < position[edge.target]
            assert edge in space.in_edges(edge.target)


@given(random_subspaces())
def test_activation_slots_are_unique_and_fit(case):
    _, _, space = case
    slots = space.activation_slots
    assert len(set(slots)) == len(slots) == len(space.activation_columns)
    assert all(0 <= slot < space.activation_dim for slot in slots)
    assert space.activation_dim == 3 * len(space.grid_nodes)
    for column, slot in zip(space.activation_columns, slots):
        edge = space.edges[column]
        assert edge.source == space.grid_nodes[slot // 3] != INITIAL
        assert edge.kind == EDGE_KINDS[slot % 3]


@settings(max_examples=20)
@given(LAYERS, SCALES)
def test_stride_is_that_of_the_coarsest_feature(num_layers, num_scales):
    space = RoutingSpace.grid(num_layers, num_scales=num_scales)
    assert space.stride == 4 * 2 ** (min(num_layers + 1, num_scales) - 1)


def test_cells_that_lead_only_to_dropped_outputs_are_left_out():
    space = RoutingSpace.grid(4, num_output_scales=1)
    assert by_layer(space) == [2, 3, 2, 1]


def test_order_of_the_given_edges_does_not_matter():
    edges = RoutingSpace.grid(3).edges
    assert RoutingSpace(3, tuple(reversed(edges))).edges == edges


def _walk(edges: set[Edge], start: set[Node]) -> set[Node]:
    """Everything that can be reached, by repeated passes until nothing changes."""
    found = set(start)
    while new := {e.target for e in edges if e.source in found} - found:
        found |= new
    return found


def _walk_back(edges: set[Edge], ends: set[Node]) -> set[Node]:
    """Everything from which one of ``ends`` can be reached."""
    found = set(ends)
    while new := {e.source for e in edges if e.target in found} - found:
        found |= new
    return found
