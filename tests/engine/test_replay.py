"""Replays of predictions: own and other output beside each other, in memory and in files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from detectron2.engine import DefaultPredictor
from PIL import Image

from dynamic_routing.engine.predictor import Predictor
from dynamic_routing.engine.replay import (
    ReplayPredictor,
    ReplayWriter,
    side_by_side,
    summarise_replay,
)
from dynamic_routing.evaluation.gates_file import load_gates
from dynamic_routing.evaluation.route_choice import RouteChoice
from dynamic_routing.modeling.cost import RouteCosts
from dynamic_routing.modeling.prepared import prepare_model
from dynamic_routing.routing import Edge, Node, Routes, RoutingSpace, edited, fixed_routes
from tests.engine.test_prediction_files import SIZE, files, frame, output, writer
from tests.engine.test_predictor import TEST_SIZE, pictures, save
from tests.evaluation import predicted
from tests.modeling.builders import batch, small_config, small_model
from tests.modeling.detectors import MASK, RETINA, detection_batch, small_detector

EXACT = 1e-6
MIXED = ((33, 47), (64, 96), (70, 50), (33, 47), (128, 64))


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    weights = save(small_model(seed=2), tmp_path_factory.mktemp("trained"))
    return Predictor(small_config(*TEST_SIZE), weights=weights)


def together(outputs):
    """The routes of several outputs as one."""
    choice = RouteChoice("own")
    return choice.routes_for([out["routes"] for out in outputs])


def test_own_routes_give_the_own_output_in_a_batch_of_several_sizes(predictor):
    images = pictures(*MIXED)
    own = predictor(images)
    assert len({tuple((out["routes"].gates > 0)[0].tolist()) for out in own}) > 1
    with fixed_routes(predictor, together(own)):
        again = predictor(images)
    for a, b in zip(again, own, strict=True):
        assert torch.allclose(a["sem_seg"], b["sem_seg"], atol=EXACT)
        assert torch.equal(a["routes"].gates, b["routes"].gates)


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("kind", [None, MASK, RETINA])
def test_every_model_takes_given_routes_image_by_image(kind, prepared):
    if kind is None:
        model, inputs = small_model(seed=2), batch((64, 64), (64, 96), (64, 64), labels=False)
    else:
        model = small_detector(*kind, seed=2)
        inputs = detection_batch((64, 64), (64, 96), (64, 64), labels=False)
    model = prepare_model(model.eval()) if prepared else model.eval()
    with torch.no_grad():
        own = model(inputs)
        swapped = together(list(reversed(own)))
        with fixed_routes(model, swapped):
            other = model(inputs)
        with fixed_routes(model, together(own)):
            again = model(inputs)
    for i, out in enumerate(other):
        assert torch.allclose(out["routes"].gates, own[2 - i]["routes"].gates)
        assert out["routes"].image_size == own[i]["routes"].image_size
    for a, b in zip(again, own, strict=True):
        if kind is None:
            assert torch.allclose(a["sem_seg"], b["sem_seg"], atol=EXACT)
        else:
            assert torch.allclose(a["instances"].scores, b["instances"].scores, atol=EXACT)
            assert len(a["instances"]) == len(b["instances"])


def test_detectrons_own_predictor_is_taken_too(tmp_path):
    cfg = small_config(*TEST_SIZE)
    cfg.defrost()
    cfg.MODEL.WEIGHTS = save(small_model(seed=2), tmp_path)
    stock = DefaultPredictor(cfg)
    first, second = pictures((64, 96), (64, 96))
    route = stock(first)["routes"]
    with fixed_routes(stock, route):
        assert torch.equal(stock(second)["routes"].gates, route.gates)
    assert not torch.equal(stock(second)["routes"].gates, route.gates)


def test_replay_predicts_along_both_routes(predictor):
    images = pictures(*MIXED)
    plain = predictor(images)
    closed = Edge(Node(-1, 0), "down")
    found = ReplayPredictor(predictor, RouteChoice("closed", close=(closed,)))(images)
    cost = RouteCosts(predictor.model)
    for image, out, own in zip(images, found, plain, strict=True):
        assert torch.equal(out["sem_seg"], own["sem_seg"])
        expected = edited(own["routes"], close=[closed])
        assert torch.equal(out["replayed"]["routes"].gates, expected.gates)
        with fixed_routes(predictor, expected):
            (alone,) = predictor([image])
        assert torch.allclose(out["replayed"]["sem_seg"], alone["sem_seg"], atol=1e-5)
        before, after = (float(cost(x["routes"])["gmacs"]) for x in (own, out["replayed"]))
        assert after < before or torch.equal(expected.gates, own["routes"].gates)
    assert ReplayPredictor(predictor, RouteChoice("own"))([]) == []


def test_route_of_another_network_is_refused_before_anything_runs(predictor):
    space = RoutingSpace.grid(4)
    other = Routes(space, torch.ones(1, len(space.edges)), "absent", (64, 64))
    with pytest.raises(ValueError, match="the routes are of a space with 4 layers"):
        ReplayPredictor(predictor, RouteChoice("x", base=other))
    with pytest.raises(ValueError, match="there is no keep edge of layer 9"):
        ReplayPredictor(predictor, RouteChoice("x", close=(Edge(Node(9, 0), "keep"),)))


def replayed(seed, **more):
    """An output of one seed whose replay took the route of another one."""
    return output(seed, **more, replayed=output(seed + 100, **more) | {"milliseconds": 5.0})


@pytest.mark.slow
def test_files_say_what_both_routes_cost_and_what_changed(tmp_path):
    scores = predicted.label_scores(*SIZE)
    said = replayed(0, sem_seg=scores, instances=predicted.instances(*SIZE))
    said["replayed"]["sem_seg"] = scores.flip(0)  # class 2 becomes 0, class 1 stays
    said["replayed"]["instances"] = predicted.instances(*SIZE)[[1]]
    with ReplayWriter(
        tmp_path, title="expert of cluster 1", classes=predicted.CLASSES, cost=predicted.route_cost
    ) as target:
        target.write(frame("a"), said)
        target.write(frame("b"), replayed(1))
    content = json.loads((tmp_path / "replay.json").read_text())
    first, second = content["images"]
    assert content["route"] == "expert of cluster 1" and first["file_name"] == "/photos/a.png"
    for who, seed, ms in (("own", 0, 2.0), ("replayed", 100, 5.0)):
        gmacs = float(predicted.routes(seed).gates.sum())
        assert first[who] == {"gmacs": pytest.approx(gmacs), "ms": ms,
                              "paper_gflops": pytest.approx(2 * gmacs)}  # fmt: skip
    assert first["changed"] == {"pixels": (SIZE[0] // 2) / SIZE[0],
                                "instances": pytest.approx(1 / 3)}  # fmt: skip
    assert second["changed"] == {}
    own, other = load_gates(tmp_path / "gates.npz"), load_gates(tmp_path / "replay_gates.npz")
    assert own.file_names == other.file_names == ("/photos/a.png", "/photos/b.png")
    assert np.array_equal(other.gates[1], predicted.routes(101).gates[0])
    with Image.open(tmp_path / "a_prediction.png") as picture:
        assert picture.width == 2 * 1200 + 12 and picture.height > 800
    line = summarise_replay(content["images"])
    assert "2 -> 5 ms" in line and "instances changed" in line and "% of the pixels" in line


def test_plain_writer_is_as_before_and_knows_no_replay(tmp_path):
    with writer(tmp_path) as target:
        target.write(frame(), output())
    assert "replay.json" not in files(tmp_path)


def test_pictures_of_different_heights_stand_side_by_side():
    left, right = np.full((3, 4, 3), 7, np.uint8), np.full((5, 2, 3), 9, np.uint8)
    page = side_by_side(left, right)
    assert page.shape == (5, 4 + 12 + 2, 3)
    assert (page[:3, :4] == 7).all() and (page[3:, :4] == 255).all() and (page[:, -2:] == 9).all()
