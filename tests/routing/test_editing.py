"""Edited routes and experts: what is closed, what follows from it, and errors that help."""

from __future__ import annotations

import pytest
import torch

from dynamic_routing.routing import Edge, Node, Routes, RoutingSpace, common_route, edited
from dynamic_routing.routing.editing import OPENED_STRENGTH, parse_edge

SPACE = RoutingSpace.grid(4)


def all_open(count=1, strength=0.5):
    return Routes(SPACE, torch.full((count, len(SPACE.edges)), strength), "absent", (64, 64))


def gate(routes, layer, scale, kind):
    return routes.gates[:, SPACE.edge_index[Edge(Node(layer, scale), kind)]]


def test_only_the_named_edges_change():
    routes = all_open(2)
    found = edited(routes, close=[(1, 0, "down"), Edge(Node(2, 1), "up")])
    assert (found.gates != routes.gates).sum(dim=1).tolist() == [2, 2]
    assert not gate(found, 1, 0, "down").any() and not gate(found, 2, 1, "up").any()
    assert (routes.gates == 0.5).all() and found.image_size == (64, 64)
    back = edited(found, open=[(1, 0, "down"), (0, 0, "keep")])
    assert (gate(back, 1, 0, "down") == OPENED_STRENGTH).all()
    assert (gate(back, 0, 0, "keep") == 0.5).all()  # was open: keeps its strength
    assert (gate(edited(found, open=[(1, 0, "down")], strength=0.2), 1, 0, "down") == 0.2).all()


def test_what_no_longer_exists_is_closed_too():
    found = edited(all_open(), close=[(-1, 0, "down")])
    assert not gate(found, 0, 1, "keep").any() and not gate(found, 0, 1, "up").any()
    assert not found.reached[0, SPACE.node_index[Node(0, 1)]]
    chain = edited(found, close=[(0, 0, "down")])
    assert not gate(chain, 1, 1, "keep").any()  # nothing is left at 1/8 of layer 1


def test_cell_that_is_reached_anew_hands_its_input_on():
    closed = edited(all_open(), close=[(-1, 0, "down")])
    found = edited(closed, open=[(-1, 0, "down")])
    node = SPACE.node_index[Node(0, 1)]
    assert found.reached[0, node] and not found.running[0, node]
    opened = edited(closed, open=[(-1, 0, "down"), (0, 1, "keep")])
    assert opened.running[0, node]


WRONG = {
    "there is no up edge of layer 1, 1/4; this cell has: keep, down": {"close": [(1, 0, "up")]},
    "there is no keep edge of layer 0, 1/32; layer 0 has cells at 1/4, 1/8": {
        "open": [(0, 3, "keep")]
    },
    "there is no keep edge of layer 9, 1/4; layers are 0 to 3": {"open": [(9, 0, "keep")]},
    "kind up, keep, down, got .1, 0, 'left'": {"open": [(1, 0, "left")]},
    "got .1, 0.": {"open": [(1, 0)]},
    "the keep edge of layer 1, 1/4 is both opened and closed": {
        "open": [(1, 0, "keep")],
        "close": [(1, 0, "keep")],
    },
    "the keep edge of layer 0, 1/8 cannot be opened: no open edge leads to its cell": {
        "open": [(0, 1, "keep")],
        "close": [(-1, 0, "down")],
    },
    "strength of an opened edge must be in .0, 1., got 0": {"strength": 0},
}


@pytest.mark.parametrize("message", WRONG)
def test_error_names_the_edge_and_what_there_is(message):
    with pytest.raises(ValueError, match=message):
        edited(all_open(), **WRONG[message])


def test_edges_are_read_as_the_pictures_name_them():
    assert parse_edge("5,1/8,down") == Edge(Node(5, 1), "down")
    assert parse_edge(" in, 1/4, keep ") == Edge(Node(-1, 0), "keep")
    for text in ("5,8,down", "5,1/8", "x,1/8,down", "5,1/8,left", "5,1/6,up", ""):
        with pytest.raises(ValueError, match="LAYER,SCALE,KIND"):
            parse_edge(text)


def test_expert_of_one_image_is_its_route():
    generator = torch.Generator().manual_seed(0)
    gates = torch.rand(1, len(SPACE.edges), generator=generator) * 0.5 + 0.5
    route = edited(Routes(SPACE, gates, "absent", (64, 64)), close=[(1, 1, "up"), (0, 1, "keep")])
    assert torch.allclose(common_route(route).gates, route.gates)


def test_expert_averages_the_strength_of_those_that_are_open_often_enough():
    routes = all_open(4)
    routes.gates[3] = 0.9
    few = edited(routes[:1], close=[(1, 0, "down")]).gates
    routes = Routes(SPACE, torch.cat([few, routes.gates[1:]]), "absent", (64, 64))
    half = common_route(routes, share=0.5)
    assert len(half) == 1 and float(gate(half, 1, 0, "down")) == pytest.approx((0.5 * 2 + 0.9) / 3)
    assert not common_route(routes, share=0.9).open[0, SPACE.edge_index[Edge(Node(1, 0), "down")]]
