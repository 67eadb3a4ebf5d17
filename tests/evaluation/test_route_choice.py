"""Which route the demo's options name, and one line for each that is not there."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dynamic_routing.evaluation.gates_file import GatesFile, RouteClusters, save_gates
from dynamic_routing.evaluation.route_choice import RouteChoice, route_choice
from dynamic_routing.routing import Edge, Node, Routes, RoutingSpace, edited

SPACE = RoutingSpace.grid(3)
NAMES = ("/data/a.png", "/data/b.png", "/data/c:d.png", "/data/e.png")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Four images; three of cluster 0, of which two close an edge, none of cluster 2."""
    gates = torch.full((4, len(SPACE.edges)), 0.5)
    gates[1:, SPACE.edge_index[Edge(Node(1, 0), "down")]] = 0
    gates[0] = 0.8
    clusters = RouteClusters(
        np.array([0, 0, 0, 1]), np.zeros(4, np.float32),
        np.zeros((3, SPACE.activation_dim), np.float32),
    )  # fmt: skip
    file = GatesFile(
        space=SPACE, gates=gates, rule="absent", file_names=NAMES,
        image_sizes=np.full((4, 2), 64, np.int64), milliseconds=np.ones(4),
        image_ids=(None,) * 4, clusters=clusters,
    )  # fmt: skip
    return file, save_gates(tmp_path_factory.mktemp("odd : name") / "gates.npz", file)


def own(count=2):
    """Routes that open every edge, one an image."""
    ones = torch.ones(1, len(SPACE.edges))
    return [Routes(SPACE, ones, "absent", (64, 96)) for _ in range(count)]


def test_route_of_an_image_is_that_of_the_file_for_every_image(stored):
    file, path = stored
    choice = route_choice(route_of=f"{path}:c:d.png")
    routes = choice.routes_for(own(2))
    assert torch.equal(routes.gates, file.gates[2].expand(2, -1)) and "c:d.png" in choice.title


def test_expert_is_what_most_images_of_the_cluster_share(stored):
    file, path = stored
    choice = route_choice(expert=f"{path}:0")
    routes = choice.routes_for(own(1))
    column = SPACE.edge_index[Edge(Node(1, 0), "down")]
    expected = file.gates[:3].mean(dim=0)
    expected[column] = 0
    assert torch.allclose(routes.gates[0], expected) and "cluster 0 (3 images)" in choice.title


def test_edges_are_edited_in_the_own_or_the_given_route(stored):
    names = {"close": ["1,1/4,keep", "0,1/8,up"]}
    edges = [Edge(Node(1, 0), "keep"), Edge(Node(0, 1), "up")]
    alone = route_choice(**names)
    assert torch.equal(alone.routes_for(own(1)).gates, edited(own(1)[0], close=edges).gates)
    file, path = stored
    both = route_choice(route_of=f"{path}:a.png", open=["1,1/4,down"], **names)
    assert torch.equal(both.routes_for(own(1)).gates, edited(file[0], close=edges).gates)
    assert "opened 1,1/4,down" in both.title and "closed 1,1/4,keep 0,1/8,up" in both.title
    assert route_choice() is None


WRONG = {
    "GATES.npz:IMAGE, got": {"route_of": "gates.npz"},
    "gates file none.npz does not exist": {"route_of": "none.npz:a.png"},
    "no image x.png in the gates file; it has a.png": {"route_of": "{path}:x.png"},
    "must be the number of a cluster, from 0, got 'first'": {"expert": "{path}:first"},
    "no image is in cluster 2; images by cluster": {"expert": "{path}:2"},
    "give --route-of or --expert, not both": {"expert": "{path}:0", "route_of": "{path}:a.png"},
    "LAYER,SCALE,KIND such as": {"close": ["3"]},
}


@pytest.mark.parametrize("message", WRONG)
def test_what_is_not_there_is_said_in_one_line(stored, message):
    options = {k: v.format(path=stored[1]) if isinstance(v, str) else v
               for k, v in WRONG[message].items()}  # fmt: skip
    with pytest.raises(ValueError, match=message) as error:
        route_choice(**options)
    assert "\n" not in str(error.value)


def test_unknown_edge_is_refused_before_anything_runs():
    choice = RouteChoice("x", open=(Edge(Node(1, 5), "keep"),))
    with pytest.raises(ValueError, match="layer 1 has cells at 1/4, 1/8, 1/16"):
        choice.check(SPACE)
